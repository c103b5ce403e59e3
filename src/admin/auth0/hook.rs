//! Extensibility Hooks and their secrets.

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

use super::Auth0Access;
use super::call::Call;
use crate::admin::answer::{NO_REASON, id_of, parse, parse_object, that_one, unexpected};
use crate::admin::error::Detail;
use crate::admin::pages::Pages;
use crate::admin::{AdminError, ExternalClient, Listed, Scope};

const PATH: &str = "hooks";
const PAGE_SIZE: usize = 100;

/// A hook as it should be. No `Debug`: it holds secrets.
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
    /// The hook as it should be there, with its secrets: their names apart, which read back.
    pub fn whole(&self) -> Value {
        let names: Vec<&String> = self.secrets.keys().collect();
        json!({"name": self.name, "triggerId": self.trigger, "script": self.script, "dependencies": self.dependencies,
               "enabled": self.enabled, "secretNames": names, "secrets": self.named(self.secrets.keys())})
    }

    /// Where in it stands what cannot be read back.
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

    fn body<'a>(&self, members: impl IntoIterator<Item = &'a str>) -> Map<String, Value> {
        members.into_iter().filter_map(|name| Some((name.to_owned(), self.member(name)?))).collect()
    }

    /// These secrets, with their values.
    fn named<'a>(&self, names: impl IntoIterator<Item = &'a String>) -> Value {
        let values =
            names.into_iter().filter_map(|n| Some((n.clone(), json!(self.secrets.get(n)?.expose_secret()))));
        Value::Object(values.collect())
    }
}

/// The hook with the names of its secrets.
fn with_secret_names(mut hook: Value, names: &BTreeSet<String>) -> Value {
    if let Some(members) = hook.as_object_mut() {
        members.insert("secretNames".into(), json!(names));
        members.insert("secrets".into(), json!({}));
    }
    hook
}

/// The id of the enabled hook of a trigger that is another one than `own`, and its name.
fn id_of_enabled<'a>(hooks: &'a [Value], trigger: &str, own: Option<&str>) -> Option<(&'a str, &'a str)> {
    hooks.iter().find_map(|hook| {
        let text = |name: &str| hook.get(name).and_then(Value::as_str);
        let enabled = hook.get("enabled").and_then(Value::as_bool) == Some(true);
        let id = text("id")?;
        (enabled && text("triggerId") == Some(trigger) && own != Some(id))
            .then_some((id, text("name").unwrap_or_default()))
    })
}

/// A tenant's extensibility Hooks.
#[derive(Clone, Debug)]
pub struct HookClient {
    access: Auth0Access,
}

impl ExternalClient for HookClient {
    type Desired = HookBody;

    /// A list shows neither scripts nor secrets.
    const LIST_IS_WHOLE: bool = false;
    const SECRETS_READ_BACK: bool = false;

    fn scope(&self) -> Scope {
        self.access.scope(PATH)
    }

    async fn list(&self) -> Result<Listed, AdminError> {
        let mut pages = Pages::default();
        for page in 0.. {
            let query = format!("page={page}&per_page={PAGE_SIZE}&include_totals=true");
            let call = Call { path: &[PATH], query: Some(&query), ..Call::default() };
            let answer = self.access.call(Method::GET, call).await.map_err(ended)?;
            let mut body = parse(&answer)?;
            let total = body.get("total").and_then(Value::as_u64);
            // Without totals the list would stand alone.
            let list = if body.is_array() {
                body
            } else {
                body.get_mut("hooks").map(Value::take).unwrap_or_default()
            };
            let Value::Array(found) = list else {
                return Err(unexpected(&answer, "a list without hooks"));
            };
            let ends = found.len() < PAGE_SIZE;
            pages.take(&answer, found)?;
            let all = total.is_some_and(|total| u64::try_from(pages.len()).is_ok_and(|n| n >= total));
            if ends || all {
                break;
            }
        }
        Ok(pages.end())
    }

    /// With the names of its secrets.
    async fn observe(&self, id: &str) -> Result<Option<Value>, AdminError> {
        let whole = async {
            let answer = self.access.call(Method::GET, Call { path: &[PATH, id], ..Call::default() }).await;
            let answer = answer.map_err(ended)?;
            let hook = that_one(&answer, id, parse_object(&answer)?)?;
            Ok(with_secret_names(hook, &self.secret_names(id).await?))
        };
        match whole.await {
            Ok(hook) => Ok(Some(hook)),
            // Perhaps deleted between the two calls.
            Err(AdminError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn may_create(&self, desired: &HookBody) -> Result<(), AdminError> {
        if desired.enabled { self.trigger_is_free(desired, None).await } else { Ok(()) }
    }

    /// Creates a hook. One with secrets is enabled only when it has them: it would run without, for a moment.
    async fn create(&self, _id: Option<&str>, desired: &HookBody) -> Result<Value, AdminError> {
        let mut body = desired.body(["name", "triggerId", "script", "dependencies", "enabled"]);
        let later = desired.enabled && !desired.secrets.is_empty();
        if later {
            body.insert("enabled".into(), json!(false));
        }
        let mut hook = self.write(Method::POST, &[PATH], Value::Object(body), desired).await?;
        let id = id_of(&hook).unwrap_or_default().to_owned();
        if !desired.secrets.is_empty() {
            let all = desired.named(desired.secrets.keys());
            self.change_secrets(Method::POST, &id, all, desired).await?;
        }
        if later {
            let body = Value::Object(desired.body(["enabled"]));
            hook = self.write(Method::PATCH, &[PATH, &id], body, desired).await?;
        }
        Ok(with_secret_names(hook, &desired.secrets.keys().cloned().collect()))
    }

    /// Changes what these paths are in. `secrets.NAME` is a secret whose value is another one than was told.
    async fn update(&self, id: &str, desired: &HookBody, fields: &[String]) -> Result<Value, AdminError> {
        let members: Vec<&str> =
            fields.iter().map(|path| path.split('.').next().unwrap_or_default()).collect();
        if members.contains(&"enabled") && desired.enabled {
            self.trigger_is_free(desired, Some(id)).await?;
        }
        if members.contains(&"triggerId") {
            let message =
                "Auth0 cannot change the trigger of a hook: correct the spec, or delete the hook at Auth0";
            return Err(AdminError::Rejected(Detail { message: message.into(), ..Detail::default() }));
        }
        if members.contains(&"secrets") || members.contains(&"secretNames") {
            self.sync_secrets(id, desired, fields).await?;
        }
        let body = desired.body(members);
        let hook = if body.is_empty() {
            let answer = self.access.call(Method::GET, Call { path: &[PATH, id], ..Call::default() }).await;
            let answer = answer.map_err(ended)?;
            that_one(&answer, id, parse_object(&answer)?)?
        } else {
            self.write(Method::PATCH, &[PATH, id], Value::Object(body), desired).await?
        };
        Ok(with_secret_names(hook, &desired.secrets.keys().cloned().collect()))
    }

    /// Where Auth0 serves hooks no more, all are deleted.
    async fn delete(&self, id: &str) -> Result<(), AdminError> {
        let call = Call { path: &[PATH, id], ..Call::default() };
        match self.access.call(Method::DELETE, call).await.map_err(ended) {
            Ok(_) | Err(AdminError::NotFound(_) | AdminError::EndOfLife(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether it is enabled is left out: one with secrets is created disabled.
    fn readable(object: &Value) -> Value {
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

    async fn write(
        &self,
        method: Method,
        path: &[&str],
        body: Value,
        desired: &HookBody,
    ) -> Result<Value, AdminError> {
        let call = Call { path, body: Some(body), secrets: desired.secret_texts(), ..Call::default() };
        let answer = self.access.call(method, call).await.map_err(ended)?;
        let hook = parse_object(&answer)?;
        match path {
            [_, id] => that_one(&answer, id, hook),
            // Without an id nobody knows what was made: it is looked for.
            _ if id_of(&hook).is_none() => Err(unexpected(&answer, "the hook that was made has no id")),
            _ => Ok(hook),
        }
    }

    /// Of one trigger Auth0 enables one hook: to enable a second would be a fight with whoever enabled the first.
    async fn trigger_is_free(&self, desired: &HookBody, own: Option<&str>) -> Result<(), AdminError> {
        let hooks = self.list().await?.items;
        match id_of_enabled(&hooks, &desired.trigger, own) {
            None => Ok(()),
            Some((id, name)) => Err(AdminError::TriggerTaken(format!("{name:.128} ({id:.64})"))),
        }
    }

    async fn secret_names(&self, id: &str) -> Result<BTreeSet<String>, AdminError> {
        let call = Call { path: &[PATH, id, "secrets"], ..Call::default() };
        let answer = self.access.call(Method::GET, call).await.map_err(ended)?;
        // The values are placeholders: looked at by nobody.
        Ok(parse_object(&answer)?.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect())
    }

    /// Adds what is missing, changes what is another one now, removes what is no longer wanted. What stays the same is
    /// not sent: nothing could tell whether it arrived.
    async fn sync_secrets(&self, id: &str, desired: &HookBody, fields: &[String]) -> Result<(), AdminError> {
        let there = self.secret_names(id).await?;
        let wanted: BTreeSet<String> = desired.secrets.keys().cloned().collect();
        let changed =
            |name: &&String| fields.iter().any(|f| f.strip_prefix("secrets.") == Some(name.as_str()));
        let removed: Vec<&String> = there.difference(&wanted).collect();
        if !removed.is_empty() {
            self.change_secrets(Method::DELETE, id, json!(removed), desired).await?;
        }
        let added: Vec<&String> = wanted.difference(&there).collect();
        if !added.is_empty() {
            self.change_secrets(Method::POST, id, desired.named(added), desired).await?;
        }
        let other: Vec<&String> = wanted.intersection(&there).filter(changed).collect();
        if !other.is_empty() {
            self.change_secrets(Method::PATCH, id, desired.named(other), desired).await?;
        }
        Ok(())
    }

    async fn change_secrets(
        &self,
        method: Method,
        id: &str,
        body: Value,
        desired: &HookBody,
    ) -> Result<(), AdminError> {
        let path = &[PATH, id, "secrets"];
        let call = Call { path, body: Some(body), secrets: desired.secret_texts(), ..Call::default() };
        self.access.call(method, call).await.map(drop).map_err(ended)
    }
}

/// How the API calls a hook that is not there.
const MISSING: &str = "HookDoesNotExist";

/// Auth0 ended Hooks. What an API that is gone answers is no failure of the network, and no missing object.
fn ended(error: AdminError) -> AdminError {
    match error {
        AdminError::NotFound(detail) if detail.code.as_deref() != Some(MISSING) => {
            AdminError::EndOfLife(detail)
        }
        // A token without the scope is told apart: that can be corrected. So is one without a word, which may be a
        // proxy's.
        AdminError::Forbidden(detail)
            if detail.code.as_deref() != Some("insufficient_scope") && detail.message != NO_REASON =>
        {
            AdminError::EndOfLife(detail)
        }
        AdminError::Rejected(detail) if detail.status == Some(410) => AdminError::EndOfLife(detail),
        AdminError::ServerError(detail) if detail.status == Some(501) => AdminError::EndOfLife(detail),
        other => other,
    }
}
