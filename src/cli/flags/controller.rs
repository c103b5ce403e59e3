//! Flags of the controller.

use std::time::Duration;

use url::Url;

use super::parse::{parse_rate, parse_url};
use crate::cli::failure::{Failure, OrFail};
use crate::cluster::kubernetes::LeaseOptions;
use crate::controller;
use crate::core::bucket::Rate;
use crate::core::duration;
use crate::core::lease::LeaseTerms;

/// The controller's flags.
#[derive(clap::Args, Clone, Debug)]
pub struct ControllerArgs {
    /// The URL at which Kong reaches the ingest port. A Connection's ingestUrl overrides it.
    #[arg(long, value_name = "URL", value_parser = parse_url, env = "HOOKSTREAM_INGEST_URL")]
    pub ingest_url: Option<Url>,
    /// The URL at which Auth0 reaches the ingest port from the internet. A Connection's ingestUrl overrides it.
    #[arg(long, value_name = "URL", value_parser = parse_url, env = "HOOKSTREAM_PUBLIC_INGEST_URL")]
    pub public_ingest_url: Option<Url>,
    /// The interval at which the controller compares each object with the vendor. A Connection's resyncInterval
    /// overrides it.
    #[arg(long, default_value = "10m", value_name = "DURATION", value_parser = duration::parse, env = "HOOKSTREAM_RESYNC_INTERVAL")]
    pub resync_interval: Duration,
    /// The maximum rate of admin API calls to one host by all Connections together, such as 10/s or 600/m.
    #[arg(long, default_value = "10/s", value_name = "RATE", value_parser = parse_rate, env = "HOOKSTREAM_ADMIN_RATE_CEILING")]
    pub admin_rate_ceiling: Rate,
    #[command(flatten)]
    deadlines: DeadlineArgs,
}

/// Deadlines that tests shorten.
#[derive(clap::Args, Clone, Debug)]
struct DeadlineArgs {
    /// How long a deletion waits for missing credentials of the vendor.
    #[arg(long, hide = true, default_value = "10m", value_name = "DURATION", value_parser = duration::parse, env = "HOOKSTREAM_CREDENTIALS_PATIENCE")]
    credentials_patience: Duration,
    /// How long a deletion waits for a vendor that does not respond or rejects every call.
    #[arg(long, hide = true, default_value = "1h", value_name = "DURATION", value_parser = duration::parse, env = "HOOKSTREAM_VENDOR_PATIENCE")]
    vendor_patience: Duration,
    /// How long the vendor may omit a created object from its answers.
    #[arg(long, hide = true, default_value = "30s", value_name = "DURATION", value_parser = duration::parse, env = "HOOKSTREAM_CREATION_GRACE")]
    creation_grace: Duration,
}

impl ControllerArgs {
    pub fn options(&self) -> controller::ControllerOptions {
        controller::ControllerOptions {
            ingest_url: self.ingest_url.clone(),
            public_ingest_url: self.public_ingest_url.clone(),
            resync_interval: self.resync_interval,
            admin_ceiling: self.admin_rate_ceiling,
            deadlines: controller::Deadlines {
                credentials: self.deadlines.credentials_patience,
                vendor: self.deadlines.vendor_patience,
                creation: self.deadlines.creation_grace,
            },
            ..controller::ControllerOptions::default()
        }
    }
}

/// Flags of leader election.
#[derive(clap::Args, Clone, Debug)]
pub struct LeaseArgs {
    /// The namespace of the Lease that elects the leader. Default: the operator's own.
    #[arg(long, value_name = "NAMESPACE", env = "HOOKSTREAM_LEASE_NAMESPACE")]
    lease_namespace: Option<String>,
    /// The name of the Lease. Replicas with the same work share one Lease; other replicas need another.
    #[arg(long, default_value = "hookstream-controller", value_name = "NAME", env = "HOOKSTREAM_LEASE_NAME")]
    lease_name: String,
    /// How long other replicas wait for a leader that stopped renewing.
    #[arg(long, default_value = "15s", value_name = "DURATION", value_parser = duration::parse, env = "HOOKSTREAM_LEASE_DURATION")]
    lease_duration: Duration,
    /// How long a replica leads after its last renewal. Must be shorter than --lease-duration.
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = duration::parse, env = "HOOKSTREAM_LEASE_RENEW_DEADLINE")]
    lease_renew_deadline: Duration,
    /// The time between two renewals, and between two reads by replicas that do not lead.
    #[arg(long, default_value = "2s", value_name = "DURATION", value_parser = duration::parse, env = "HOOKSTREAM_LEASE_RETRY_PERIOD")]
    lease_retry_period: Duration,
}

impl LeaseArgs {
    /// Checks the durations, and fills in the namespace.
    pub fn options(self, own_namespace: &str) -> Result<LeaseOptions, Failure> {
        let terms = LeaseTerms {
            duration: self.lease_duration,
            renew_deadline: self.lease_renew_deadline,
            retry: self.lease_retry_period,
        };
        terms.check().or_fail(|| "--lease-duration, --lease-renew-deadline, --lease-retry-period".into())?;
        let namespace = self.lease_namespace.unwrap_or_else(|| own_namespace.to_owned());
        Ok(LeaseOptions { namespace, name: self.lease_name, terms, by_force: false })
    }
}
