//! Tests the Auth0 clients against a scripted server.

mod errors;
mod hooks;
mod streams;
mod tokens;

use std::collections::BTreeMap;
use std::sync::Arc;

use secrecy::SecretString;
use serde_json::{Value, json};

use super::*;
use crate::admin::ListFilter;
use crate::admin::testing::{ReceivedRequest, ScriptedServer, raw, reply};

/// A scripted tenant.
#[derive(Clone)]
struct FakeTenant {
    server: ScriptedServer,
    http: AdminHttp,
    logins: Arc<LoginCache>,
}

impl std::ops::Deref for FakeTenant {
    type Target = ScriptedServer;

    fn deref(&self) -> &ScriptedServer {
        &self.server
    }
}

const LOGIN: &str = "POST /oauth/token";

impl FakeTenant {
    /// Starts a server with these responses. A login without a scripted response returns `token-N`.
    async fn start(respond: impl Fn(&ReceivedRequest) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        let login_count = std::sync::atomic::AtomicUsize::new(0);
        let server = ScriptedServer::start(move |request| {
            let granted = |n: usize| json!({"access_token": format!("token-{n}"), "expires_in": 86400});
            let number = match request.line == LOGIN {
                true => login_count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1,
                false => 0,
            };
            let login = || (number > 0).then(|| reply(200, &[], &granted(number)));
            respond(request).or_else(login).unwrap_or_else(|| reply(404, &[], &missing_stream()))
        })
        .await;
        FakeTenant { http: server.client(), server, logins: Arc::default() }
    }

    fn access(&self) -> Auth0Access {
        let credentials = Credentials::Client {
            id: "client".into(),
            secret: SecretString::from("cl13nt s3cret"),
            audience: "https://x/api/v2/".into(),
        };
        self.access_with(credentials)
    }

    fn access_with(&self, credentials: Credentials) -> Auth0Access {
        let login = self.logins.login(&self.base, credentials);
        Auth0Access { http: self.http.clone(), base: self.base.clone(), login }
    }

    /// Returns a tenant with the same login and a client with a fresh rate limit.
    fn with_new_client(&self) -> FakeTenant {
        FakeTenant { http: self.server.client(), ..self.clone() }
    }

    fn streams(&self) -> StreamClient {
        StreamClient::new(self.access())
    }

    fn hooks(&self) -> HookClient {
        HookClient::new(self.access())
    }

    fn login_count(&self) -> usize {
        self.count(LOGIN)
    }
}

/// Responds with the stream or hook of the request.
fn requested_object(request: &ReceivedRequest) -> Vec<u8> {
    reply(200, &[], &json!({"id": request.last_segment()}))
}

fn missing_stream() -> Value {
    json!({"statusCode": 404, "error": "Not Found", "message": "The requested stream does not exist."})
}

fn missing_hook() -> Value {
    json!({"statusCode": 404, "error": "Not Found", "message": "Error: Hook does not exist",
           "errorCode": "HookDoesNotExist"})
}

fn stream_with_token(token: &str) -> StreamBody {
    let authorization = WebhookAuthorization::Bearer { token: SecretString::from(token) };
    StreamBody {
        name: "s".into(),
        subscriptions: vec!["user.updated".into(), "user.created".into()],
        enabled: true,
        destination: DestinationBody::Webhook { endpoint: "https://e/x".into(), authorization },
    }
}

fn hook_with_secrets(secrets: &[(&str, &str)]) -> HookBody {
    let secrets = secrets.iter().map(|(n, v)| ((*n).to_owned(), SecretString::from(*v)));
    HookBody {
        name: "h".into(),
        trigger: "credentials-exchange".into(),
        script: "x".into(),
        dependencies: BTreeMap::from([("lodash".into(), "4".into())]),
        enabled: true,
        secrets: secrets.collect(),
    }
}

#[test]
fn tenant_urls() {
    let text = |domain: &str| tenant_url(domain).map(String::from);
    assert_eq!(text("acme.eu.auth0.com").as_deref(), Some("https://acme.eu.auth0.com/"));
    assert_eq!(text("127.0.0.1:8002").as_deref(), Some("http://127.0.0.1:8002/"));
    assert_eq!(text("localhost:8002").as_deref(), Some("http://localhost:8002/"));
    for wrong in ["acme.eu.auth0.com/x", "u@acme.eu.auth0.com", "a?b", "", ":1"] {
        assert_eq!(text(wrong), None, "{wrong}");
    }
}
