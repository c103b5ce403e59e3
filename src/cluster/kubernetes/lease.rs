//! The Lease of leadership, kept on a thread and connections of its own: neither a list of ten thousand objects nor a
//! reconcile that takes long delays a renewal. What to do is decided in `core::lease`.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client, Config};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::core::conditions::cut;
use crate::core::lease::{Election, Record, Step, Terms};
use crate::core::time::Millis;
use crate::leadership::{Keeper, Leadership};
use crate::metrics::Metrics;

/// Where the Lease is, and how it is kept.
#[derive(Clone, Debug)]
pub struct LeaseOptions {
    pub namespace: String,
    pub name: String,
    pub terms: Terms,
    /// Takes the Lease from whoever holds it.
    pub by_force: bool,
}

impl LeaseOptions {
    /// Takes the Lease from whoever holds it, and leads once that one has certainly stopped.
    pub fn by_force(self) -> Self {
        LeaseOptions { by_force: true, ..self }
    }
}

/// A replica that may compete.
pub struct Candidacy {
    config: Config,
    options: LeaseOptions,
    keeper: Keeper,
}

/// A replica that competes. When it is dropped, the thread ends by itself and the Lease runs out.
#[derive(Debug)]
pub struct Competing {
    stop: CancellationToken,
    ending: Arc<OnceLock<Ending>>,
    ended: oneshot::Receiver<()>,
}

/// What becomes of the Lease at the end, where it is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It runs out: what is under way may still arrive.
    RunOut,
    /// Another may lead at once: nothing of ours is under way any more.
    LetGo,
    /// Nobody leads for this time.
    Hold(Duration),
}

impl Candidacy {
    /// It leads once it competes and wins.
    pub fn new(config: Config, options: LeaseOptions) -> (Leadership, Candidacy) {
        let (leadership, keeper) = Leadership::kept(Millis::steady);
        (leadership, Candidacy { config, options, keeper })
    }

    /// Competes for the Lease until it is stopped.
    pub fn compete(self, metrics: Arc<Metrics>) -> io::Result<Competing> {
        let Candidacy { config, options, keeper } = self;
        let (stop, ending) = (CancellationToken::new(), Arc::new(OnceLock::new()));
        let (done, ended) = oneshot::channel::<()>();
        let competing = Competing { stop: stop.clone(), ending: ending.clone(), ended };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("lease".into()).spawn(move || {
            let candidate = Candidate::new(config, options, keeper, metrics);
            runtime.block_on(candidate.run(stop, &ending));
            // Also dropped, and so noticed, when the above panics.
            drop(done);
        })?;
        Ok(competing)
    }
}

impl Competing {
    /// Ready when the thread has ended, which it does only when it was told to, or by a defect.
    pub async fn ended(&mut self) {
        (&mut self.ended).await.ok();
    }

    /// Stops leading, and ends.
    pub async fn stop(mut self, ending: Ending) {
        // Nobody else sets it: `self` is here.
        self.ending.set(ending).ok();
        self.stop.cancel();
        self.ended().await;
    }
}

impl Drop for Competing {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Candidate {
    config: Config,
    /// None: the next call makes one. A connection that hangs must not cost the Lease.
    api: Option<Api<Lease>>,
    options: LeaseOptions,
    election: Election,
    me: String,
    /// The Lease as last read or written: what others put into it (labels, owners) stays.
    lease: Lease,
    keeper: Keeper,
    metrics: Arc<Metrics>,
    /// Whom the log last named.
    told: Option<String>,
    failing: bool,
}

impl Candidate {
    fn new(config: Config, options: LeaseOptions, keeper: Keeper, metrics: Arc<Metrics>) -> Self {
        // Unlike the Pod's name, it is another after a restart: what a process that died wrote is not ours.
        let me = format!("{}_{}", cut(&super::hostname(), 64), Uuid::now_v7().simple());
        let mut election = Election::new(me.clone(), options.terms, Millis::steady());
        if options.by_force {
            election = election.by_force();
        }
        let lease = Lease::default();
        Candidate {
            config,
            api: None,
            options,
            election,
            me,
            lease,
            keeper,
            metrics,
            told: None,
            failing: false,
        }
    }

    async fn run(mut self, stop: CancellationToken, ending: &OnceLock<Ending>) {
        while stop.run_until_cancelled(self.step()).await.is_some() {}
        // First it stops leading, then others may know.
        self.keeper.set(None, false);
        self.metrics.leads(false);
        match ending.get() {
            None | Some(Ending::RunOut) => {}
            Some(Ending::LetGo) => self.leave(None).await,
            Some(Ending::Hold(time)) => {
                self.options.terms.duration = *time;
                self.leave(Some(self.me.clone())).await;
            }
        }
    }

    async fn step(&mut self) {
        let now = Millis::steady();
        match self.election.next(now) {
            Step::Wait(until) => {
                // The gauge and the log must not say "leads" when the time ran out.
                let until = self.election.leads_until(now).map_or(until, |lost| until.min(lost));
                tokio::time::sleep(until.since(now)).await;
            }
            Step::Read => match self.read().await {
                Ok(found) => {
                    self.failing = false;
                    self.election.read(found, Millis::steady());
                    self.tell_other();
                }
                Err(error) => self.failed(&error),
            },
            Step::Write(version) => match self.write(version, Some(self.me.clone())).await {
                Ok(version) => {
                    self.failing = false;
                    self.told = None;
                    let gained = self.election.wrote(version, now, Millis::steady());
                    if gained {
                        tracing::info!(lease = self.name(), me = self.me, "this replica leads");
                    }
                    self.keeper.set(self.election.leads_until(Millis::steady()), gained);
                }
                Err(Failed::Conflict) => self.election.conflict(Millis::steady()),
                Err(error) => self.failed(&error),
            },
        }
        let leads = self.election.leads_until(Millis::steady());
        if leads.is_none() {
            self.keeper.set(None, false);
        }
        self.metrics.leads(leads.is_some());
    }

    fn failed(&mut self, error: &Failed) {
        self.election.failed(Millis::steady());
        self.api = None;
        // Once: an API server that is away for an hour must not fill the log.
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(lease = self.name(), %error, "the Lease can be neither read nor written; tried again");
        }
    }

    fn tell_other(&mut self) {
        let other = self.election.other().map(ToOwned::to_owned);
        if other.is_some() && other != self.told {
            let holder = other.as_deref().unwrap_or_default();
            tracing::info!(lease = self.name(), holder, "another replica leads; this one stands by");
        }
        self.told = other;
    }

    fn name(&self) -> String {
        format!("{}/{}", self.options.namespace, self.options.name)
    }

    async fn read(&mut self) -> Result<Option<(String, Record)>, Failed> {
        let api = self.api()?;
        let found = within(self.patience(), api.get_opt(&self.options.name)).await?;
        let Some(lease) = found else {
            self.lease = Lease::default();
            return Ok(None);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let seconds = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok());
        let record = Record {
            holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
            duration: seconds.map(Duration::from_secs),
        };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        self.lease = lease;
        Ok(Some((version, record)))
    }

    /// Writes a holder into this version (None: creates the Lease); the new version.
    async fn write(&mut self, version: Option<String>, holder: Option<String>) -> Result<String, Failed> {
        let api = self.api()?;
        let mut lease = self.lease.clone();
        let (now, create) = (MicroTime(jiff::Timestamp::now()), version.is_none());
        lease.metadata = ObjectMeta { name: Some(self.options.name.clone()), ..lease.metadata };
        lease.metadata.resource_version = version;
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        let same = spec.holder_identity == holder;
        if !same {
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
            spec.acquire_time = Some(now.clone());
        }
        spec.renew_time = Some(now);
        // Rounded up: others must not wait for less than was meant.
        let seconds =
            if holder.is_some() { self.options.terms.duration.as_millis().div_ceil(1000) } else { 1 };
        spec.lease_duration_seconds = i32::try_from(seconds).ok();
        spec.holder_identity = Some(holder.unwrap_or_default());
        let (name, params) = (self.options.name.clone(), PostParams::default());
        let written = if create {
            within(self.patience(), api.create(&params, &lease)).await?
        } else {
            within(self.patience(), api.replace(&name, &params, &lease)).await?
        };
        let version = written.metadata.resource_version.clone().unwrap_or_default();
        self.lease = written;
        Ok(version)
    }

    /// The last write, where the Lease is ours.
    async fn leave(&mut self, holder: Option<String>) {
        // A renewal that was cut off may have been carried out: then another version is there.
        for _ in 0..2 {
            let Some(version) = self.election.release().map(ToOwned::to_owned) else { return };
            match self.write(Some(version), holder.clone()).await {
                Ok(_) => {
                    let what =
                        if holder.is_some() { "hold the Lease for a while" } else { "let the Lease go" };
                    tracing::info!(lease = self.name(), "{what}");
                    return;
                }
                Err(Failed::Conflict) => match self.read().await {
                    Ok(found) => self.election.read(found, Millis::steady()),
                    Err(_) => break,
                },
                Err(_) => break,
            }
        }
        tracing::warn!(lease = self.name(), "the Lease could not be let go; it runs out by itself");
    }

    fn api(&mut self) -> Result<Api<Lease>, Failed> {
        if let Some(api) = &self.api {
            return Ok(api.clone());
        }
        let client = Client::try_from(self.config.clone())?;
        let api = Api::namespaced(client, &self.options.namespace);
        self.api = Some(api.clone());
        Ok(api)
    }

    /// Two calls that hang in a row must not cost the Lease.
    fn patience(&self) -> Duration {
        self.options.terms.renew_deadline / 3
    }
}

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("somebody else wrote it meanwhile")]
    Conflict,
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error(transparent)]
    Kube(kube::Error),
}

impl From<kube::Error> for Failed {
    fn from(error: kube::Error) -> Self {
        match &error {
            // At a replace another version is there, at a create there is one.
            kube::Error::Api(status) if status.code == 409 => Failed::Conflict,
            _ => Failed::Kube(error),
        }
    }
}

async fn within<T>(
    patience: Duration,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Failed> {
    Ok(tokio::time::timeout(patience, call).await.map_err(|_| Failed::Timeout(patience))??)
}
