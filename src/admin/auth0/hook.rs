//! Client of extensibility Hooks and their secrets.

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

use super::Auth0Access;
use super::request::{Auth0Error, Auth0Request};
use crate::admin::absence::find_listed;
use crate::admin::error::ErrorDetail;
use crate::admin::pages::{PageCollector, PageShape};
use crate::admin::response::{expect_id, object_id, parse_object, unexpected_response};
use crate::admin::{AdminError, AdminMemory, ExternalClient, ListElement, ListFilter, ListScope, Listing};

const PATH: &str = "hooks";
const PAGE_SIZE: usize = 100;
/// Without totals the API returns a bare list.
const PAGE: PageShape =
    PageShape { list: "hooks", members: &["hooks", "total"], is_lua: false, may_be_bare: true };

/// The desired state of a hook. Has no `Debug`, because it contains secrets.
#[derive(Clone)]
pub struct HookBody {
    pub name: String,
    pub trigger: String,
    pub script: String,
    pub dependencies: BTreeMap<String, String>,
    pub enabled: bool,
    pub secrets: BTreeMap<String, SecretString>,
}

impl HookBody {
    /// Returns the hook with its secrets in the form of the comparison. `secretNames` is separate, because the API returns
    /// the names but not the values.
    pub fn to_value(&self) -> Value {
        let names: Vec<&String> = self.secrets.keys().collect();
        json!({"name": self.name, "triggerId": self.trigger, "script": self.script, "dependencies": self.dependencies,
               "enabled": self.enabled, "secretNames": names, "secrets": self.secret_values(self.secrets.keys())})
    }

    /// The paths in `to_value` of the values that the API does not return.
    pub fn secret_paths(&self) -> Vec<String> {
        self.secrets.keys().map(|name| format!("secrets.{name}")).collect()
    }

    fn secret_texts(&self) -> Vec<&str> {
        self.secrets.values().map(ExposeSecret::expose_secret).collect()
    }

    fn member(&self, name: &str) -> Option<Value> {
        match name {
            "name" => Some(json!(self.name)),
            "triggerId" => Some(json!(self.trigger)),
            "script" => Some(json!(self.script)),
            "dependencies" => Some(json!(self.dependencies)),
            "enabled" => Some(json!(self.enabled)),
            _ => None,
        }
    }

    /// Returns a request body with these members.
    fn request_body<'a>(&self, members: impl IntoIterator<Item = &'a str>) -> Map<String, Value> {
        members.into_iter().filter_map(|name| Some((name.to_owned(), self.member(name)?))).collect()
    }

    /// Returns the values of these secrets by name.
    fn secret_values<'a>(&self, names: impl IntoIterator<Item = &'a String>) -> Value {
        let values =
            names.into_iter().filter_map(|n| Some((n.clone(), json!(self.secrets.get(n)?.expose_secret()))));
        Value::Object(values.collect())
    }
}

/// Adds the names of its secrets to an observed hook, in the form of `HookBody::to_value`.
fn with_secret_names(mut hook: Value, names: &BTreeSet<String>) -> Value {
    if let Some(members) = hook.as_object_mut() {
        members.insert("secretNames".into(), json!(names));
        members.insert("secrets".into(), json!({}));
    }
    hook
}

/// Returns true if the listed hook is enabled at this trigger.
fn is_enabled_at(element: &ListElement<'_>, trigger: &str) -> bool {
    element.parse().is_some_and(|hook| {
        hook.get("enabled").and_then(Value::as_bool) == Some(true)
            && hook.get("triggerId").and_then(Value::as_str) == Some(trigger)
    })
}

/// A tenant's extensibility Hooks.
#[derive(Clone, Debug)]
pub struct HookClient {
    access: Auth0Access,
}

impl ExternalClient for HookClient {
    type Desired = HookBody;

    /// A list contains neither scripts nor secrets.
    const LIST_IS_COMPLETE: bool = false;
    const CONFIRMS_DELETES: bool = true;
    const SECRETS_READ_BACK: bool = false;

    fn list_scope(&self) -> ListScope {
        self.access.list_scope(PATH)
    }

    fn memory(&self) -> AdminMemory {
        self.access.http.memory()
    }

    async fn list(&self, filter: ListFilter<'_>) -> Result<Listing, AdminError> {
        let mut pages = PageCollector::new(filter, self.memory());
        for page in 0.. {
            let query = format!("page={page}&per_page={PAGE_SIZE}&include_totals=true");
            let request = Auth0Request { path: &[PATH], query: Some(&query), ..Auth0Request::default() };
            let response = self.access.send(Method::GET, request).await.map_err(list_error)?;
            let page = pages.add_page(&response, &PAGE)?;
            let Some(count) = page.objects else {
                return Err(unexpected_response(&response, "the list response has no hooks"));
            };
            let total = page.member("total").and_then(Value::as_u64);
            let is_complete = total.is_some_and(|total| u64::try_from(pages.len()).is_ok_and(|n| n >= total));
            if count < PAGE_SIZE || is_complete {
                break;
            }
        }
        Ok(pages.finish())
    }

    /// Reads a hook with the names of its secrets, in two calls.
    async fn observe(&self, id: &str) -> Result<Option<Value>, AdminError> {
        let hook_with_names = async {
            let hook = self.get_hook(id).await?;
            Ok(with_secret_names(hook, &self.secret_names(id).await?))
        };
        match hook_with_names.await {
            Ok(hook) => Ok(Some(hook)),
            // The hook does not exist, or was deleted between the two calls.
            Err(error) => match self.resolve_error(id, error).await {
                ResolvedError::Absent(_) => Ok(None),
                ResolvedError::Failed(error) => Err(error),
            },
        }
    }

    async fn check_create(&self, desired: &HookBody) -> Result<(), AdminError> {
        if desired.enabled { self.check_trigger_free(desired, None).await } else { Ok(()) }
    }

    /// Creates a hook. Enables a hook with secrets only after it has set them. Otherwise the hook would briefly run
    /// without them.
    async fn create(&self, _id: Option<&str>, desired: &HookBody) -> Result<Value, AdminError> {
        let mut body = desired.request_body(["name", "triggerId", "script", "dependencies", "enabled"]);
        let enable_later = desired.enabled && !desired.secrets.is_empty();
        if enable_later {
            body.insert("enabled".into(), json!(false));
        }
        let mut hook = self.write_hook(Method::POST, &[PATH], Value::Object(body), desired).await?;
        let id = object_id(&hook).unwrap_or_default().to_owned();
        if !desired.secrets.is_empty() {
            let values = desired.secret_values(desired.secrets.keys());
            if let Err(error) = self.write_secrets(Method::POST, &id, values, desired).await {
                return Err(self.object_error(&id, error).await);
            }
        }
        if enable_later {
            let body = Value::Object(desired.request_body(["enabled"]));
            hook = self.write_hook(Method::PATCH, &[PATH, &id], body, desired).await?;
        }
        Ok(with_secret_names(hook, &desired.secrets.keys().cloned().collect()))
    }

    /// The secrets of a new hook are set by a request of their own.
    fn creates_with_one_request(&self, desired: &HookBody) -> bool {
        desired.secrets.is_empty()
    }

    /// Updates the members that contain these paths. `secrets.NAME` means that the value of a secret changed.
    async fn update(&self, id: &str, desired: &HookBody, fields: &[String]) -> Result<Value, AdminError> {
        let members: Vec<&str> =
            fields.iter().map(|path| path.split('.').next().unwrap_or_default()).collect();
        if members.contains(&"enabled") && desired.enabled {
            self.check_trigger_free(desired, Some(id)).await?;
        }
        if members.contains(&"triggerId") {
            let message =
                "Auth0 cannot change the trigger of a hook: correct the spec, or delete the hook at Auth0";
            return Err(AdminError::Rejected(ErrorDetail {
                message: message.into(),
                ..ErrorDetail::default()
            }));
        }
        if (members.contains(&"secrets") || members.contains(&"secretNames"))
            && let Err(error) = self.sync_secrets(id, desired, fields).await
        {
            return Err(self.object_error(id, error).await);
        }
        let body = desired.request_body(members);
        let hook = if body.is_empty() {
            match self.get_hook(id).await {
                Ok(hook) => hook,
                Err(error) => return Err(self.object_error(id, error).await),
            }
        } else {
            self.write_hook(Method::PATCH, &[PATH, id], Value::Object(body), desired).await?
        };
        Ok(with_secret_names(hook, &desired.secrets.keys().cloned().collect()))
    }

    /// Deletes a hook. Fails with `EndOfLife` if Auth0 no longer serves Hooks: the hook may still exist.
    async fn delete(&self, id: &str) -> Result<(), AdminError> {
        let request = Auth0Request { path: &[PATH, id], ..Auth0Request::default() };
        match self.access.send(Method::DELETE, request).await {
            Ok(_) => Ok(()),
            Err(error) => match self.resolve_error(id, error).await {
                ResolvedError::Absent(_) => Ok(()),
                ResolvedError::Failed(error) => Err(error),
            },
        }
    }

    /// Excludes `enabled`, because a hook with secrets is created disabled.
    fn comparable_fields(object: &Value) -> Value {
        let member = |name: &str| object.get(name).cloned().unwrap_or_default();
        let dependencies = Some(member("dependencies")).filter(Value::is_object).unwrap_or_else(|| json!({}));
        json!({"name": member("name"), "triggerId": member("triggerId"), "script": member("script"),
               "dependencies": dependencies})
    }
}

impl HookClient {
    pub fn new(access: Auth0Access) -> Self {
        HookClient { access }
    }

    async fn get_hook(&self, id: &str) -> Result<Value, Auth0Error> {
        let request = Auth0Request { path: &[PATH, id], ..Auth0Request::default() };
        let response = self.access.send(Method::GET, request).await?;
        Ok(expect_id(&response, id, parse_object(&response)?)?)
    }

    /// Decides what a failed call about one hook means. Asks `/hooks` if the response may mean the end of life, or that
    /// the hook does not exist, and does not prove it.
    async fn resolve_error(&self, id: &str, error: Auth0Error) -> ResolvedError {
        let error = match error {
            Auth0Error::Login(error) => return ResolvedError::Failed(error),
            Auth0Error::Call { error, .. } => error,
        };
        if error.is_gone() {
            return ResolvedError::Absent(error);
        }
        let is_ambiguous = error.is_ambiguous_absence();
        if !is_ambiguous && !is_end_of_life(&error) {
            return ResolvedError::Failed(error);
        }
        match find_listed(self, id).await {
            Ok(None) if is_ambiguous => ResolvedError::Absent(error),
            Ok(_) => ResolvedError::Failed(error),
            Err(of_list) => ResolvedError::Failed(of_list),
        }
    }

    /// Returns the error of a failed call about one hook.
    async fn object_error(&self, id: &str, error: Auth0Error) -> AdminError {
        match self.resolve_error(id, error).await {
            ResolvedError::Absent(error) | ResolvedError::Failed(error) => error,
        }
    }

    /// Sends a create or update of a hook and returns the hook.
    async fn write_hook(
        &self,
        method: Method,
        path: &[&str],
        body: Value,
        desired: &HookBody,
    ) -> Result<Value, AdminError> {
        let request = Auth0Request {
            path,
            body: Some(body),
            secrets: desired.secret_texts(),
            ..Auth0Request::default()
        };
        let response = match (self.access.send(method, request).await, path) {
            (Ok(response), _) => response,
            (Err(error), [_, id]) => return Err(self.object_error(id, error).await),
            (Err(error), _) => return Err(list_error(error)),
        };
        let hook = parse_object(&response)?;
        match path {
            [_, id] => expect_id(&response, id, hook),
            // Without an id the new object is unknown; the reconciler then finds it by its create record.
            _ if object_id(&hook).is_none() => {
                Err(unexpected_response(&response, "the created hook has no id"))
            }
            _ => Ok(hook),
        }
    }

    /// Fails if another hook is enabled at the trigger. Auth0 enables only one; enabling this one would disable the other,
    /// and two owners would override each other repeatedly.
    async fn check_trigger_free(&self, desired: &HookBody, own: Option<&str>) -> Result<(), AdminError> {
        let is_other =
            |element: &ListElement<'_>| own != Some(element.id) && is_enabled_at(element, &desired.trigger);
        let listing = self.list(ListFilter::new(&is_other)).await?;
        let Some(other) = listing.items.first() else { return Ok(()) };
        let name = other.name.as_deref().unwrap_or_default();
        Err(AdminError::TriggerTaken(format!("{name:.128} ({:.64})", other.id)))
    }

    async fn secret_names(&self, id: &str) -> Result<BTreeSet<String>, Auth0Error> {
        let request = Auth0Request { path: &[PATH, id, "secrets"], ..Auth0Request::default() };
        let response = self.access.send(Method::GET, request).await?;
        // The values are placeholders; use only the names.
        Ok(parse_object(&response)?.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect())
    }

    /// Deletes obsolete secrets, adds missing ones and updates changed ones (`fields`). Does not send unchanged
    /// secrets, because the API returns no values that could confirm the write.
    async fn sync_secrets(&self, id: &str, desired: &HookBody, fields: &[String]) -> Result<(), Auth0Error> {
        let observed = self.secret_names(id).await?;
        let desired_names: BTreeSet<String> = desired.secrets.keys().cloned().collect();
        let is_changed =
            |name: &&String| fields.iter().any(|f| f.strip_prefix("secrets.") == Some(name.as_str()));
        let removed: Vec<&String> = observed.difference(&desired_names).collect();
        if !removed.is_empty() {
            self.write_secrets(Method::DELETE, id, json!(removed), desired).await?;
        }
        let added: Vec<&String> = desired_names.difference(&observed).collect();
        if !added.is_empty() {
            self.write_secrets(Method::POST, id, desired.secret_values(added), desired).await?;
        }
        let changed: Vec<&String> = desired_names.intersection(&observed).filter(is_changed).collect();
        if !changed.is_empty() {
            self.write_secrets(Method::PATCH, id, desired.secret_values(changed), desired).await?;
        }
        Ok(())
    }

    async fn write_secrets(
        &self,
        method: Method,
        id: &str,
        body: Value,
        desired: &HookBody,
    ) -> Result<(), Auth0Error> {
        let path = &[PATH, id, "secrets"];
        let request = Auth0Request {
            path,
            body: Some(body),
            secrets: desired.secret_texts(),
            ..Auth0Request::default()
        };
        self.access.send(method, request).await.map(drop)
    }
}

/// The meaning of a failed call that concerns one hook.
enum ResolvedError {
    /// The hook does not exist. Holds the error of the call.
    Absent(AdminError),
    Failed(AdminError),
}

/// Texts of the documented 403 responses of a tenant without Hooks.
const DISABLED: [&str; 2] = ["disabled for your tenant", "deprecated feature"];

/// Returns true if the Management API reports with this error that it no longer serves Hooks. Only valid for the
/// collection `/hooks`: for one hook, the same statuses have other causes.
fn is_end_of_life(error: &AdminError) -> bool {
    match error {
        AdminError::NotFound(detail) => !detail.proves_absence,
        AdminError::Forbidden(detail) => DISABLED.iter().any(|text| detail.message.contains(text)),
        AdminError::Rejected(detail) => detail.status == Some(410),
        AdminError::ServerError(detail) => detail.status == Some(501),
        _ => false,
    }
}

/// Maps an error of `/hooks` to `EndOfLife` if the API reports it. An error of the login or of a proxy stays as it is.
fn list_error(error: Auth0Error) -> AdminError {
    match error {
        Auth0Error::Call { error, is_from_api: true } if is_end_of_life(&error) => match error {
            AdminError::NotFound(detail)
            | AdminError::Forbidden(detail)
            | AdminError::Rejected(detail)
            | AdminError::ServerError(detail) => AdminError::EndOfLife(detail),
            other => other,
        },
        other => other.into(),
    }
}
