//! Competes for the Lease and renews it, on a separate thread with separate connections. Neither a list of 10,000
//! objects nor a slow reconcile delays a renewal. `core::lease` decides each step.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Api;
use kube::api::PostParams;
use uuid::Uuid;

use super::api_config::ApiConfig;
use super::api_server::hostname;
use crate::core::conditions::cut;
use crate::core::lease::{Election, ElectionStep, LeaseRecord, LeaseTerms};
use crate::core::time::Millis;
use crate::leadership::{ElectionStop, Leadership, LeadershipHandle, LeaseAtExit, RunningElection};
use crate::metrics::Metrics;

/// The Lease to compete for, and how to renew it.
#[derive(Clone, Debug)]
pub struct LeaseOptions {
    pub namespace: String,
    pub name: String,
    pub terms: LeaseTerms,
    /// Take the Lease from its current holder without waiting for it to expire.
    pub by_force: bool,
}

impl LeaseOptions {
    /// Takes the Lease from its current holder, and leads once that holder has certainly stopped.
    pub fn by_force(self) -> Self {
        LeaseOptions { by_force: true, ..self }
    }
}

/// An election that this replica has not joined yet.
pub struct LeaderElection {
    config: ApiConfig,
    options: LeaseOptions,
    handle: LeadershipHandle,
}

impl LeaderElection {
    /// Returns the election and its leadership, which is gained once the started election is won.
    pub fn new(config: ApiConfig, options: LeaseOptions) -> (Leadership, LeaderElection) {
        let (leadership, handle) = Leadership::leased(Millis::steady);
        (leadership, LeaderElection { config, options, handle })
    }

    /// Competes for the Lease on a new thread until stopped.
    pub fn start(self, metrics: Arc<Metrics>) -> io::Result<RunningElection> {
        let LeaderElection { config, options, handle } = self;
        let (running, stop) = RunningElection::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("lease".into()).spawn(move || {
            let candidate = Candidate::new(config, options, handle, metrics);
            runtime.block_on(candidate.run(stop));
        })?;
        Ok(running)
    }
}

/// A replica in the election.
struct Candidate {
    config: ApiConfig,
    /// None after a failure: the next call opens a new connection, so that a hanging connection does not cost the
    /// Lease, and with the present credentials.
    api: Option<Api<Lease>>,
    options: LeaseOptions,
    election: Election,
    identity: String,
    /// The Lease as last read or written. Fields that others set (labels, owners) are preserved.
    lease: Lease,
    handle: LeadershipHandle,
    metrics: Arc<Metrics>,
    /// The other holder that was logged last.
    logged_holder: Option<String>,
    is_failing: bool,
}

impl Candidate {
    fn new(
        config: ApiConfig,
        options: LeaseOptions,
        handle: LeadershipHandle,
        metrics: Arc<Metrics>,
    ) -> Self {
        // Unlike the Pod's name, it is unique for each start, so that a Lease of a crashed predecessor is not ours.
        let identity = format!("{}_{}", cut(&hostname(), 64), Uuid::now_v7().simple());
        let mut election = Election::new(identity.clone(), options.terms, Millis::steady());
        if options.by_force {
            election = election.with_takeover();
        }
        let lease = Lease::default();
        Candidate {
            config,
            api: None,
            options,
            election,
            identity,
            lease,
            handle,
            metrics,
            logged_holder: None,
            is_failing: false,
        }
    }

    /// Competes until `stop`, then writes the Lease a last time as its `at_exit` says.
    async fn run(mut self, stop: ElectionStop) {
        while stop.run_until_requested(self.step()).await.is_some() {}
        // Stop leading before the Lease is released, so that two replicas never lead.
        self.handle.set(None, false);
        self.metrics.set_leader(false);
        match stop.at_exit() {
            LeaseAtExit::Expire => {}
            LeaseAtExit::Release if !self.election.may_release(Millis::steady()) => {}
            LeaseAtExit::Release => self.write_final(None).await,
            LeaseAtExit::Hold(time) => {
                self.options.terms.duration = time;
                self.write_final(Some(self.identity.clone())).await;
            }
        }
    }

    /// Takes one step of the election: waits, reads or writes.
    async fn step(&mut self) {
        let now = Millis::steady();
        match self.election.next_step(now) {
            ElectionStep::Wait(until) => {
                // Wake at the end of our leadership at the latest, so that the gauge and the log do not claim it any
                // longer.
                let until = self.election.leads_until(now).map_or(until, |lost| until.min(lost));
                tokio::time::sleep(until.since(now)).await;
            }
            ElectionStep::Read => match self.read().await {
                Ok(found) => {
                    self.is_failing = false;
                    self.election.lease_read(found, Millis::steady());
                    self.log_other_holder();
                }
                Err(error) => {
                    self.election.read_failed(Millis::steady());
                    self.record_failure(&error);
                }
            },
            ElectionStep::Write(version) => match self.write(version, Some(self.identity.clone())).await {
                Ok(version) => {
                    self.is_failing = false;
                    self.logged_holder = None;
                    let was_broken = self.election.is_broken();
                    let uid = self.lease.metadata.uid.clone().unwrap_or_default();
                    let gained = self.election.write_accepted(uid, version, now, Millis::steady());
                    if was_broken {
                        let message = "lease created or replaced, waiting until a former holder has stopped";
                        tracing::warn!(lease = self.name(), "{message}");
                    }
                    if gained {
                        tracing::info!(lease = self.name(), identity = self.identity, "this replica leads");
                    }
                    self.handle.set(self.election.leads_until(Millis::steady()), gained);
                }
                Err(LeaseError::Conflict) => self.election.write_conflicted(Millis::steady()),
                Err(error) => {
                    self.election.write_failed(Millis::steady());
                    self.record_failure(&error);
                }
            },
        }
        let leads = self.election.leads_until(Millis::steady());
        if leads.is_none() {
            self.handle.set(None, false);
        }
        self.metrics.set_leader(leads.is_some());
    }

    fn record_failure(&mut self, error: &LeaseError) {
        self.api = None;
        // Log only the first failure of an outage, so that a long one does not fill the log.
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(lease = self.name(), %error, "reading or writing the lease failed, retrying");
        }
    }

    fn log_other_holder(&mut self) {
        let other = self.election.other_holder().map(ToOwned::to_owned);
        if other.is_some() && other != self.logged_holder {
            let holder = other.as_deref().unwrap_or_default();
            tracing::info!(lease = self.name(), holder, "another replica leads, standing by");
        }
        self.logged_holder = other;
    }

    fn name(&self) -> String {
        format!("{}/{}", self.options.namespace, self.options.name)
    }

    /// Reads the Lease: its version, holder and duration; None if it does not exist.
    async fn read(&mut self) -> Result<Option<(String, LeaseRecord)>, LeaseError> {
        let api = self.api().await?;
        let found = with_timeout(self.call_timeout(), api.get_opt(&self.options.name)).await?;
        let Some(lease) = found else {
            self.lease = Lease::default();
            return Ok(None);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let seconds = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok());
        let record = LeaseRecord {
            uid: lease.metadata.uid.clone().unwrap_or_default(),
            was_held: spec.renew_time.is_some(),
            holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
            duration: seconds.map(Duration::from_secs),
        };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        self.lease = lease;
        Ok(Some((version, record)))
    }

    /// Writes a holder if the Lease is still at this version (None creates the Lease). Returns the new version.
    async fn write(&mut self, version: Option<String>, holder: Option<String>) -> Result<String, LeaseError> {
        let api = self.api().await?;
        let mut lease = self.lease.clone();
        let (now, create) = (MicroTime(jiff::Timestamp::now()), version.is_none());
        lease.metadata = ObjectMeta { name: Some(self.options.name.clone()), ..lease.metadata };
        lease.metadata.resource_version = version;
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        let is_same_holder = spec.holder_identity == holder;
        if !is_same_holder {
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
            spec.acquire_time = Some(now.clone());
        }
        spec.renew_time = Some(now);
        // Round up, so that others never wait for less than the duration.
        let seconds =
            if holder.is_some() { self.options.terms.duration.as_millis().div_ceil(1000) } else { 1 };
        spec.lease_duration_seconds = i32::try_from(seconds).ok();
        spec.holder_identity = Some(holder.unwrap_or_default());
        let (name, params) = (self.options.name.clone(), PostParams::default());
        let written = if create {
            with_timeout(self.call_timeout(), api.create(&params, &lease)).await?
        } else {
            with_timeout(self.call_timeout(), api.replace(&name, &params, &lease)).await?
        };
        let version = written.metadata.resource_version.clone().unwrap_or_default();
        self.lease = written;
        Ok(version)
    }

    /// Writes the holder a last time if the Lease is ours.
    async fn write_final(&mut self, holder: Option<String>) {
        // An interrupted renewal may have been applied; then the first write conflicts and the second one succeeds.
        for _ in 0..2 {
            let Some(version) = self.election.release_version().map(ToOwned::to_owned) else { return };
            match self.write(Some(version), holder.clone()).await {
                Ok(_) => {
                    let message = if holder.is_some() { "lease held after exit" } else { "lease released" };
                    tracing::info!(lease = self.name(), "{message}");
                    return;
                }
                Err(LeaseError::Conflict) => match self.read().await {
                    Ok(found) => self.election.lease_read(found, Millis::steady()),
                    Err(_) => break,
                },
                Err(_) => break,
            }
        }
        tracing::warn!(lease = self.name(), "releasing the lease failed, it will expire");
    }

    /// Returns the API of the last call, or one with a new connection.
    async fn api(&mut self) -> Result<Api<Lease>, LeaseError> {
        if let Some(api) = &self.api {
            return Ok(api.clone());
        }
        let client = self.config.connect().await?;
        let api = Api::namespaced(client, &self.options.namespace);
        self.api = Some(api.clone());
        Ok(api)
    }

    /// Returns a third of the renew deadline, so that two calls that hang in a row do not cost the Lease.
    fn call_timeout(&self) -> Duration {
        self.options.terms.renew_deadline / 3
    }
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error("another client wrote or deleted it concurrently")]
    Conflict,
    #[error("no response within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error(transparent)]
    Kube(kube::Error),
}

impl From<kube::Error> for LeaseError {
    fn from(error: kube::Error) -> Self {
        match &error {
            // A replace found another version or no Lease, or a create found an existing one.
            kube::Error::Api(status) if matches!(status.code, 404 | 409) => LeaseError::Conflict,
            _ => LeaseError::Kube(error),
        }
    }
}

async fn with_timeout<T>(
    timeout: Duration,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, LeaseError> {
    Ok(tokio::time::timeout(timeout, call).await.map_err(|_| LeaseError::Timeout(timeout))??)
}
