//! Client of event streams.

use http::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

use super::Auth0Access;
use super::request::Auth0Request;
use crate::admin::absence::{resolve_delete, resolve_read};
use crate::admin::error::ErrorDetail;
use crate::admin::pages::{PageCollector, PageShape};
use crate::admin::response::{NO_REASON, expect_id, parse_json, parse_object, unexpected_response};
use crate::admin::{AdminError, AdminMemory, ExternalClient, ListFilter, ListScope, Listing};
use crate::core::redact::redact;

const PATH: &str = "event-streams";
/// The maximum page size of the API.
const PAGE_SIZE: usize = 100;
const PAGE: PageShape =
    PageShape { list: "eventStreams", members: &["eventStreams", "next"], is_lua: false, may_be_bare: false };

/// The desired state of a stream. Has no `Debug`, because it contains secrets.
#[derive(Clone)]
pub struct StreamBody {
    pub name: String,
    /// Event types.
    pub subscriptions: Vec<String>,
    pub enabled: bool,
    pub destination: DestinationBody,
}

/// The destination of a stream's events.
#[derive(Clone)]
pub enum DestinationBody {
    Webhook { endpoint: String, authorization: WebhookAuthorization },
    EventBridge { account_id: String, region: String },
    Action { action_id: String },
}

/// The credentials that Auth0 sends to a receiver. The published API description omits the secret, and the API never
/// returns it.
#[derive(Clone)]
pub enum WebhookAuthorization {
    Basic { username: String, password: SecretString },
    Bearer { token: SecretString },
    CustomHeader { key: String, value: SecretString },
}

impl WebhookAuthorization {
    /// Returns the name of the secret member, and the secret.
    fn secret(&self) -> (&'static str, &SecretString) {
        match self {
            WebhookAuthorization::Basic { password, .. } => ("password", password),
            WebhookAuthorization::Bearer { token } => ("token", token),
            WebhookAuthorization::CustomHeader { value, .. } => ("header_value", value),
        }
    }

    /// Returns the form of a response, without the secret.
    fn to_response(&self) -> Value {
        match self {
            WebhookAuthorization::Basic { username, .. } => json!({"method": "basic", "username": username}),
            WebhookAuthorization::Bearer { .. } => json!({"method": "bearer"}),
            WebhookAuthorization::CustomHeader { key, .. } => {
                json!({"method": "custom_header", "header_key": key})
            }
        }
    }
}

impl DestinationBody {
    /// Returns the form of a response, without the secret.
    fn to_response(&self) -> Value {
        match self {
            DestinationBody::Webhook { endpoint, authorization } => json!({"type": "webhook",
                "configuration": {"webhook_endpoint": endpoint, "webhook_authorization": authorization.to_response()}}),
            DestinationBody::EventBridge { account_id, region } => json!({"type": "eventbridge",
                "configuration": {"aws_account_id": account_id, "aws_region": region}}),
            DestinationBody::Action { action_id } => {
                json!({"type": "action", "configuration": {"action_id": action_id}})
            }
        }
    }

    /// Returns the form of a request, with the secret.
    fn to_request(&self) -> Value {
        let mut value = self.to_response();
        if let DestinationBody::Webhook { authorization, .. } = self
            && let Some(Value::Object(members)) = value.pointer_mut("/configuration/webhook_authorization")
        {
            let (name, secret) = authorization.secret();
            members.insert(name.into(), json!(secret.expose_secret()));
        }
        value
    }
}

impl StreamBody {
    /// Returns the stream with its secret, in the form of `normalize`. Excludes the status, because Auth0 disables
    /// failing streams and the controller decides separately when to re-enable them.
    pub fn to_value(&self) -> Value {
        let types: Vec<Value> = self.subscriptions.iter().map(|t| json!({ "event_type": t })).collect();
        normalize(
            json!({"name": self.name, "subscriptions": types, "destination": self.destination.to_request()}),
        )
    }

    /// The path in `to_value` of the value that the API does not return.
    pub fn secret_path(&self) -> Option<String> {
        let DestinationBody::Webhook { authorization, .. } = &self.destination else { return None };
        Some(format!("destination.configuration.webhook_authorization.{}", authorization.secret().0))
    }

    fn secret_texts(&self) -> Vec<&str> {
        match &self.destination {
            DestinationBody::Webhook { authorization, .. } => vec![authorization.secret().1.expose_secret()],
            DestinationBody::EventBridge { .. } | DestinationBody::Action { .. } => Vec::new(),
        }
    }

    /// Returns one member in the form of a request.
    fn member(&self, name: &str) -> Option<Value> {
        match name {
            "name" => Some(json!(self.name)),
            "subscriptions" => self.to_value().get("subscriptions").cloned(),
            "status" => Some(json!(if self.enabled { "enabled" } else { "disabled" })),
            "destination" => Some(self.destination.to_request()),
            _ => None,
        }
    }

    /// Returns a request body with these members.
    fn request_body<'a>(&self, members: impl IntoIterator<Item = &'a str>) -> Value {
        let members = members.into_iter().filter_map(|name| Some((name.to_owned(), self.member(name)?)));
        Value::Object(members.collect::<Map<_, _>>())
    }
}

/// Sorts the subscriptions, whose order has no meaning.
pub(super) fn normalize(mut stream: Value) -> Value {
    if let Some(Value::Array(types)) = stream.get_mut("subscriptions") {
        types.sort_by(|a, b| event_type(a).cmp(event_type(b)));
    }
    stream
}

fn event_type(subscription: &Value) -> &str {
    subscription.get("event_type").and_then(Value::as_str).unwrap_or_default()
}

/// Returns the fields that the stream's creator chose and Auth0 does not change.
fn comparable_fields(stream: &Value) -> Value {
    let member = |path: &str| stream.pointer(path).cloned().unwrap_or_default();
    let configuration = |name: &str| member(&format!("/destination/configuration/{name}"));
    let configuration: Vec<Value> = [
        "webhook_endpoint",
        "webhook_authorization/method",
        "webhook_authorization/username",
        "webhook_authorization/header_key",
        "aws_account_id",
        "aws_region",
        "action_id",
    ]
    .map(configuration)
    .to_vec();
    normalize(json!({"name": member("/name"), "subscriptions": member("/subscriptions"),
                  "type": member("/destination/type"), "configuration": configuration}))
}

/// A tenant's event streams.
#[derive(Clone, Debug)]
pub struct StreamClient {
    access: Auth0Access,
}

impl ExternalClient for StreamClient {
    type Desired = StreamBody;

    const CONFIRMS_DELETES: bool = true;
    const SECRETS_READ_BACK: bool = false;
    const RELAY_URL: Option<&'static str> = Some("/destination/configuration/webhook_endpoint");

    fn list_scope(&self) -> ListScope {
        self.access.list_scope(PATH)
    }

    fn memory(&self) -> AdminMemory {
        self.access.http.memory()
    }

    async fn list(&self, filter: ListFilter<'_>) -> Result<Listing, AdminError> {
        let (mut pages, mut from) = (PageCollector::new(filter, self.memory()), None::<String>);
        loop {
            let query = page_query(from.as_deref(), PAGE_SIZE);
            let request = Auth0Request { path: &[PATH], query: Some(&query), ..Auth0Request::default() };
            let response = self.access.send(Method::GET, request).await?;
            let page = pages.add_page(&response, &PAGE)?;
            let Some(count) = page.objects else {
                return Err(unexpected_response(&response, "the list response has no eventStreams"));
            };
            // An empty page ends the list too: the API may return `next` even on the last page, as it does for deliveries.
            from = match page.member("next") {
                Some(Value::String(next)) if count > 0 && !next.is_empty() => Some(next.clone()),
                None | Some(Value::String(_)) => return Ok(pages.finish()),
                Some(_) => {
                    return Err(unexpected_response(
                        &response,
                        "the position of the next page is not a string",
                    ));
                }
            };
        }
    }

    fn normalize(item: Value) -> Value {
        normalize(item)
    }

    async fn observe(&self, id: &str) -> Result<Option<Value>, AdminError> {
        let request = Auth0Request { path: &[PATH, id], ..Auth0Request::default() };
        match self.access.send(Method::GET, request).await {
            Ok(response) => Ok(Some(normalize(expect_id(&response, id, parse_object(&response)?)?))),
            Err(error) => resolve_read(self, id, error.into()).await,
        }
    }

    async fn create(&self, _id: Option<&str>, desired: &StreamBody) -> Result<Value, AdminError> {
        let body = desired.request_body(["name", "subscriptions", "destination", "status"]);
        let secrets = desired.secret_texts();
        let request = Auth0Request { path: &[PATH], body: Some(body), secrets, ..Auth0Request::default() };
        let response = self.access.send(Method::POST, request).await?;
        let stream = normalize(parse_object(&response)?);
        // Without an id the new object is unknown; the reconciler then finds it by its create record.
        if Self::id(&stream).is_none() {
            return Err(unexpected_response(&response, "the created stream has no id"));
        }
        Ok(stream)
    }

    /// Updates the members that contain these paths. Sends a destination completely, with its secret: the API does not
    /// document whether it keeps an omitted secret.
    async fn update(&self, id: &str, desired: &StreamBody, fields: &[String]) -> Result<Value, AdminError> {
        let members: Vec<&str> =
            fields.iter().map(|path| path.split('.').next().unwrap_or_default()).collect();
        if members.contains(&"destination") {
            check_changeable(&desired.destination)?;
        }
        let body = desired.request_body(members);
        let secrets = desired.secret_texts();
        let request =
            Auth0Request { path: &[PATH, id], body: Some(body), secrets, ..Auth0Request::default() };
        let response = self.access.send(Method::PATCH, request).await?;
        Ok(normalize(expect_id(&response, id, parse_object(&response)?)?))
    }

    async fn delete(&self, id: &str) -> Result<(), AdminError> {
        let request = Auth0Request { path: &[PATH, id], ..Auth0Request::default() };
        match self.access.send(Method::DELETE, request).await {
            Ok(_) => Ok(()),
            Err(error) => resolve_delete(self, id, error.into()).await,
        }
    }

    fn comparable_fields(object: &Value) -> Value {
        comparable_fields(object)
    }
}

impl StreamClient {
    pub fn new(access: Auth0Access) -> Self {
        StreamClient { access }
    }

    /// Checks that the tenant responds. A token without the scope of streams also succeeds.
    pub async fn check_reachable(&self) -> Result<(), AdminError> {
        let query = page_query(None, 1);
        match self
            .access
            .send(Method::GET, Auth0Request { path: &[PATH], query: Some(&query), ..Auth0Request::default() })
            .await
            .map_err(AdminError::from)
        {
            Ok(response) => parse_object(&response).map(drop),
            Err(AdminError::Forbidden(detail)) if detail.code.as_deref() == Some("insufficient_scope") => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Reads the error message of the newest failed delivery, at most 200 characters; None if no delivery failed.
    pub async fn last_failure(&self, id: &str) -> Result<Option<String>, AdminError> {
        let query = page_query(None, 1);
        let path = &[PATH, id, "deliveries"];
        let response = self
            .access
            .send(Method::GET, Auth0Request { path, query: Some(&query), ..Auth0Request::default() })
            .await?;
        let body = parse_json(&response)?;
        // Documented as a list, but the API returns an object that contains one.
        let list = body.get("deliveries").unwrap_or(&body).as_array();
        let delivery = list.and_then(|list| list.first());
        let attempts = delivery.and_then(|d| d.get("attempts")?.as_array()).into_iter().flatten();
        let message = attempts.filter_map(|a| a.get("error_message")?.as_str()).next_back();
        // The text comes from the receiver and may contain credentials.
        Ok(delivery.map(|_| redact(message.unwrap_or(NO_REASON), []).chars().take(200).collect()))
    }

    /// Requests the redelivery of all failed deliveries.
    pub async fn redeliver(&self, id: &str) -> Result<(), AdminError> {
        let path = &[PATH, id, "redeliver"];
        let body = Some(json!({"statuses": ["failed"]}));
        self.access.send(Method::POST, Auth0Request { path, body, ..Auth0Request::default() }).await?;
        Ok(())
    }
}

/// Fails unless the destination is a webhook, the only one that Auth0 can change. A new EventBridge source would need a
/// new association in AWS.
fn check_changeable(destination: &DestinationBody) -> Result<(), AdminError> {
    let kind = match destination {
        DestinationBody::Webhook { .. } => return Ok(()),
        DestinationBody::EventBridge { .. } => "EventBridge",
        DestinationBody::Action { .. } => "Action",
    };
    let message = format!(
        "Auth0 cannot change the destination of a stream to {kind}: correct the spec, or delete the stream at Auth0"
    );
    Err(AdminError::Rejected(ErrorDetail { message, ..ErrorDetail::default() }))
}

fn page_query(from: Option<&str>, size: usize) -> String {
    let mut query = format!("take={size}");
    if let Some(from) = from {
        query.push_str("&from=");
        query.extend(url::form_urlencoded::byte_serialize(from.as_bytes()));
    }
    query
}
