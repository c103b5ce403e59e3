//! Kong's admin API, as far as event hooks need it.

mod call;
mod hook;
mod ladder;
mod manifest;

use std::sync::Arc;

use http::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use sha2::{Digest, Sha256};
use url::Url;

use super::answer::{parse_object, that_one, unexpected};
use super::limit::AdminHttp;
use super::pages::Pages;
use super::{AdminError, ExternalClient, Listed, Scope};
use call::Call;

pub use hook::{KongHook, config_fields};
pub use ladder::Learned;
pub use manifest::{Manifests, is_relay, manifests};

/// The header that carries the token unless the Connection names another.
pub const TOKEN_HEADER: &str = "kong-admin-token";
const PAGE_SIZE: usize = 1000;

/// How one gateway is reached.
#[derive(Clone, Debug)]
pub struct KongAccess {
    /// The client with the TLS options and the rate of the Connection.
    pub http: AdminHttp,
    pub admin_url: Url,
    /// None: the default workspace, which is addressed without a prefix.
    pub workspace: Option<String>,
    pub token: Option<(String, SecretString)>,
    /// What the gateway was found to be able to do.
    pub learned: Arc<Learned>,
}

impl KongAccess {
    /// The address, without anything secret.
    pub fn endpoint(&self) -> String {
        self.admin_url.as_str().trim_end_matches('/').to_owned()
    }
}

/// A gateway's event hooks.
#[derive(Clone, Debug)]
pub struct KongClient {
    access: KongAccess,
}

impl KongClient {
    pub fn new(access: KongAccess) -> Self {
        KongClient { access }
    }

    /// The version that the gateway tells of itself.
    pub async fn version(&self) -> Result<Option<String>, AdminError> {
        let answer = self.access.call(Method::GET, Call::default()).await.map_err(|refusal| refusal.error)?;
        let body = parse_object(&answer)?;
        match body.get("version") {
            Some(Value::String(version)) => Ok(Some(version.chars().take(128).collect())),
            _ => Err(unexpected(&answer, "no version in the answer: is this a Kong admin API?")),
        }
    }

    /// The sources of events that the gateway knows, each with its events.
    pub async fn sources(&self) -> Result<Value, AdminError> {
        let path = &["event-hooks", "sources"];
        let answer = self.access.call(Method::GET, Call { path, ..Call::default() }).await;
        let answer = answer.map_err(|refusal| refusal.error)?;
        match parse_object(&answer)?.get_mut("data").map(Value::take) {
            Some(sources @ Value::Object(_)) => Ok(sources),
            _ => Err(unexpected(&answer, "sources without data")),
        }
    }
}

impl ExternalClient for KongClient {
    type Desired = KongHook;

    const SECRETS_READ_BACK: bool = true;

    fn scope(&self) -> Scope {
        let KongAccess { admin_url, workspace, token, .. } = &self.access;
        let token = token.as_ref().map(|(name, token)| (name, token.expose_secret()));
        Sha256::digest(format!("event-hooks {admin_url} {workspace:?} {token:?}")).into()
    }

    fn takes_ids(&self) -> bool {
        let known = self.access.learned.known();
        known.put != Some(false) || known.client_id != Some(false)
    }

    fn surely_takes_ids(&self) -> bool {
        let known = self.access.learned.known();
        known.put == Some(true) || known.client_id == Some(true)
    }

    async fn list(&self) -> Result<Listed, AdminError> {
        let (mut pages, mut offset) = (Pages::default(), None::<String>);
        loop {
            let mut query = format!("size={PAGE_SIZE}");
            if let Some(offset) = &offset {
                query.push_str("&offset=");
                query.extend(url::form_urlencoded::byte_serialize(offset.as_bytes()));
            }
            let call = Call { path: &["event-hooks"], query: Some(&query), ..Call::default() };
            let answer = self.access.call(Method::GET, call).await.map_err(|refusal| refusal.error)?;
            let mut page = parse_object(&answer)?;
            let Some(Value::Array(items)) = page.get_mut("data").map(Value::take) else {
                return Err(unexpected(&answer, "a list without data"));
            };
            let empty = items.is_empty();
            pages.take(&answer, items.into_iter().map(hook::normal).collect())?;
            match page.get("offset") {
                // What follows would be taken for missing.
                Some(Value::String(_)) if empty => {
                    return Err(unexpected(&answer, "an empty page of the list names a next one"));
                }
                Some(Value::String(next)) => offset = Some(next.clone()),
                None | Some(Value::Null) => return Ok(pages.end()),
                Some(_) => return Err(unexpected(&answer, "the offset of the next page is no text")),
            }
        }
    }

    async fn observe(&self, id: &str) -> Result<Option<Value>, AdminError> {
        let path = &["event-hooks", id];
        match self.access.call(Method::GET, Call { path, ..Call::default() }).await.map_err(|r| r.error) {
            Ok(answer) => Ok(Some(hook::normal(that_one(&answer, id, parse_object(&answer)?)?))),
            Err(error) if error.is_gone() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn create(&self, id: Option<&str>, desired: &KongHook) -> Result<Value, AdminError> {
        self.make(id, desired).await
    }

    async fn update(&self, id: &str, desired: &KongHook, _fields: &[String]) -> Result<Value, AdminError> {
        self.change(id, desired).await
    }

    async fn delete(&self, id: &str) -> Result<(), AdminError> {
        let path = &["event-hooks", id];
        match self.access.call(Method::DELETE, Call { path, ..Call::default() }).await.map_err(|r| r.error) {
            Ok(_) => Ok(()),
            Err(error) if error.is_gone() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn readable(object: &Value) -> Value {
        hook::readable(object)
    }
}

#[cfg(test)]
mod tests;
