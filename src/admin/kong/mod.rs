//! Client of Kong's admin API for event hooks.

mod capabilities;
mod hook;
mod manifest;
mod request;
mod write;

use std::sync::Arc;

use http::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use sha2::{Digest, Sha256};
use url::Url;

use super::absence::{resolve_delete, resolve_read};
use super::limit::AdminHttp;
use super::pages::{PageCollector, PageShape};
use super::response::{check_complete, expect_id, parse_object, unexpected_response};
use super::{AdminError, AdminMemory, ExternalClient, ListFilter, ListScope, Listing};
use request::KongRequest;

pub use capabilities::DetectedCapabilities;
pub use hook::{KongHook, config_fields};
pub use manifest::{KongManifests, hook_manifests, is_relay};

/// The header that carries the token unless the Connection names another.
pub const TOKEN_HEADER: &str = "kong-admin-token";
/// The hooks of a page: Kong's maximum, and the smallest to which a page shrinks that is too large.
const PAGE_SIZE: usize = 1000;
const MIN_PAGE_SIZE: usize = 10;
const PAGE: PageShape =
    PageShape { list: "data", members: &["data", "offset"], is_lua: true, may_be_bare: false };

/// The address and credentials of one gateway.
#[derive(Clone, Debug)]
pub struct KongAccess {
    /// The client with the TLS options and the rate of the Connection.
    pub http: AdminHttp,
    pub admin_url: Url,
    /// None is the default workspace, which has no path prefix.
    pub workspace: Option<String>,
    /// The name of the token's header, and the token.
    pub token: Option<(String, SecretString)>,
    pub capabilities: Arc<DetectedCapabilities>,
}

impl KongAccess {
    /// The address, without credentials.
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

    /// Reads the gateway's version, at most 128 characters.
    pub async fn version(&self) -> Result<Option<String>, AdminError> {
        let response =
            self.access.send(Method::GET, KongRequest::default()).await.map_err(|failed| failed.error)?;
        let body = parse_object(&response)?;
        match body.get("version") {
            Some(Value::String(version)) => Ok(Some(version.chars().take(128).collect())),
            _ => Err(unexpected_response(&response, "no version in the response: is this a Kong admin API?")),
        }
    }

    /// Checks that the gateway lists the hooks of the workspace.
    pub async fn check_list(&self) -> Result<(), AdminError> {
        let (path, query) = (&["event-hooks"], Some("size=1"));
        let request = KongRequest { path, query, ..KongRequest::default() };
        let response = self.access.send(Method::GET, request).await.map_err(|failed| failed.error)?;
        check_complete(&response)
    }

    /// Reads the event sources that the gateway supports, each with its events.
    pub async fn sources(&self) -> Result<Value, AdminError> {
        let path = &["event-hooks", "sources"];
        let response = self.access.send(Method::GET, KongRequest { path, ..KongRequest::default() }).await;
        let response = response.map_err(|failed| failed.error)?;
        match parse_object(&response)?.get_mut("data").map(Value::take) {
            Some(sources @ Value::Object(_)) => Ok(sources),
            _ => Err(unexpected_response(&response, "sources without data")),
        }
    }
}

impl ExternalClient for KongClient {
    type Desired = KongHook;

    const SECRETS_READ_BACK: bool = true;
    const RELAY_URL: Option<&'static str> = Some("/config/url");

    fn list_scope(&self) -> ListScope {
        let KongAccess { http, admin_url, workspace, token, .. } = &self.access;
        let token = token.as_ref().map(|(name, token)| (name, token.expose_secret()));
        let tls = http.tls_identity();
        Sha256::digest(format!("event-hooks {admin_url} {workspace:?} {token:?} {tls:?}")).into()
    }

    fn may_accept_client_ids(&self) -> bool {
        let known = self.access.capabilities.current();
        known.put != Some(false) || known.client_id != Some(false)
    }

    fn accepts_client_ids(&self) -> bool {
        let known = self.access.capabilities.current();
        known.put == Some(true) || known.client_id == Some(true)
    }

    fn memory(&self) -> AdminMemory {
        self.access.http.memory()
    }

    async fn list(&self, filter: ListFilter<'_>) -> Result<Listing, AdminError> {
        let (mut pages, mut offset) = (PageCollector::new(filter, self.memory()), None::<String>);
        let mut size = PAGE_SIZE;
        loop {
            let mut query = format!("size={size}");
            if let Some(offset) = &offset {
                query.push_str("&offset=");
                query.extend(url::form_urlencoded::byte_serialize(offset.as_bytes()));
            }
            let request =
                KongRequest { path: &["event-hooks"], query: Some(&query), ..KongRequest::default() };
            let response = match self.access.send(Method::GET, request).await.map_err(|failed| failed.error) {
                Ok(response) if !response.is_too_long || size <= MIN_PAGE_SIZE => response,
                Err(error) if !matches!(error, AdminError::ResponseTooLarge(_)) || size <= MIN_PAGE_SIZE => {
                    return Err(error);
                }
                // A thousand hooks with lambdas exceed any bound. An offset holds for every size.
                Ok(_) | Err(_) => {
                    size /= 10;
                    continue;
                }
            };
            let page = pages.add_page(&response, &PAGE)?;
            let Some(count) = page.objects else {
                return Err(unexpected_response(&response, "a list without data"));
            };
            match page.member("offset") {
                // Ending the list here would make the objects of later pages look deleted.
                Some(Value::String(_)) if count == 0 => {
                    return Err(unexpected_response(&response, "an empty page of the list names a next one"));
                }
                Some(Value::String(next)) => offset = Some(next.clone()),
                None => return Ok(pages.finish()),
                Some(_) => {
                    return Err(unexpected_response(
                        &response,
                        "the offset of the next page is not a string",
                    ));
                }
            }
        }
    }

    fn normalize(item: Value) -> Value {
        hook::normalize(item)
    }

    async fn observe(&self, id: &str) -> Result<Option<Value>, AdminError> {
        let path = &["event-hooks", id];
        match self
            .access
            .send(Method::GET, KongRequest { path, ..KongRequest::default() })
            .await
            .map_err(|failed| failed.error)
        {
            Ok(response) => Ok(Some(hook::normalize(expect_id(&response, id, parse_object(&response)?)?))),
            Err(error) => resolve_read(self, id, error).await,
        }
    }

    async fn create(&self, id: Option<&str>, desired: &KongHook) -> Result<Value, AdminError> {
        self.create_hook(id, desired).await
    }

    async fn update(&self, id: &str, desired: &KongHook, _fields: &[String]) -> Result<Value, AdminError> {
        self.update_hook(id, desired).await
    }

    async fn delete(&self, id: &str) -> Result<(), AdminError> {
        let path = &["event-hooks", id];
        match self
            .access
            .send(Method::DELETE, KongRequest { path, ..KongRequest::default() })
            .await
            .map_err(|failed| failed.error)
        {
            Ok(_) => Ok(()),
            Err(error) => resolve_delete(self, id, error).await,
        }
    }

    fn comparable_fields(object: &Value) -> Value {
        hook::comparable_fields(object)
    }
}

#[cfg(test)]
mod tests;
