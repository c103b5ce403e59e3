//! An event stream: what it may hold, how it changes and how it is shown.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;
use url::{Host, Url};

use super::body::Object;
use super::error::ApiError;
use super::history::History;
use crate::core::time::Millis;

/// One stream. No `Debug`: it holds the receiver's secret.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Stream {
    pub id: String,
    #[serde(flatten)]
    pub fields: Fields,
    pub created_at: Millis,
    pub updated_at: Millis,
    pub history: History,
    /// Reads do not see it before (fault `lagMs`).
    #[serde(skip)]
    pub visible_at: Option<Instant>,
}

impl Stream {
    pub fn visible(&self) -> bool {
        self.visible_at.is_none_or(|at| Instant::now() >= at)
    }

    /// As the API shows it: without secrets.
    pub fn shown(&self) -> Value {
        let subscriptions: Vec<Value> =
            self.fields.subscriptions.iter().map(|name| json!({"event_type": name})).collect();
        let mut shown = json!({
            "id": self.id,
            "status": self.status(),
            "name": self.fields.name,
            "subscriptions": subscriptions,
            "created_at": self.created_at.rfc3339(),
            "updated_at": self.updated_at.rfc3339(),
            "destination": self.fields.destination.shown(),
        });
        if let (None, Some(shown)) = (&self.fields.name, shown.as_object_mut()) {
            shown.remove("name");
        }
        shown
    }

    pub fn status(&self) -> &'static str {
        if self.fields.enabled { "enabled" } else { "disabled" }
    }
}

/// What the caller may set.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Fields {
    /// The API's description does not demand it.
    pub name: Option<String>,
    pub subscriptions: Vec<String>,
    pub enabled: bool,
    pub destination: Destination,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Destination {
    Webhook { endpoint: String, authorization: Authorization },
    Eventbridge { account: String, region: String, source: String },
    Action { id: String },
}

/// How deliveries show who sends them. A secret may be missing: the vendor's newest SDK cannot send one.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Authorization {
    Basic { username: String, password: Option<String> },
    Bearer { token: Option<String> },
    CustomHeader { key: String, value: Option<String> },
}

impl Destination {
    fn kind(&self) -> &'static str {
        match self {
            Destination::Webhook { .. } => "webhook",
            Destination::Eventbridge { .. } => "eventbridge",
            Destination::Action { .. } => "action",
        }
    }

    fn shown(&self) -> Value {
        let configuration = match self {
            Destination::Webhook { endpoint, authorization } => {
                let authorization = match authorization {
                    Authorization::Basic { username, .. } => json!({"method": "basic", "username": username}),
                    Authorization::Bearer { .. } => json!({"method": "bearer"}),
                    Authorization::CustomHeader { key, .. } => {
                        json!({"method": "custom_header", "header_key": key})
                    }
                };
                json!({"webhook_endpoint": endpoint, "webhook_authorization": authorization})
            }
            Destination::Eventbridge { account, region, source } => {
                json!({"aws_account_id": account, "aws_region": region, "aws_partner_event_source": source})
            }
            Destination::Action { id } => json!({ "action_id": id }),
        };
        json!({"type": self.kind(), "configuration": configuration})
    }
}

const NAME: &str = "Name of the event stream";
const SUBSCRIPTIONS: &str = "List of event types subscribed to in this stream";
const STATUS: &str = "Indicates whether the event stream is actively forwarding events";

/// Reads the body of a POST. `tenant` names the partner event source.
pub(super) fn create(value: Value, tenant: &str) -> Result<Fields, ApiError> {
    let mut body = Object::new("", value)?;
    let name = body.text("name", NAME, (1, 128))?;
    let subscriptions = subscriptions(&mut body)?.unwrap_or_default();
    let enabled = status(&mut body)?.unwrap_or(true);
    let given = body.object("destination")?.ok_or_else(|| body.missing("destination"))?;
    body.end()?;
    Ok(Fields { name, subscriptions, enabled, destination: destination(given, None, tenant)? })
}

/// Reads the body of a PATCH and lays it over what there is.
pub(super) fn patch(value: Value, old: &Fields) -> Result<Fields, ApiError> {
    let mut body = Object::new("", value)?;
    let name = body.text("name", NAME, (1, 128))?.or_else(|| old.name.clone());
    let subscriptions = subscriptions(&mut body)?.unwrap_or_else(|| old.subscriptions.clone());
    let enabled = status(&mut body)?.unwrap_or(old.enabled);
    let destination = match body.object("destination")? {
        None => old.destination.clone(),
        // The OpenAPI document allows it for actions; the vendor's own tools say that it is refused.
        Some(_) if !matches!(old.destination, Destination::Webhook { .. }) => {
            let reason = format!("The destination of type {} cannot be changed", old.destination.kind());
            return Err(body.refuse(&reason, "destination", ""));
        }
        Some(given) => destination(given, Some(&old.destination), "")?,
    };
    body.end()?;
    Ok(Fields { name, subscriptions, enabled, destination })
}

fn status(body: &mut Object) -> Result<Option<bool>, ApiError> {
    match body.text("status", STATUS, (0, 8))?.as_deref() {
        None => Ok(None),
        Some("enabled") => Ok(Some(true)),
        Some("disabled") => Ok(Some(false)),
        Some(other) => Err(body.refuse(&format!("No enum match for: {other}"), "status", STATUS)),
    }
}

/// Any event type is taken: the list of them grows every few months.
fn subscriptions(body: &mut Object) -> Result<Option<Vec<String>>, ApiError> {
    let Some(list) = body.list("subscriptions", SUBSCRIPTIONS)? else { return Ok(None) };
    if list.is_empty() {
        return Err(body.refuse("Array is too short (0), minimum 1", "subscriptions", SUBSCRIPTIONS));
    }
    let read = |(index, item)| {
        let mut item = Object::new(&format!("subscriptions[{index}]"), item)?;
        let name = item.text("event_type", "", (1, 128))?.ok_or_else(|| item.missing("event_type"))?;
        item.end().map(|()| name)
    };
    list.into_iter().enumerate().map(read).collect::<Result<_, _>>().map(Some)
}

/// `old` is what a PATCH replaces: of the same type, and its secret stays where the new one has none.
fn destination(mut given: Object, old: Option<&Destination>, tenant: &str) -> Result<Destination, ApiError> {
    let kind = given.text("type", "", (0, 64))?.ok_or_else(|| given.missing("type"))?;
    let mut inner = given.object("configuration")?.ok_or_else(|| given.missing("configuration"))?;
    let destination = match kind.as_str() {
        "webhook" => webhook(&mut inner, old)?,
        // The vendor's example leaves the type out, and its SDK then sends an empty text: the configuration tells.
        "" if inner.has("webhook_endpoint") => webhook(&mut inner, old)?,
        _ if old.is_some() => {
            return Err(given.refuse(&format!("No enum match for: {kind}"), "type", ""));
        }
        "eventbridge" => eventbridge(&mut inner, tenant)?,
        "action" => {
            let id = inner.text("action_id", "Action ID for the action destination", (1, 128))?;
            Destination::Action { id: id.ok_or_else(|| inner.missing("action_id"))? }
        }
        other => return Err(given.refuse(&format!("No enum match for: {other}"), "type", "")),
    };
    inner.end()?;
    given.end()?;
    Ok(destination)
}

fn eventbridge(inner: &mut Object, tenant: &str) -> Result<Destination, ApiError> {
    const ACCOUNT: &str = "AWS Account ID for EventBridge destination";
    let account =
        inner.text("aws_account_id", ACCOUNT, (0, 64))?.ok_or_else(|| inner.missing("aws_account_id"))?;
    if account.len() != 12 || !account.bytes().all(|b| b.is_ascii_digit()) {
        let reason = format!("String does not match pattern ^\\d{{12}}$: {account}");
        return Err(inner.refuse(&reason, "aws_account_id", ACCOUNT));
    }
    let region = inner.text("aws_region", "", (0, 64))?.ok_or_else(|| inner.missing("aws_region"))?;
    // The list of regions grows: their form is enough.
    let parts: Vec<&str> = region.split('-').collect();
    let is_region = parts.len() >= 3
        && parts.last().is_some_and(|part| part.parse::<u8>().is_ok())
        && region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !is_region {
        return Err(inner.refuse(&format!("No enum match for: {region}"), "aws_region", ""));
    }
    let source = format!("aws.partner/auth0.com/{tenant}-{}/auth0.events", random_uuid());
    Ok(Destination::Eventbridge { account, region, source })
}

fn webhook(inner: &mut Object, old: Option<&Destination>) -> Result<Destination, ApiError> {
    const ENDPOINT: &str = "Target HTTP endpoint URL";
    let endpoint = inner
        .text("webhook_endpoint", ENDPOINT, (0, 2048))?
        .ok_or_else(|| inner.missing("webhook_endpoint"))?;
    if !may_be_called(&endpoint) {
        let reason = format!("String does not match pattern ^https://.*: {endpoint}");
        return Err(inner.refuse(&reason, "webhook_endpoint", ENDPOINT));
    }
    let given =
        inner.object("webhook_authorization")?.ok_or_else(|| inner.missing("webhook_authorization"))?;
    let mut authorization = authorization(given)?;
    if let Some(Destination::Webhook { authorization: old, .. }) = old {
        authorization.keep_secret_of(old);
    }
    Ok(Destination::Webhook { endpoint, authorization })
}

/// `https`, or a loopback address, so that a test's receiver needs no certificate.
fn may_be_called(endpoint: &str) -> bool {
    let Ok(url) = Url::parse(endpoint) else { return false };
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => return false,
    };
    url.scheme() == "https" || (url.scheme() == "http" && loopback)
}

fn authorization(mut given: Object) -> Result<Authorization, ApiError> {
    let method = given.text("method", "", (0, 64))?.ok_or_else(|| given.missing("method"))?;
    let most = (0, 4096);
    let authorization = match method.as_str() {
        "basic" => basic(&mut given)?,
        // As with the destination's type.
        "" if given.has("username") => basic(&mut given)?,
        "bearer" => Authorization::Bearer { token: given.text("token", "", most)? },
        "custom_header" => {
            let key = given.text("header_key", "HTTP header name", (1, 128))?;
            let key = key.ok_or_else(|| given.missing("header_key"))?;
            if axum::http::HeaderName::try_from(&key).is_err() {
                let reason = format!("String does not match the pattern of a header name: {key}");
                return Err(given.refuse(&reason, "header_key", "HTTP header name"));
            }
            Authorization::CustomHeader { key, value: given.text("header_value", "", most)? }
        }
        other => return Err(given.refuse(&format!("No enum match for: {other}"), "method", "")),
    };
    given.end().map(|()| authorization)
}

fn basic(given: &mut Object) -> Result<Authorization, ApiError> {
    let username = given.text("username", "Username", (1, 128))?.ok_or_else(|| given.missing("username"))?;
    if username.contains(':') {
        let reason = format!("String does not match pattern ^[^:]+$: {username}");
        return Err(given.refuse(&reason, "username", "Username"));
    }
    Ok(Authorization::Basic { username, password: given.text("password", "", (0, 4096))? })
}

impl Authorization {
    /// A PATCH with the same method and no secret keeps the old one. Nobody recorded it, but the vendor's Terraform
    /// provider relies on it.
    fn keep_secret_of(&mut self, old: &Authorization) {
        match (self, old) {
            (Authorization::Basic { password: new, .. }, Authorization::Basic { password: old, .. })
            | (Authorization::Bearer { token: new }, Authorization::Bearer { token: old })
            | (
                Authorization::CustomHeader { value: new, .. },
                Authorization::CustomHeader { value: old, .. },
            ) if new.is_none() => new.clone_from(old),
            _ => {}
        }
    }
}

fn random_uuid() -> uuid::Uuid {
    uuid::Builder::from_random_bytes(fastrand::u128(..).to_be_bytes()).into_uuid()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole() -> Value {
        json!({"name": "n", "subscriptions": [{"event_type": "user.created"}], "status": "enabled",
            "destination": {"type": "webhook", "configuration": {"webhook_endpoint": "https://a.example/",
                "webhook_authorization": {"method": "bearer", "token": "hush"}}}})
    }

    #[test]
    fn who_may_be_called() {
        for good in ["https://a.example", "http://127.0.0.1:1/x", "http://[::1]/", "http://localhost:8080/"] {
            assert!(may_be_called(good), "{good}");
        }
        for bad in
            ["", "webhook_endpoint", "http://a.example/", "ftp://localhost/", "http://127.0.0.1.example/"]
        {
            assert!(!may_be_called(bad), "{bad}");
        }
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z:é]{0,5}".prop_map(Value::from),
        ];
        leaf.prop_recursive(2, 8, 3, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                proptest::collection::btree_map("(type|method|token|event_type|[a-z]{1,3})", inner, 0..3)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Whatever stands where: it is refused with 400 or understood, and what is shown holds no secret.
        #[test]
        fn no_body_breaks_it(
            at in prop::sample::select(vec![
                "", "/name", "/subscriptions", "/subscriptions/0", "/status", "/destination", "/destination/type",
                "/destination/configuration", "/destination/configuration/webhook_endpoint",
                "/destination/configuration/webhook_authorization",
                "/destination/configuration/webhook_authorization/method",
            ]),
            value in json_value(),
        ) {
            let mut body = whole();
            *body.pointer_mut(at).unwrap() = value;
            let old = create(whole(), "t").unwrap_or_else(|_| panic!());
            for read in [create(body.clone(), "t"), patch(body, &old)] {
                match read {
                    Ok(fields) => prop_assert!(!fields.destination.shown().to_string().contains("hush")),
                    Err(error) => prop_assert_eq!(error.status.as_u16(), 400),
                }
            }
        }
    }
}
