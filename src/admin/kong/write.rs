//! Creates and updates hooks with the requests that the gateway supports.
//!
//! A create tries PUT to a client-chosen id, then POST with that id, then POST without an id. The reconciler finds a
//! hook without a client-chosen id by its create record. An update tries PUT, then PATCH; otherwise the reconciler
//! deletes and recreates the hook.

use http::Method;
use serde_json::{Value, json};

use super::hook::normalize;
use super::request::{KongError, KongRequest};
use super::{KongClient, KongHook};
use crate::admin::response::{expect_id, parse_object, unexpected_response};
use crate::admin::{AdminError, ExternalClient};

/// Returns true if the gateway does not support the verb. A 404 says nothing about the verb: the workspace may be wrong.
fn is_unsupported_verb(failed: &KongError) -> bool {
    matches!(failed.status, Some(405 | 501))
}

impl KongClient {
    fn body(desired: &KongHook, id: Option<&str>) -> Vec<u8> {
        let mut body = serde_json::to_value(desired).unwrap_or_default();
        if let (Some(id), Some(members)) = (id, body.as_object_mut()) {
            members.insert("id".into(), json!(id));
        }
        serde_json::to_vec(&body).unwrap_or_default()
    }

    async fn send_hook(
        &self,
        method: Method,
        path: &[&str],
        desired: &KongHook,
        id: Option<&str>,
    ) -> Result<Value, KongError> {
        let body = Some(Self::body(desired, id));
        let is_update = method != Method::POST;
        let request = KongRequest { path, query: None, body, secrets: desired.secrets() };
        let response = self.access.send(method, request).await?;
        let hook = normalize(parse_object(&response)?);
        match path.last() {
            Some(id) if is_update => Ok(expect_id(&response, id, hook)?),
            // Without an id the new object is unknown; the reconciler then finds it by its create record.
            _ if Self::id(&hook).is_none() => {
                Err(unexpected_response(&response, "the created hook has no id").into())
            }
            _ => Ok(hook),
        }
    }

    /// Writes a hook by PUT; None if the gateway does not support PUT.
    async fn try_put(&self, id: &str, desired: &KongHook) -> Result<Option<Value>, AdminError> {
        let capabilities = &self.access.capabilities;
        if capabilities.current().put == Some(false) {
            return Ok(None);
        }
        match self.send_hook(Method::PUT, &["event-hooks", id], desired, None).await {
            Ok(hook) => {
                capabilities.set_put(true);
                Ok(Some(hook))
            }
            Err(failed) if is_unsupported_verb(&failed) => {
                capabilities.set_put(false);
                Ok(None)
            }
            Err(failed) => Err(failed.error),
        }
    }

    /// Creates a hook, with a client-chosen id if one is given.
    pub(super) async fn create_hook(
        &self,
        id: Option<&str>,
        desired: &KongHook,
    ) -> Result<Value, AdminError> {
        let Some(id) = id else {
            return self
                .send_hook(Method::POST, &["event-hooks"], desired, None)
                .await
                .map_err(|failed| failed.error);
        };
        if let Some(hook) = self.try_put(id, desired).await? {
            return Ok(hook);
        }
        let capabilities = &self.access.capabilities;
        if capabilities.current().client_id == Some(false) {
            return Err(AdminError::Unsupported("client-chosen ids"));
        }
        match self.send_hook(Method::POST, &["event-hooks"], desired, Some(id)).await {
            // A gateway that ignores unknown fields created the hook with its own id, which the response contains.
            Ok(hook) if Self::id(&hook) != Some(id) => {
                capabilities.set_client_id(false);
                Ok(hook)
            }
            Ok(hook) => {
                capabilities.set_client_id(true);
                Ok(hook)
            }
            Err(failed) => self.handle_post_error(id, desired, failed).await,
        }
    }

    /// Decides about a failed POST with a client-chosen id: updates the hook if it already exists.
    async fn handle_post_error(
        &self,
        id: &str,
        desired: &KongHook,
        failed: KongError,
    ) -> Result<Value, AdminError> {
        /// Kong's error codes.
        const SCHEMA_VIOLATION: i64 = 2;
        const PRIMARY_KEY_VIOLATION: i64 = 3;
        if failed.code == Some(SCHEMA_VIOLATION) && failed.concerns_id {
            self.access.capabilities.set_client_id(false);
            return Err(AdminError::Unsupported("client-chosen ids"));
        }
        // The hook exists: the response of an earlier create was lost, or reads do not show it yet.
        if failed.code == Some(PRIMARY_KEY_VIOLATION) || failed.status == Some(409) {
            self.access.capabilities.set_client_id(true);
            return match self.update(id, desired, &[]).await {
                Err(AdminError::NotFound(_)) => Err(failed.error),
                other => other,
            };
        }
        Err(failed.error)
    }

    /// Updates a hook to the desired state.
    pub(super) async fn update_hook(&self, id: &str, desired: &KongHook) -> Result<Value, AdminError> {
        // Prefer PUT: it resets fields that the spec no longer sets to the gateway's defaults.
        if let Some(hook) = self.try_put(id, desired).await? {
            return Ok(hook);
        }
        let capabilities = &self.access.capabilities;
        if capabilities.current().patch == Some(false) {
            return Err(AdminError::Unsupported("updates of a hook"));
        }
        match self.send_hook(Method::PATCH, &["event-hooks", id], desired, None).await {
            Ok(hook) => {
                capabilities.set_patch(true);
                Ok(hook)
            }
            Err(failed) if is_unsupported_verb(&failed) => {
                capabilities.set_patch(false);
                Err(AdminError::Unsupported("updates of a hook"))
            }
            Err(failed) => Err(failed.error),
        }
    }
}
