//! Event streams.

use http::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

use super::Auth0Access;
use super::call::Call;
use crate::admin::answer::{parse, parse_object, that_one, unexpected};
use crate::admin::error::Detail;
use crate::admin::pages::Pages;
use crate::admin::{AdminError, ExternalClient, Listed, Scope};
use crate::core::redact::redact;

const PATH: &str = "event-streams";
/// The longest page that the API gives.
const PAGE_SIZE: usize = 100;

/// A stream as it should be. No `Debug`: it holds secrets.
#[derive(Clone)]
pub struct StreamBody {
    pub name: String,
    /// Types of events.
    pub subscriptions: Vec<String>,
    pub enabled: bool,
    pub destination: DestinationBody,
}

/// Where a stream's events go.
#[derive(Clone)]
pub enum DestinationBody {
    Webhook { endpoint: String, authorization: WebhookAuthorization },
    EventBridge { account_id: String, region: String },
    Action { action_id: String },
}

/// What Auth0 shows to a receiver. Its secret part is in no published description, and never read back.
#[derive(Clone)]
pub enum WebhookAuthorization {
    Basic { username: String, password: SecretString },
    Bearer { token: SecretString },
    CustomHeader { key: String, value: SecretString },
}

impl WebhookAuthorization {
    /// The name of the secret member, and the secret.
    fn secret(&self) -> (&'static str, &SecretString) {
        match self {
            WebhookAuthorization::Basic { password, .. } => ("password", password),
            WebhookAuthorization::Bearer { token } => ("token", token),
            WebhookAuthorization::CustomHeader { value, .. } => ("header_value", value),
        }
    }

    /// As the API shows it.
    fn shown(&self) -> Value {
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
    /// As the API shows it.
    fn shown(&self) -> Value {
        match self {
            DestinationBody::Webhook { endpoint, authorization } => json!({"type": "webhook",
                "configuration": {"webhook_endpoint": endpoint, "webhook_authorization": authorization.shown()}}),
            DestinationBody::EventBridge { account_id, region } => json!({"type": "eventbridge",
                "configuration": {"aws_account_id": account_id, "aws_region": region}}),
            DestinationBody::Action { action_id } => {
                json!({"type": "action", "configuration": {"action_id": action_id}})
            }
        }
    }

    /// As the API takes it.
    fn sent(&self) -> Value {
        let mut value = self.shown();
        if let DestinationBody::Webhook { authorization, .. } = self
            && let Some(Value::Object(shown)) = value.pointer_mut("/configuration/webhook_authorization")
        {
            let (name, secret) = authorization.secret();
            shown.insert(name.into(), json!(secret.expose_secret()));
        }
        value
    }
}

impl StreamBody {
    /// The stream as it should be there, with its secret, in the form of `normal`. Whether it is enabled is left out: Auth0
    /// disables streams itself, and that is no drift to repair without a thought.
    pub fn whole(&self) -> Value {
        let types: Vec<Value> = self.subscriptions.iter().map(|t| json!({ "event_type": t })).collect();
        normal(json!({"name": self.name, "subscriptions": types, "destination": self.destination.sent()}))
    }

    /// Where in it stands what cannot be read back.
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

    /// One member as the API takes it.
    fn member(&self, name: &str) -> Option<Value> {
        match name {
            "name" => Some(json!(self.name)),
            "subscriptions" => self.whole().get("subscriptions").cloned(),
            "status" => Some(json!(if self.enabled { "enabled" } else { "disabled" })),
            "destination" => Some(self.destination.sent()),
            _ => None,
        }
    }

    fn body<'a>(&self, members: impl IntoIterator<Item = &'a str>) -> Value {
        let members = members.into_iter().filter_map(|name| Some((name.to_owned(), self.member(name)?)));
        Value::Object(members.collect::<Map<_, _>>())
    }
}

/// One form for what may be written in two ways: the order of subscriptions means nothing.
pub(super) fn normal(mut stream: Value) -> Value {
    if let Some(Value::Array(types)) = stream.get_mut("subscriptions") {
        types.sort_by(|a, b| event_type(a).cmp(event_type(b)));
    }
    stream
}

fn event_type(subscription: &Value) -> &str {
    subscription.get("event_type").and_then(Value::as_str).unwrap_or_default()
}

/// What of a stream its maker decides and Auth0 leaves alone.
fn readable(stream: &Value) -> Value {
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
    normal(json!({"name": member("/name"), "subscriptions": member("/subscriptions"),
                  "type": member("/destination/type"), "configuration": configuration}))
}

/// A tenant's event streams.
#[derive(Clone, Debug)]
pub struct StreamClient {
    access: Auth0Access,
}

impl ExternalClient for StreamClient {
    type Desired = StreamBody;

    const SECRETS_READ_BACK: bool = false;

    fn scope(&self) -> Scope {
        self.access.scope(PATH)
    }

    async fn list(&self) -> Result<Listed, AdminError> {
        let (mut pages, mut from) = (Pages::default(), None::<String>);
        loop {
            let query = page(from.as_deref(), PAGE_SIZE);
            let call = Call { path: &[PATH], query: Some(&query), ..Call::default() };
            let answer = self.access.call(Method::GET, call).await?;
            let mut page = parse_object(&answer)?;
            let Some(Value::Array(found)) = page.get_mut("eventStreams").map(Value::take) else {
                return Err(unexpected(&answer, "a list without eventStreams"));
            };
            // The pages of deliveries name a next one even when they are the last: an empty page ends it as well.
            let ends = found.is_empty();
            pages.take(&answer, found.into_iter().map(normal).collect())?;
            from = match page.get("next") {
                Some(Value::String(next)) if !ends => Some(next.clone()),
                None | Some(Value::Null | Value::String(_)) => return Ok(pages.end()),
                Some(_) => return Err(unexpected(&answer, "the place of the next page is no text")),
            };
        }
    }

    async fn observe(&self, id: &str) -> Result<Option<Value>, AdminError> {
        let call = Call { path: &[PATH, id], ..Call::default() };
        match self.access.call(Method::GET, call).await {
            Ok(answer) => Ok(Some(normal(that_one(&answer, id, parse_object(&answer)?)?))),
            Err(error) if error.is_gone() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn create(&self, _id: Option<&str>, desired: &StreamBody) -> Result<Value, AdminError> {
        let body = desired.body(["name", "subscriptions", "destination", "status"]);
        let secrets = desired.secret_texts();
        let call = Call { path: &[PATH], body: Some(body), secrets, ..Call::default() };
        let answer = self.access.call(Method::POST, call).await?;
        let stream = normal(parse_object(&answer)?);
        // Without an id nobody knows what was made: it is looked for.
        if Self::id(&stream).is_none() {
            return Err(unexpected(&answer, "the stream that was made has no id"));
        }
        Ok(stream)
    }

    /// Changes the members that these paths are in. A destination goes whole, with its secret: whether Auth0 keeps one
    /// that is left out nobody knows.
    async fn update(&self, id: &str, desired: &StreamBody, fields: &[String]) -> Result<Value, AdminError> {
        let members: Vec<&str> =
            fields.iter().map(|path| path.split('.').next().unwrap_or_default()).collect();
        if members.contains(&"destination") {
            changeable(&desired.destination)?;
        }
        let body = desired.body(members);
        let secrets = desired.secret_texts();
        let call = Call { path: &[PATH, id], body: Some(body), secrets, ..Call::default() };
        let answer = self.access.call(Method::PATCH, call).await?;
        Ok(normal(that_one(&answer, id, parse_object(&answer)?)?))
    }

    async fn delete(&self, id: &str) -> Result<(), AdminError> {
        let call = Call { path: &[PATH, id], ..Call::default() };
        match self.access.call(Method::DELETE, call).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_gone() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn readable(object: &Value) -> Value {
        readable(object)
    }
}

impl StreamClient {
    pub fn new(access: Auth0Access) -> Self {
        StreamClient { access }
    }

    /// Asks whether the tenant answers. A token for something else than streams is an answer, too.
    pub async fn reach(&self) -> Result<(), AdminError> {
        let query = page(None, 1);
        match self
            .access
            .call(Method::GET, Call { path: &[PATH], query: Some(&query), ..Call::default() })
            .await
        {
            Ok(answer) => parse_object(&answer).map(drop),
            Err(AdminError::Forbidden(detail)) if detail.code.as_deref() == Some("insufficient_scope") => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Why the newest failed delivery failed, in the words of Auth0; None where none failed.
    pub async fn last_failure(&self, id: &str) -> Result<Option<String>, AdminError> {
        let query = page(None, 1);
        let path = &[PATH, id, "deliveries"];
        let answer =
            self.access.call(Method::GET, Call { path, query: Some(&query), ..Call::default() }).await?;
        let body = parse(&answer)?;
        // Published as a list, and answered as an object with one.
        let list = body.get("deliveries").unwrap_or(&body).as_array();
        let delivery = list.and_then(|list| list.first());
        let attempts = delivery.and_then(|d| d.get("attempts")?.as_array()).into_iter().flatten();
        let said = attempts.filter_map(|a| a.get("error_message")?.as_str()).next_back();
        // A receiver's words, by way of Auth0.
        Ok(delivery.map(|_| redact(said.unwrap_or("no reason given"), []).chars().take(200).collect()))
    }

    /// Asks for all failed deliveries again.
    pub async fn redeliver(&self, id: &str) -> Result<(), AdminError> {
        let path = &[PATH, id, "redeliver"];
        let body = Some(json!({"statuses": ["failed"]}));
        self.access.call(Method::POST, Call { path, body, ..Call::default() }).await.map(drop)
    }
}

/// `webhook` alone can be changed: a new EventBridge source would have to be associated in AWS again.
fn changeable(destination: &DestinationBody) -> Result<(), AdminError> {
    let kind = match destination {
        DestinationBody::Webhook { .. } => return Ok(()),
        DestinationBody::EventBridge { .. } => "EventBridge",
        DestinationBody::Action { .. } => "Action",
    };
    let message = format!(
        "Auth0 cannot change the destination of a stream to {kind}: correct the spec, or delete the stream at Auth0"
    );
    Err(AdminError::Rejected(Detail { message, ..Detail::default() }))
}

fn page(from: Option<&str>, size: usize) -> String {
    let mut query = format!("take={size}");
    if let Some(from) = from {
        query.push_str("&from=");
        query.extend(url::form_urlencoded::byte_serialize(from.as_bytes()));
    }
    query
}
