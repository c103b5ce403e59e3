//! What every reconcile has at hand.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use url::Url;

use super::backoff::Backoff;
use crate::admin::kong::KongAccess;
use crate::admin::limit::Pacer;
use crate::cluster::{Cluster, Key, View};
use crate::core::bucket::Rate;
use crate::leadership::Leadership;
use crate::metrics::Metrics;
use crate::net::HttpClient;

/// The controller's settings.
#[derive(Clone, Debug)]
pub struct Options {
    /// How Kong reaches the worker, unless a Connection says so itself.
    pub ingest_url: Option<Url>,
    /// How often objects are compared with the vendor, unless a Connection says so itself.
    pub resync_interval: Duration,
    /// How often one host is called at most, by all Connections together.
    pub admin_ceiling: Rate,
}

/// What every reconcile has at hand.
pub struct Context {
    pub cluster: Arc<dyn Cluster>,
    pub view: View,
    pub http: HttpClient,
    pub options: Options,
    pub metrics: Arc<Metrics>,
    /// Only the replica that leads reconciles. The writes themselves ask again: `Cluster` before each of the controller's,
    /// `pacer` before each call.
    pub leadership: Leadership,
    /// Makes the HTTP clients of Connections, which keep their rates.
    pub pacer: Arc<Pacer>,
    pub(super) backoff: Backoff,
    /// The access that last worked, by Connection: a namespace whose Secret is deleted first still cleans up.
    pub(super) last_access: Mutex<HashMap<Key, KongAccess>>,
    /// A hash of what the vendor was last told for an object, by uid: tells drift from a change of our own.
    pub(super) told: Mutex<HashMap<String, [u8; 32]>>,
}

impl Context {
    pub fn new(
        cluster: Arc<dyn Cluster>,
        view: View,
        http: HttpClient,
        options: Options,
        metrics: Arc<Metrics>,
        leadership: Leadership,
    ) -> Self {
        Context {
            pacer: Pacer::new(options.admin_ceiling, leadership.clone(), metrics.clone()),
            leadership,
            cluster,
            view,
            http,
            options,
            metrics,
            backoff: Backoff::default(),
            last_access: Mutex::default(),
            told: Mutex::default(),
        }
    }
}
