//! Validates EventStreams: the desired event stream at Auth0 and the destination of its events.

use std::sync::Arc;

use url::Url;

use super::hook::{InvalidSpec, check_not_rejected, parse_url};
use crate::api::{
    AdoptMode, Authorization as SpecAuthorization, Destination as SpecDestination, DestinationKind,
    EventStream, EventStreamSpec, ManagementPolicy, Redeliver, Reenable, SecretKeyRef, WebhookDestination,
};

/// A validated EventStream with defaults applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    pub uid: Arc<str>,
    pub namespace: Arc<str>,
    /// The name of the Kubernetes object.
    pub object: Arc<str>,
    /// The name at Auth0.
    pub name: String,
    /// Event types in the order of the spec.
    pub subscriptions: Vec<String>,
    pub destination: Destination,
    pub enabled: bool,
    /// The name of the Connection.
    pub connection: String,
}

/// The destination of a stream's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// This operator's worker.
    Worker(Recovery),
    Webhook {
        /// The text of the spec, unnormalized: it is compared with the text that Auth0 returns.
        endpoint: String,
        authorization: Authorization,
    },
    EventBridge {
        account_id: String,
        region: String,
    },
    Action {
        action_id: String,
    },
}

/// The reaction to a stream that Auth0 has disabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Enable the stream again as soon as the worker responds.
    pub reenable: bool,
    /// Then request redelivery of the failed events.
    pub redeliver: bool,
}

/// How Auth0 authenticates to a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorization {
    Basic { username: String, password: SecretKeyRef },
    Bearer { token: SecretKeyRef },
    Header { name: String, value: SecretKeyRef },
}

impl Authorization {
    /// Returns the reference to the secret part.
    pub fn secret(&self) -> &SecretKeyRef {
        match self {
            Authorization::Basic { password: secret, .. }
            | Authorization::Bearer { token: secret }
            | Authorization::Header { value: secret, .. } => secret,
        }
    }
}

impl Destination {
    pub fn kind(&self) -> DestinationKind {
        match self {
            Destination::Worker(_) => DestinationKind::Worker,
            Destination::Webhook { .. } => DestinationKind::Webhook,
            Destination::EventBridge { .. } => DestinationKind::EventBridge,
            Destination::Action { .. } => DestinationKind::Action,
        }
    }

    /// Returns true if the destination reads the Secret with this name.
    pub fn refers_to(&self, secret: &str) -> bool {
        matches!(self, Destination::Webhook { authorization, .. } if authorization.secret().name == secret)
    }
}

fn invalid(field: &'static str, problem: impl Into<String>) -> InvalidSpec {
    InvalidSpec::InvalidSpec { field, problem: problem.into() }
}

/// Validates an EventStream. Repeats the CRD's rules, because standalone mode has no API server.
pub fn validate(stream: &EventStream) -> Result<Stream, InvalidSpec> {
    check_not_rejected(&stream.metadata)?;
    let spec = &stream.spec;
    let destination = destination(&spec.destination)?;
    if matches!(destination, Destination::Worker(_)) {
        check_worker_destination(spec)?;
    } else if spec.rotation.is_some() {
        return Err(invalid("rotation", "needs destination.worker"));
    }
    if spec.name.is_empty() || spec.name.chars().count() > 128 {
        return Err(invalid("name", "must have 1 to 128 characters"));
    }
    let meta = &stream.metadata;
    Ok(Stream {
        uid: meta.uid.as_deref().unwrap_or_default().into(),
        namespace: meta.namespace.as_deref().unwrap_or_default().into(),
        object: meta.name.as_deref().unwrap_or_default().into(),
        name: spec.name.clone(),
        subscriptions: subscriptions(spec)?,
        destination,
        enabled: spec.enabled.unwrap_or(true),
        connection: spec.connection_ref.name.clone(),
    })
}

/// Rejects policies that compare the existing stream: Auth0 does not return the token that the operator generates.
fn check_worker_destination(spec: &EventStreamSpec) -> Result<(), InvalidSpec> {
    if spec.management_policy == Some(ManagementPolicy::ObserveOnly) {
        return Err(invalid("managementPolicy", "ObserveOnly cannot be combined with destination.worker"));
    }
    if spec.adopt.as_ref().is_some_and(|a| a.mode == AdoptMode::Match) {
        return Err(invalid("adopt.mode", "Match cannot be combined with destination.worker"));
    }
    Ok(())
}

fn subscriptions(spec: &EventStreamSpec) -> Result<Vec<String>, InvalidSpec> {
    let types: Vec<String> = spec.subscriptions.iter().map(|s| s.event_type.clone()).collect();
    let mut unique = types.clone();
    unique.sort_unstable();
    unique.dedup();
    if types.is_empty() || unique.len() != types.len() || types.iter().any(String::is_empty) {
        return Err(invalid("subscriptions", "must name at least one event type, without duplicates"));
    }
    Ok(types)
}

fn destination(spec: &SpecDestination) -> Result<Destination, InvalidSpec> {
    match (&spec.worker, &spec.webhook, &spec.event_bridge, &spec.action) {
        (Some(worker), None, None, None) => {
            let recovery = worker.recovery.clone().unwrap_or_default();
            Ok(Destination::Worker(Recovery {
                reenable: recovery.reenable != Some(Reenable::Never),
                redeliver: recovery.redeliver != Some(Redeliver::None),
            }))
        }
        (None, Some(webhook), None, None) => webhook_destination(webhook),
        (None, None, Some(bridge), None) => {
            if bridge.account_id.len() != 12 || !bridge.account_id.bytes().all(|b| b.is_ascii_digit()) {
                return Err(invalid("destination.eventBridge.accountId", "must be 12 digits, in quotes"));
            }
            Ok(Destination::EventBridge {
                account_id: bridge.account_id.clone(),
                region: bridge.region.clone(),
            })
        }
        (None, None, None, Some(action)) => Ok(Destination::Action { action_id: action.action_id.clone() }),
        _ => Err(invalid("destination", "exactly one of worker, webhook, eventBridge, action must be set")),
    }
}

fn webhook_destination(webhook: &WebhookDestination) -> Result<Destination, InvalidSpec> {
    let field = "destination.webhook.endpoint";
    let endpoint = parse_url(&webhook.endpoint.0).map_err(|e| invalid(field, e))?;
    if endpoint.scheme() != "https" && !is_loopback(&endpoint) {
        return Err(invalid(field, "must be an https URL: Auth0 accepts no other"));
    }
    let authorization = authorization(&webhook.authorization).ok_or_else(|| {
        invalid("destination.webhook.authorization", "exactly one of basic, bearer, customHeader must be set")
    })?;
    Ok(Destination::Webhook { endpoint: webhook.endpoint.0.clone(), authorization })
}

fn authorization(spec: &SpecAuthorization) -> Option<Authorization> {
    match (&spec.basic, &spec.bearer, &spec.custom_header) {
        (Some(basic), None, None) => Some(Authorization::Basic {
            username: basic.username.clone(),
            password: basic.password_secret_ref.clone(),
        }),
        (None, Some(bearer), None) => Some(Authorization::Bearer { token: bearer.token_secret_ref.clone() }),
        (None, None, Some(header)) => {
            Some(Authorization::Header { name: header.name.clone(), value: header.value_secret_ref.clone() })
        }
        _ => None,
    }
}

/// Returns true if the host of a URL is this machine. Emulators run there without TLS.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn stream(changes: Value) -> EventStream {
        let mut spec = json!({"connectionRef": {"name": "auth0"}, "name": "s",
            "subscriptions": [{"eventType": "user.created"}], "destination": {"worker": {}}});
        for (key, value) in changes.as_object().unwrap() {
            spec[key] = value.clone();
        }
        serde_json::from_value(json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventStream",
            "metadata": {"name": "o", "namespace": "n", "uid": "u"}, "spec": spec}))
        .unwrap()
    }

    fn to(destination: Value) -> EventStream {
        stream(json!({ "destination": destination }))
    }

    #[test]
    fn applies_documented_defaults() {
        let valid = validate(&stream(json!({}))).unwrap();
        assert!(valid.enabled);
        assert_eq!(valid.destination, Destination::Worker(Recovery { reenable: true, redeliver: true }));
        assert_eq!((&*valid.object, valid.name.as_str(), valid.connection.as_str()), ("o", "s", "auth0"));
        let never = to(json!({"worker": {"recovery": {"reenable": "Never", "redeliver": "None"}}}));
        let Destination::Worker(recovery) = validate(&never).unwrap().destination else { panic!() };
        assert_eq!(recovery, Recovery { reenable: false, redeliver: false });
    }

    #[test]
    fn validates_every_destination() {
        let bearer = json!({"bearer": {"tokenSecretRef": {"name": "s", "key": "k"}}});
        let webhook = |authorization: Value| {
            to(json!({"webhook": {"endpoint": "https://example.com/a", "authorization": authorization}}))
        };
        let cases = [
            (webhook(bearer.clone()), DestinationKind::Webhook),
            (
                webhook(json!({"basic": {"username": "u", "passwordSecretRef": {"name": "s", "key": "k"}}})),
                DestinationKind::Webhook,
            ),
            (
                webhook(json!({"customHeader": {"name": "x", "valueSecretRef": {"name": "s", "key": "k"}}})),
                DestinationKind::Webhook,
            ),
            (
                to(json!({"eventBridge": {"accountId": "123456789012", "region": "eu-west-1"}})),
                DestinationKind::EventBridge,
            ),
            (to(json!({"action": {"actionId": "a"}})), DestinationKind::Action),
        ];
        for (stream, kind) in cases {
            let valid = validate(&stream).unwrap();
            assert_eq!(valid.destination.kind(), kind);
            assert_eq!(valid.destination.refers_to("s"), kind == DestinationKind::Webhook);
            assert!(!valid.destination.refers_to("other"));
        }
        let local = to(json!({"webhook": {"endpoint": "http://127.0.0.1:1/a", "authorization": bearer}}));
        assert!(validate(&local).is_ok());
    }

    #[test]
    fn names_the_invalid_field() {
        let webhook = |endpoint: &str, authorization: Value| json!({"destination": {"webhook": {"endpoint": endpoint, "authorization": authorization}}});
        let bearer = json!({"bearer": {"tokenSecretRef": {"name": "s", "key": "k"}}});
        let cases = [
            (json!({"destination": {}}), "destination"),
            (json!({"destination": {"worker": {}, "action": {"actionId": "a"}}}), "destination"),
            (webhook("http://example.com", bearer.clone()), "destination.webhook.endpoint"),
            (webhook("https://u:p@example.com", bearer), "destination.webhook.endpoint"),
            (webhook("https://example.com", json!({})), "destination.webhook.authorization"),
            (
                json!({"destination": {"eventBridge": {"accountId": "1", "region": "r"}}}),
                "destination.eventBridge.accountId",
            ),
            (json!({"subscriptions": []}), "subscriptions"),
            (json!({"subscriptions": [{"eventType": "a"}, {"eventType": "a"}]}), "subscriptions"),
            (json!({"name": ""}), "name"),
            (json!({"managementPolicy": "ObserveOnly"}), "managementPolicy"),
            (json!({"adopt": {"id": "a", "mode": "Match"}}), "adopt.mode"),
            (json!({"rotation": "a", "destination": {"action": {"actionId": "a"}}}), "rotation"),
        ];
        for (changes, want) in cases {
            match validate(&stream(changes)).unwrap_err() {
                InvalidSpec::InvalidSpec { field, .. } => assert_eq!(field, want),
                other => panic!("{other}"),
            }
        }
    }
}
