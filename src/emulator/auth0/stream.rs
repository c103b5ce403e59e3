//! Event streams: parsing, validation, updates and their JSON form.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;
use url::{Host, Url};

use super::body::Object;
use super::error::ApiError;
use super::history::History;
use crate::core::time::Millis;

/// A stored stream. No `Debug`, because it holds the receiver's secret.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Stream {
    pub id: String,
    #[serde(flatten)]
    pub fields: StreamFields,
    pub created_at: Millis,
    pub updated_at: Millis,
    pub history: History,
    /// Reads do not see the stream before this time (fault `lagMs`).
    #[serde(skip)]
    pub visible_at: Option<Instant>,
}

impl Stream {
    /// Whether reads see the stream yet.
    pub fn is_visible(&self) -> bool {
        self.visible_at.is_none_or(|at| Instant::now() >= at)
    }

    /// Returns the stream as the API does: without secrets.
    pub fn to_json(&self) -> Value {
        let subscriptions: Vec<Value> =
            self.fields.subscriptions.iter().map(|name| json!({"event_type": name})).collect();
        let mut object = json!({
            "id": self.id,
            "status": self.status(),
            "name": self.fields.name,
            "subscriptions": subscriptions,
            "created_at": self.created_at.rfc3339(),
            "updated_at": self.updated_at.rfc3339(),
            "destination": self.fields.destination.to_json(),
        });
        if let (None, Some(members)) = (&self.fields.name, object.as_object_mut()) {
            members.remove("name");
        }
        object
    }

    pub fn status(&self) -> &'static str {
        if self.fields.enabled { "enabled" } else { "disabled" }
    }
}

/// The writable fields of a stream.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct StreamFields {
    /// The schema of the API does not require a name.
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

/// The credentials of deliveries. A secret may be missing, because the vendor's newest SDK cannot send one.
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

    fn to_json(&self) -> Value {
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

/// The regions of the published schema. It has no others, and grows when Auth0 supports a new region.
const AWS_REGIONS: [&str; 36] = [
    "af-south-1",
    "ap-east-1",
    "ap-east-2",
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-northeast-3",
    "ap-south-1",
    "ap-south-2",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-southeast-3",
    "ap-southeast-4",
    "ap-southeast-5",
    "ap-southeast-6",
    "ap-southeast-7",
    "ca-central-1",
    "ca-west-1",
    "eu-central-1",
    "eu-central-2",
    "eu-north-1",
    "eu-south-1",
    "eu-south-2",
    "eu-west-1",
    "eu-west-2",
    "eu-west-3",
    "il-central-1",
    "me-central-1",
    "me-south-1",
    "mx-central-1",
    "sa-east-1",
    "us-gov-east-1",
    "us-gov-west-1",
    "us-east-1",
    "us-east-2",
    "us-west-1",
    "us-west-2",
];

const NAME: &str = "Name of the event stream";
const SUBSCRIPTIONS: &str = "List of event types subscribed to in this stream";
const STATUS: &str = "Indicates whether the event stream is actively forwarding events";

/// Parses the body of a POST. `tenant` is part of the name of the partner event source.
pub(super) fn parse_create(value: Value, tenant: &str) -> Result<StreamFields, ApiError> {
    let mut body = Object::new("", value)?;
    let name = body.take_string("name", NAME, (1, 128))?;
    let subscriptions = parse_subscriptions(&mut body)?.unwrap_or_default();
    let enabled = parse_status(&mut body)?.unwrap_or(true);
    let given = body.take_object("destination")?.ok_or_else(|| body.missing("destination"))?;
    body.reject_unknown()?;
    Ok(StreamFields { name, subscriptions, enabled, destination: parse_destination(given, None, tenant)? })
}

/// Parses the body of a PATCH and merges it into the old fields.
pub(super) fn parse_patch(value: Value, old: &StreamFields) -> Result<StreamFields, ApiError> {
    let mut body = Object::new("", value)?;
    let name = body.take_string("name", NAME, (1, 128))?.or_else(|| old.name.clone());
    let subscriptions = parse_subscriptions(&mut body)?.unwrap_or_else(|| old.subscriptions.clone());
    let enabled = parse_status(&mut body)?.unwrap_or(old.enabled);
    let destination = match body.take_object("destination")? {
        None => old.destination.clone(),
        // The OpenAPI document allows this for actions; according to the vendor's own tools the API rejects it.
        Some(_) if !matches!(old.destination, Destination::Webhook { .. }) => {
            let reason = format!("The destination of type {} cannot be changed", old.destination.kind());
            return Err(body.invalid(&reason, "destination", ""));
        }
        Some(given) => parse_destination(given, Some(&old.destination), "")?,
    };
    body.reject_unknown()?;
    Ok(StreamFields { name, subscriptions, enabled, destination })
}

fn parse_status(body: &mut Object) -> Result<Option<bool>, ApiError> {
    match body.take_string("status", STATUS, (0, 8))?.as_deref() {
        None => Ok(None),
        Some("enabled") => Ok(Some(true)),
        Some("disabled") => Ok(Some(false)),
        Some(other) => Err(body.invalid(&format!("No enum match for: {other}"), "status", STATUS)),
    }
}

/// Parses the subscriptions. Accepts any event type, because Auth0 adds some every few months.
fn parse_subscriptions(body: &mut Object) -> Result<Option<Vec<String>>, ApiError> {
    let Some(list) = body.take_array("subscriptions", SUBSCRIPTIONS)? else { return Ok(None) };
    if list.is_empty() {
        return Err(body.invalid("Array is too short (0), minimum 1", "subscriptions", SUBSCRIPTIONS));
    }
    let read = |(index, item)| {
        let mut item = Object::new(&format!("subscriptions[{index}]"), item)?;
        let name = item.take_string("event_type", "", (1, 128))?.ok_or_else(|| item.missing("event_type"))?;
        item.reject_unknown().map(|()| name)
    };
    list.into_iter().enumerate().map(read).collect::<Result<_, _>>().map(Some)
}

/// Parses a destination. `old` is the one that a PATCH replaces: the type must be the same, and the old secret is kept
/// if the body contains none.
fn parse_destination(
    mut given: Object,
    old: Option<&Destination>,
    tenant: &str,
) -> Result<Destination, ApiError> {
    let kind = given.take_string("type", "", (0, 64))?.ok_or_else(|| given.missing("type"))?;
    let mut inner = given.take_object("configuration")?.ok_or_else(|| given.missing("configuration"))?;
    let destination = match kind.as_str() {
        "webhook" => parse_webhook(&mut inner, old)?,
        // The vendor's example omits the type, and its SDK then sends an empty text. Infer it from the configuration.
        "" if inner.contains("webhook_endpoint") => parse_webhook(&mut inner, old)?,
        _ if old.is_some() => {
            return Err(given.invalid(&format!("No enum match for: {kind}"), "type", ""));
        }
        "eventbridge" => parse_eventbridge(&mut inner, tenant)?,
        "action" => {
            let id = inner.take_string("action_id", "Action ID for the action destination", (1, 128))?;
            Destination::Action { id: id.ok_or_else(|| inner.missing("action_id"))? }
        }
        other => return Err(given.invalid(&format!("No enum match for: {other}"), "type", "")),
    };
    inner.reject_unknown()?;
    given.reject_unknown()?;
    Ok(destination)
}

fn parse_eventbridge(inner: &mut Object, tenant: &str) -> Result<Destination, ApiError> {
    const ACCOUNT: &str = "AWS Account ID for EventBridge destination";
    let account = inner
        .take_string("aws_account_id", ACCOUNT, (0, 64))?
        .ok_or_else(|| inner.missing("aws_account_id"))?;
    if account.len() != 12 || !account.bytes().all(|b| b.is_ascii_digit()) {
        let reason = format!("String does not match pattern ^\\d{{12}}$: {account}");
        return Err(inner.invalid(&reason, "aws_account_id", ACCOUNT));
    }
    let region = inner.take_string("aws_region", "", (0, 64))?.ok_or_else(|| inner.missing("aws_region"))?;
    if !AWS_REGIONS.contains(&region.as_str()) {
        return Err(inner.invalid(&format!("No enum match for: {region}"), "aws_region", ""));
    }
    let source = format!("aws.partner/auth0.com/{tenant}-{}/auth0.events", random_uuid());
    Ok(Destination::Eventbridge { account, region, source })
}

fn parse_webhook(inner: &mut Object, old: Option<&Destination>) -> Result<Destination, ApiError> {
    const ENDPOINT: &str = "Target HTTP endpoint URL";
    let endpoint = inner
        .take_string("webhook_endpoint", ENDPOINT, (0, 2048))?
        .ok_or_else(|| inner.missing("webhook_endpoint"))?;
    if !is_allowed_endpoint(&endpoint) {
        let reason = format!("String does not match pattern ^https://.*: {endpoint}");
        return Err(inner.invalid(&reason, "webhook_endpoint", ENDPOINT));
    }
    let given =
        inner.take_object("webhook_authorization")?.ok_or_else(|| inner.missing("webhook_authorization"))?;
    let mut authorization = parse_authorization(given)?;
    if let Some(Destination::Webhook { authorization: old, .. }) = old {
        authorization.keep_secret_from(old);
    }
    Ok(Destination::Webhook { endpoint, authorization })
}

/// Whether a stream may deliver to a URL: `https`, or `http` to a loopback address, so that a test's receiver needs no
/// certificate.
fn is_allowed_endpoint(endpoint: &str) -> bool {
    let Ok(url) = Url::parse(endpoint) else { return false };
    let is_loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => return false,
    };
    url.scheme() == "https" || (url.scheme() == "http" && is_loopback)
}

fn parse_authorization(mut given: Object) -> Result<Authorization, ApiError> {
    let method = given.take_string("method", "", (0, 64))?.ok_or_else(|| given.missing("method"))?;
    let length = (0, 4096);
    let authorization = match method.as_str() {
        "basic" => parse_basic(&mut given)?,
        // The SDK may omit the method, like the type of the destination.
        "" if given.contains("username") => parse_basic(&mut given)?,
        "bearer" => Authorization::Bearer { token: given.take_string("token", "", length)? },
        "custom_header" => {
            let key = given.take_string("header_key", "HTTP header name", (1, 128))?;
            let key = key.ok_or_else(|| given.missing("header_key"))?;
            if axum::http::HeaderName::try_from(&key).is_err() {
                let reason = format!("String does not match the pattern of a header name: {key}");
                return Err(given.invalid(&reason, "header_key", "HTTP header name"));
            }
            Authorization::CustomHeader { key, value: given.take_string("header_value", "", length)? }
        }
        other => return Err(given.invalid(&format!("No enum match for: {other}"), "method", "")),
    };
    given.reject_unknown().map(|()| authorization)
}

fn parse_basic(given: &mut Object) -> Result<Authorization, ApiError> {
    let username =
        given.take_string("username", "Username", (1, 128))?.ok_or_else(|| given.missing("username"))?;
    if username.contains(':') {
        let reason = format!("String does not match pattern ^[^:]+$: {username}");
        return Err(given.invalid(&reason, "username", "Username"));
    }
    Ok(Authorization::Basic { username, password: given.take_string("password", "", (0, 4096))? })
}

impl Authorization {
    /// Keeps the old secret if the method is the same and the new one has no secret. This was not recorded, but the
    /// vendor's Terraform provider relies on it.
    fn keep_secret_from(&mut self, old: &Authorization) {
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

    fn valid_body() -> Value {
        json!({"name": "n", "subscriptions": [{"event_type": "user.created"}], "status": "enabled",
            "destination": {"type": "webhook", "configuration": {"webhook_endpoint": "https://a.example/",
                "webhook_authorization": {"method": "bearer", "token": "hush"}}}})
    }

    #[test]
    fn allows_https_and_loopback_endpoints() {
        for good in ["https://a.example", "http://127.0.0.1:1/x", "http://[::1]/", "http://localhost:8080/"] {
            assert!(is_allowed_endpoint(good), "{good}");
        }
        for bad in
            ["", "webhook_endpoint", "http://a.example/", "ftp://localhost/", "http://127.0.0.1.example/"]
        {
            assert!(!is_allowed_endpoint(bad), "{bad}");
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
        /// Any value at any place of the body is either rejected with 400 or accepted; the response contains no secret.
        #[test]
        fn accepts_or_rejects_any_body_without_leaking_secret(
            at in prop::sample::select(vec![
                "", "/name", "/subscriptions", "/subscriptions/0", "/status", "/destination", "/destination/type",
                "/destination/configuration", "/destination/configuration/webhook_endpoint",
                "/destination/configuration/webhook_authorization",
                "/destination/configuration/webhook_authorization/method",
            ]),
            value in json_value(),
        ) {
            let mut body = valid_body();
            *body.pointer_mut(at).unwrap() = value;
            let old = parse_create(valid_body(), "t").unwrap_or_else(|_| panic!());
            for result in [parse_create(body.clone(), "t"), parse_patch(body, &old)] {
                match result {
                    Ok(fields) => prop_assert!(!fields.destination.to_json().to_string().contains("hush")),
                    Err(error) => prop_assert_eq!(error.status.as_u16(), 400),
                }
            }
        }
    }
}
