//! Shared parts of calls to the API server: the resource of each kind, error mapping and deadlines.

use std::time::Duration;

use kube::api::ApiResource;

use crate::api::{Connection, EventHook, EventStream, Hook};
use crate::cluster::{ClusterError, ResourceKind};
use crate::net::describe_cause;

/// Returns a kind's group, version and plural, as requests need them.
pub fn api_resource(kind: ResourceKind) -> ApiResource {
    match kind {
        ResourceKind::EventHook => ApiResource::erase::<EventHook>(&()),
        ResourceKind::Connection => ApiResource::erase::<Connection>(&()),
        ResourceKind::EventStream => ApiResource::erase::<EventStream>(&()),
        ResourceKind::Hook => ApiResource::erase::<Hook>(&()),
    }
}

/// Returns the Pod's name from the environment.
pub fn hostname() -> String {
    std::env::var("HOSTNAME").unwrap_or_else(|_| "hookstream".into())
}

/// The deadline of a read from an API server that accepts the request but does not answer (its node failed, a proxy
/// drops packets). After a missed deadline, callers use the last value, and do not call the API server again for
/// `retry_after`.
#[derive(Clone, Copy)]
pub struct ReadDeadline {
    pub timeout: Duration,
    pub retry_after: Duration,
}

impl Default for ReadDeadline {
    fn default() -> Self {
        ReadDeadline { timeout: Duration::from_secs(2), retry_after: Duration::from_secs(10) }
    }
}

/// The error of a read that missed its deadline.
pub fn timeout_error() -> ClusterError {
    ClusterError::ClusterError("the API server does not answer".into())
}

/// Converts an error of the Kubernetes client.
pub fn to_cluster_error(error: kube::Error) -> ClusterError {
    match &error {
        kube::Error::Api(status) if status.code == 409 => ClusterError::Conflict,
        kube::Error::Api(status) if status.code == 404 => ClusterError::Gone,
        kube::Error::Api(status) => {
            ClusterError::ClusterError(format!("the API server rejected the request: {}", status.message))
        }
        _ => ClusterError::ClusterError(format!(
            "the API server cannot be reached: {}",
            describe_cause(&error)
        )),
    }
}

#[cfg(test)]
pub mod testing {
    use std::convert::Infallible;
    use std::future::{Pending, pending};
    use std::task::{Context, Poll};

    use http::{Request, Response};
    use kube::Client;
    use kube::client::Body;

    use super::*;

    #[derive(Clone)]
    struct NeverAnswers;

    impl tower_service::Service<Request<Body>> for NeverAnswers {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = Pending<Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            pending()
        }
    }

    /// Returns a client of an API server that accepts requests and never answers.
    pub fn unresponsive_client() -> Client {
        Client::new(NeverAnswers, "default")
    }

    pub fn short_deadline() -> ReadDeadline {
        ReadDeadline { timeout: Duration::from_millis(50), retry_after: Duration::from_secs(3600) }
    }
}
