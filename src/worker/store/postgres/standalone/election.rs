//! Competes for the lease of the controller, and renews it on a connection of its own.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::task::JoinHandle;

use super::super::connections::Connections;
use super::super::failure::{DbError, unavailable};
use super::super::session::Session;
use super::StandaloneState;
use super::lease::{ControllerLease, LEADS, LeaseTry};
use crate::core::time::Millis;
use crate::leadership::{ElectionStop, LeadershipHandle, LeaseAtExit, RunningElection};
use crate::metrics::Metrics;

/// The time between two renewals, and the longest time between two reads of a process that waits.
const STEP: Duration = Duration::from_millis(500);
/// The shortest pause, when another process has just taken the lease.
const MIN_PAUSE: Duration = Duration::from_millis(10);
/// How long a renewal may take on a connection that exists. Two that hang in a row do not cost the lease.
const STEP_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs before this process leads. An error: it does not lead yet.
pub type BeforeLeading = Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// An election that this process has not joined yet.
pub struct DatabaseElection {
    state: StandaloneState,
    handle: LeadershipHandle,
    before_leading: BeforeLeading,
}

impl DatabaseElection {
    /// `handle`: that of the leadership that this election sets. Its clock is `Millis::steady`.
    pub fn new(state: StandaloneState, handle: LeadershipHandle, before_leading: BeforeLeading) -> Self {
        DatabaseElection { state, handle, before_leading }
    }

    /// Competes for the lease in a task until stopped.
    pub fn start(self, metrics: Arc<Metrics>) -> RunningElection {
        let (running, stop) = RunningElection::new();
        let candidate = Candidate {
            connections: self.state.connections,
            lease: self.state.lease,
            handle: self.handle,
            before_leading: self.before_leading,
            metrics,
            connection: None,
            leads_until: None,
            preparing: None,
            is_unprepared: false,
            logged_holder: None,
            is_failing: false,
        };
        tokio::spawn(candidate.run(stop));
        running
    }
}

/// A process in the election.
struct Candidate {
    connections: Arc<Connections>,
    lease: Arc<ControllerLease>,
    handle: LeadershipHandle,
    before_leading: BeforeLeading,
    metrics: Arc<Metrics>,
    /// Beside the pool, so that no load delays a renewal.
    connection: Option<Session>,
    /// None: it does not lead.
    leads_until: Option<Millis>,
    /// `before_leading`, while the lease is renewed: a large state takes longer to read than a lease lasts.
    preparing: Option<JoinHandle<Result<(), String>>>,
    /// True if its failure was logged.
    is_unprepared: bool,
    /// The other holder that was logged last.
    logged_holder: Option<String>,
    is_failing: bool,
}

impl Candidate {
    async fn run(mut self, stop: ElectionStop) {
        while stop.run_until_requested(self.step()).await.is_some() {}
        // Stop leading before the lease is released, so that two processes never lead.
        self.handle.set(None, false);
        self.metrics.set_leader(false);
        if stop.at_exit() != LeaseAtExit::Release {
            return;
        }
        match tokio::time::timeout(STEP_TIMEOUT, self.release()).await {
            Ok(Ok(())) => tracing::info!("lease of the controller released"),
            _ => tracing::warn!("release of the controller's lease failed, it ends by itself"),
        }
    }

    async fn release(&mut self) -> Result<(), DbError> {
        self.lease.release(&self.connections.dedicated().await?).await
    }

    /// Tries to hold the lease once, and waits until the next try.
    async fn step(&mut self) {
        let session = self.connect().await;
        let sent = Millis::steady();
        let mut pause = STEP;
        match self.try_hold(session).await {
            Ok(LeaseTry::Held) => {
                self.is_failing = false;
                self.logged_holder = None;
                self.lead(sent).await;
            }
            Ok(LeaseTry::Other { holder, remaining }) => {
                self.is_failing = false;
                self.lose();
                pause = pause.min(remaining).max(MIN_PAUSE);
                if !holder.is_empty() && self.logged_holder.as_ref() != Some(&holder) {
                    tracing::info!(holder, "another process leads, standing by");
                    self.logged_holder = Some(holder);
                }
            }
            Err(error) => {
                // Another process may lead meanwhile, so what was read for an earlier lease is outdated.
                if self.leads_until.is_none()
                    && let Some(preparing) = self.preparing.take()
                {
                    preparing.abort();
                }
                // Log only the first failure of an outage.
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!(%error, "renewal of the controller's lease failed, retrying");
                }
            }
        }
        let next = sent + pause;
        // Wake at the end of the leadership at the latest, so that the gauge and the log do not claim it any longer.
        let wake = self.leads_until.map_or(next, |until| next.min(until));
        tokio::time::sleep(wake.since(Millis::steady())).await;
        if self.leads_until.is_some_and(|until| until <= Millis::steady()) {
            self.lose();
        }
    }

    /// Returns the connection of the last step, or a new one. With several hosts that may take longer than the leadership
    /// lasts, which is reported meanwhile.
    async fn connect(&mut self) -> Result<Session, DbError> {
        if let Some(session) = self.connection.take() {
            return Ok(session);
        }
        let connections = self.connections.clone();
        let mut connecting = Box::pin(async move { connections.dedicated().await });
        let Some(until) = self.leads_until else { return connecting.await };
        tokio::select! {
            connected = &mut connecting => connected,
            () = tokio::time::sleep(until.since(Millis::steady())) => {
                self.lose();
                connecting.await
            }
        }
    }

    /// Tries to hold the lease. Keeps the connection for the next step, unless it failed.
    async fn try_hold(&mut self, session: Result<Session, DbError>) -> Result<LeaseTry, DbError> {
        let session = session?;
        let hold = async {
            // On an old primary, this process would lead beside the one that holds the lease on the new one.
            session.check_server().await?;
            self.lease.hold(&session).await
        };
        let held = tokio::time::timeout(STEP_TIMEOUT, hold).await;
        let held = held.unwrap_or_else(|_| Err(unavailable().into()))?;
        self.connection = Some(session);
        Ok(held)
    }

    /// Leads until some time after `sent`, when the renewal was sent.
    async fn lead(&mut self, sent: Millis) {
        let until = sent + LEADS;
        let is_new = self.leads_until.is_none_or(|until| until <= Millis::steady());
        if is_new {
            if !self.is_prepared().await || until <= Millis::steady() {
                return;
            }
            tracing::info!(process = self.lease.process(), "this process leads");
        }
        self.leads_until = Some(until);
        self.handle.set(Some(until), is_new);
        self.metrics.set_leader(true);
    }

    /// Waits for `before_leading` until the next renewal is due. Returns true when it has succeeded.
    async fn is_prepared(&mut self) -> bool {
        let preparing = self.preparing.get_or_insert_with(|| tokio::spawn((self.before_leading)()));
        let Ok(ended) = tokio::time::timeout(STEP, preparing).await else { return false };
        self.preparing = None;
        match ended.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(()) => {
                self.is_unprepared = false;
                true
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_unprepared, true) {
                    tracing::warn!(error, "the lease is held but the state cannot be read, retrying");
                }
                false
            }
        }
    }

    fn lose(&mut self) {
        // What another leader writes from now on is not in it.
        if let Some(preparing) = self.preparing.take() {
            preparing.abort();
        }
        if self.leads_until.take().is_some() {
            tracing::warn!("lease of the controller lost, pausing reconciles");
        }
        self.handle.set(None, false);
        self.metrics.set_leader(false);
    }
}
