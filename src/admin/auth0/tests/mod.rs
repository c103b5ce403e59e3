//! What the clients of Auth0 send, and what they make of the answers, from a server that says what it is told.

mod answers;
mod hooks;
mod streams;
mod tokens;

use std::collections::BTreeMap;
use std::sync::Arc;

use secrecy::SecretString;
use serde_json::{Value, json};

use super::*;
use crate::admin::testing::{Seen, Server, raw, reply};

#[derive(Clone)]
struct Fake {
    server: Server,
    http: AdminHttp,
    tokens: Arc<Tokens>,
}

impl std::ops::Deref for Fake {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

const LOGIN: &str = "POST /oauth/token";

impl Fake {
    /// A server that gives these answers; logins get `token-N`, unless the answers say otherwise.
    async fn start(answer: impl Fn(&Seen) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        let logins = std::sync::atomic::AtomicUsize::new(0);
        let server = Server::start(move |seen| {
            let granted = |n: usize| json!({"access_token": format!("token-{n}"), "expires_in": 86400});
            let number = match seen.line == LOGIN {
                true => logins.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1,
                false => 0,
            };
            let login = || (number > 0).then(|| reply(200, &[], &granted(number)));
            answer(seen).or_else(login).unwrap_or_else(|| reply(404, &[], &missing()))
        })
        .await;
        Fake { http: server.client(), server, tokens: Arc::default() }
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
        let login = self.tokens.login(&self.base, credentials);
        Auth0Access { http: self.http.clone(), base: self.base.clone(), login }
    }

    /// Another client of the same login, whom nothing holds up.
    fn anew(&self) -> Fake {
        Fake { http: self.server.client(), ..self.clone() }
    }

    fn streams(&self) -> StreamClient {
        StreamClient::new(self.access())
    }

    fn hooks(&self) -> HookClient {
        HookClient::new(self.access())
    }

    fn logins(&self) -> usize {
        self.count(LOGIN)
    }
}

/// The stream or hook that was asked for.
fn asked_for(seen: &Seen) -> Vec<u8> {
    reply(200, &[], &json!({"id": seen.step()}))
}

fn missing() -> Value {
    json!({"statusCode": 404, "error": "Not Found", "message": "The requested stream does not exist."})
}

fn no_hook() -> Value {
    json!({"statusCode": 404, "error": "Not Found", "message": "Error: Hook does not exist",
           "errorCode": "HookDoesNotExist"})
}

fn bearer(token: &str) -> StreamBody {
    let authorization = WebhookAuthorization::Bearer { token: SecretString::from(token) };
    StreamBody {
        name: "s".into(),
        subscriptions: vec!["user.updated".into(), "user.created".into()],
        enabled: true,
        destination: DestinationBody::Webhook { endpoint: "https://e/x".into(), authorization },
    }
}

fn script(secrets: &[(&str, &str)]) -> HookBody {
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
fn addresses() {
    let text = |domain: &str| address(domain).map(String::from);
    assert_eq!(text("acme.eu.auth0.com").as_deref(), Some("https://acme.eu.auth0.com/"));
    assert_eq!(text("127.0.0.1:8002").as_deref(), Some("http://127.0.0.1:8002/"));
    assert_eq!(text("localhost:8002").as_deref(), Some("http://localhost:8002/"));
    for wrong in ["acme.eu.auth0.com/x", "u@acme.eu.auth0.com", "a?b", "", ":1"] {
        assert_eq!(text(wrong), None, "{wrong}");
    }
}
