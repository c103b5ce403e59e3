//! Connections, EventStreams and Hooks of an Auth0 tenant.

use serde_json::{Value, json};

use super::auth0::{Auth0, CLIENT_ID, CLIENT_SECRET};
use super::manifests::merge;
use super::objects::{object, secret};
use super::world::World;

/// Returns the spec of a Connection to the tenant.
pub fn tenant(auth0: &Auth0) -> Value {
    json!({
        "auth0": {"domain": auth0.domain, "clientCredentials":
            {"clientId": CLIENT_ID, "clientSecretRef": {"name": "auth0", "key": "secret"}}},
        "rateLimit": {"requests": 1000, "burst": 1000},
    })
}

/// Applies the tenant's Connection and its Secret.
pub async fn connect(world: &World, auth0: &Auth0) {
    world
        .apply(&[secret("auth0", "secret", CLIENT_SECRET), object("Connection", "auth0", tenant(auth0))])
        .await;
}

pub fn spec(name: &str, destination: Value) -> Value {
    json!({"connectionRef": {"name": "auth0"}, "name": name, "subscriptions": [{"eventType": "user.created"}],
           "destination": destination})
}

pub fn stream(name: &str, destination: Value) -> Value {
    object("EventStream", name, spec(name, destination))
}

/// Merges `extra` into the spec of a stream.
pub fn with_spec(mut stream: Value, extra: Value) -> Value {
    merge(&mut stream["spec"], extra);
    stream
}

/// Returns a webhook destination with a bearer token from the Secret `receiver`.
pub fn bearer(endpoint: &str) -> Value {
    let token = json!({"tokenSecretRef": {"name": "receiver", "key": "token"}});
    json!({"webhook": {"endpoint": endpoint, "authorization": {"bearer": token}}})
}

pub fn hook(name: &str, extra: Value) -> Value {
    let mut spec = json!({"connectionRef": {"name": "auth0"}, "name": name, "triggerId": "credentials-exchange",
        "script": "module.exports = 1"});
    merge(&mut spec, extra);
    object("Hook", name, spec)
}
