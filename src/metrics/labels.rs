//! Label sets. The values of each label come from a closed set or are bounded in number.

use prometheus_client::encoding::EncodeLabelSet;

use crate::core::version::Version;

/// The value that replaces all values outside of a bounded set.
pub(super) const OTHER: &str = "other";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ProblemLabel {
    pub(super) kind: &'static str,
    pub(super) reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct HostLabel {
    pub(super) host: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct AdminRequestLabel {
    pub(super) host: String,
    pub(super) method: &'static str,
    pub(super) code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct WatchLabel {
    pub(super) resource: String,
    pub(super) outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ApiRequestLabel {
    pub(super) route: String,
    pub(super) method: &'static str,
    pub(super) code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReconcileLabel {
    pub(super) kind: &'static str,
    pub(super) outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct KindLabel {
    pub(super) kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct IngestLabel {
    pub(super) route: &'static str,
    pub(super) outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct AttemptLabel {
    pub(super) outcome: &'static str,
    pub(super) status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OriginLabel {
    pub(super) origin: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RouteLabel {
    pub(super) route: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ProbeLabel {
    pub(super) result: &'static str,
}

/// The version of the program. A part that the build did not know is `unknown`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct BuildLabel {
    version: String,
    commit: String,
}

impl BuildLabel {
    pub(super) fn of(version: Version) -> Self {
        let commit = version.commit.unwrap_or("unknown".into());
        BuildLabel { version: version.version.into_owned(), commit: commit.into_owned() }
    }
}

/// A share of the memory budget.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct MemoryLabel {
    pub(super) share: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ClosureLabel {
    pub(super) reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ShareLabel {
    pub(super) of: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct FinishedLabel {
    pub(super) state: &'static str,
    pub(super) reason: &'static str,
}

/// A hook with its own series.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct HookLabel {
    /// Not `namespace`, which Prometheus sets to the namespace of the scraped pod.
    pub(super) hook_namespace: String,
    pub(super) hook: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct HookAttemptLabel {
    pub(super) hook_namespace: String,
    pub(super) hook: String,
    pub(super) status: &'static str,
}

impl HookAttemptLabel {
    pub(super) fn new(hook: &HookLabel, status: &'static str) -> Self {
        HookAttemptLabel { hook_namespace: hook.hook_namespace.clone(), hook: hook.hook.clone(), status }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct HookFinishedLabel {
    pub(super) hook_namespace: String,
    pub(super) hook: String,
    pub(super) state: &'static str,
}

impl HookFinishedLabel {
    pub(super) fn new(hook: &HookLabel, state: &'static str) -> Self {
        HookFinishedLabel { hook_namespace: hook.hook_namespace.clone(), hook: hook.hook.clone(), state }
    }
}

/// Returns a standard HTTP method, or `other`.
pub(super) fn known_method(method: &str) -> &'static str {
    ["GET", "POST", "PUT", "PATCH", "DELETE"].into_iter().find(|known| *known == method).unwrap_or(OTHER)
}

/// Returns the class of the response status, or `none` without a response.
pub(super) fn attempt_status_class(status: Option<u16>) -> &'static str {
    status.map_or("none", |status| status_class(Some(status)))
}

/// Returns the class of the response status, or `error` without a response.
pub(super) fn status_class(status: Option<u16>) -> &'static str {
    match status.map(|status| status / 100) {
        Some(1) => "1xx",
        Some(2) => "2xx",
        Some(3) => "3xx",
        Some(4) => "4xx",
        Some(5) => "5xx",
        Some(_) => OTHER,
        None => "error",
    }
}
