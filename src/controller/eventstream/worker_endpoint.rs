//! The worker as a destination of Auth0: its public address and the token that it accepts.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

use crate::admin::auth0::StreamClient;
use crate::api::{EventStream, StreamSettings};
use crate::cluster::ClusterError;
use crate::controller::context::Context;
use crate::controller::error::SyncError;
use crate::controller::reconcile::VendorAccess;
use crate::core::hook::parse_url;
use crate::core::keys::KeyRing;
use crate::core::relay_mark::RelayMark;
use crate::core::stream::{self, Stream};
use crate::core::stream_auth;
use crate::net::HttpClient;

const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_PROBE_RESPONSE: usize = 64 * 1024;

/// The worker's public address for one stream, and the token that it accepts.
pub struct WorkerEndpoint {
    pub url: Url,
    pub token: SecretString,
}

impl WorkerEndpoint {
    /// Uses the public address of the Connection, otherwise that of the operator. Never uses the address for Kong,
    /// which may be a Service's name: Auth0 calls from the internet.
    pub fn new(
        object: &EventStream,
        stream: &Stream,
        vendor: &VendorAccess<StreamClient>,
        settings: &StreamSettings,
        key_ring: &KeyRing,
        context: &Context,
    ) -> Result<Self, SyncError> {
        let mut url = match &vendor.connection.spec.ingest_url {
            Some(text) => parse_url(&text.0).map_err(|_| SyncError::PublicIngestUrlMissing)?,
            None => context.options.public_ingest_url.clone().ok_or(SyncError::PublicIngestUrlMissing)?,
        };
        if url.scheme() != "https" && !stream::is_loopback(&url) {
            return Err(SyncError::PublicIngestUrlUnusable(url));
        }
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["v1", "namespaces", &stream.namespace, "streams", &stream.object]);
        }
        let key = settings.key_id.as_deref().unwrap_or_default();
        let installation = vendor.installation.as_deref();
        if let Some(mark) = installation.and_then(|id| RelayMark::new(key_ring, key, id, &object.metadata)) {
            mark.append_to(&mut url);
        }
        let token = stream_auth::derive_token(key_ring, key, object, settings.rotation.as_deref())
            .ok_or_else(|| ClusterError::KeyRing(format!("it has no key {key}")))?;
        Ok(WorkerEndpoint { url, token })
    }

    /// Checks that the worker accepts events at the address and with the token that Auth0 has. Sends an empty body,
    /// which a healthy worker rejects as malformed. The error is a message for users.
    pub async fn probe(&self, http: &HttpClient) -> Result<(), String> {
        let url = &self.url;
        let request = Request::builder()
            .method(Method::POST)
            .uri(url.as_str())
            .header("authorization", format!("Bearer {}", self.token.expose_secret()))
            .header("content-type", "application/json")
            .body(Full::from(Bytes::new()))
            .map_err(|e| e.to_string())?;
        let response = http.send(request, PROBE_TIMEOUT, MAX_PROBE_RESPONSE).await;
        let response = response.map_err(|e| format!("{url}: {e}"))?;
        let body: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        // Only the worker's response contains a reason; a response of a proxy in front of it does not.
        let reason = body.get("reason").and_then(Value::as_str);
        match (response.status.as_u16(), reason) {
            (400, Some(_)) => Ok(()),
            (code, Some(reason)) => Err(format!("{url} answers {code} ({reason:.64})")),
            (code, None) => Err(format!("{url} answers {code}, which is not the worker")),
        }
    }
}
