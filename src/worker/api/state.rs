//! The shared state of the API's routes: dependencies, authorization, path parameters, common problems.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use http::HeaderMap;
use serde::Deserialize;
use uuid::Uuid;

use super::hooks::table::HookTableCache;
use super::measure::StatusSources;
use super::rights;
use crate::cluster::{AuthorizationError, Cluster, Permission, View};
use crate::core::names::is_namespace;
use crate::memory::MemoryBudget;
use crate::metrics::Metrics;
use crate::worker::body::{BodySender, read_body};
use crate::worker::dispatch::DispatchHandle;
use crate::worker::handlers::HandlerRunner;
use crate::worker::index::HookIndex;
use crate::worker::namespaces::Namespaces;
use crate::worker::problem::HttpProblem;
use crate::worker::report::ReportQueues;
use crate::worker::request::{PathNames, token};
use crate::worker::store::{ALL_NAMESPACES, HistoryStore, StoreError};

/// The RBAC resource of the permissions for deliveries. It exists only in RBAC rules; the API server does not serve it.
pub const RESOURCE: &str = "deliveries";
/// The longest event id in bytes.
pub const MAX_EVENT_ID: usize = 512;

/// The largest body in bytes of a request that has only a few names and times.
const MAX_BODY: usize = 16 * 1024;

/// The dependencies of the routes.
pub struct ApiState {
    pub cluster: Arc<dyn Cluster>,
    pub view: View,
    pub store: Arc<dyn HistoryStore>,
    pub index: Arc<HookIndex>,
    pub dispatch: DispatchHandle,
    pub metrics: Arc<Metrics>,
    pub namespaces: Arc<Namespaces>,
    pub runner: Arc<HandlerRunner>,
    pub reports: Arc<ReportQueues>,
    pub max_event_bytes: usize,
    pub memory: MemoryBudget,
    pub status: Arc<StatusSources>,
    pub hook_table: Arc<HookTableCache>,
}

impl ApiState {
    /// Authorizes the client. Then checks the namespace's uid, so that a recreated namespace does not show the history
    /// of the deleted one.
    pub async fn authorize(&self, headers: &HeaderMap, access: Permission<'_>) -> Result<(), HttpProblem> {
        self.cluster.authorize(token(headers), access).await.map_err(|error| denied(error, &access))?;
        self.namespaces.check_before_read(access.namespace).await;
        Ok(())
    }
}

impl ApiState {
    /// Returns whether the client has a further permission, after it was authorized.
    pub async fn is_authorized(
        &self,
        headers: &HeaderMap,
        access: Permission<'_>,
    ) -> Result<bool, HttpProblem> {
        match self.cluster.authorize(token(headers), access).await {
            Ok(()) => Ok(true),
            Err(AuthorizationError::Forbidden) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Authorizes the client for one namespace or, with `ALL_NAMESPACES`, for all. The uids of all namespaces are not checked:
    /// that takes a request each, the worker does it every minute, and this client may read every namespace.
    pub async fn authorize_list(
        &self,
        headers: &HeaderMap,
        access: Permission<'_>,
    ) -> Result<(), HttpProblem> {
        if access.namespace != ALL_NAMESPACES {
            return self.authorize(headers, access).await;
        }
        // The API server reads a review without a namespace as one for all namespaces.
        match self.cluster.authorize(token(headers), access).await {
            Err(AuthorizationError::Forbidden) => Err(HttpProblem {
                detail: "the caller lacks this permission for all namespaces".to_owned(),
                ..denied(AuthorizationError::Forbidden, &access)
            }),
            other => Ok(other?),
        }
    }
}

/// Returns the problem of a client that is not authorized. It names the role that has the permission.
fn denied(error: AuthorizationError, access: &Permission<'_>) -> HttpProblem {
    let role = rights::role_of(access).filter(|_| error == AuthorizationError::Forbidden);
    HttpProblem { role, ..HttpProblem::from(error) }
}

/// A delivery, or a bulk replay, in a request's path.
#[derive(Deserialize)]
pub struct IdPath {
    pub namespace: String,
    pub id: Uuid,
}

impl PathNames for IdPath {
    fn are_valid(&self) -> bool {
        is_namespace(&self.namespace)
    }
}

/// An event in a request's path. The id may be any text, because the event's sender chose it.
#[derive(Deserialize)]
pub struct EventPath {
    pub namespace: String,
    pub event: String,
}

impl PathNames for EventPath {
    fn are_valid(&self) -> bool {
        is_namespace(&self.namespace) && (1..=MAX_EVENT_ID).contains(&self.event.len())
    }
}

/// Returns the problem for a store error. Its text differs from the ingest port's, because no event was sent.
pub fn store_problem(error: &StoreError) -> HttpProblem {
    match error {
        StoreError::Refused(_) => HttpProblem::new(500, error.into(), error.to_string()),
        StoreError::TooManyReads | StoreError::TooManyReplays(_) => {
            HttpProblem::new(429, error.into(), format!("{error}: try again later"))
        }
        _ => HttpProblem::new(503, error.into(), format!("{error}: try again later")),
    }
}

/// Reads the body of a request whose client is authorized.
pub async fn read_small_body(
    api: &ApiState,
    namespace: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Bytes, HttpProblem> {
    let too_big = || HttpProblem::new(413, "TooBig", format!("the body has more than {MAX_BODY} bytes"));
    let owner = namespace.into();
    let sender = BodySender::Authorized { memory: api.memory.requests(), namespace: &owner };
    let body = read_body(body, headers, MAX_BODY, sender).await;
    Ok(body.map_err(|error| HttpProblem::unreadable_body(&error, too_big))?.bytes)
}

pub fn delivery_not_found(id: Uuid) -> HttpProblem {
    let detail = format!("there is no delivery {id} in this namespace, or its history has expired");
    HttpProblem::new(404, "NotFound", detail)
}

pub fn event_not_found() -> HttpProblem {
    let detail = "no event of this id was accepted in this namespace, or its history has expired";
    HttpProblem::new(404, "NotFound", detail)
}
