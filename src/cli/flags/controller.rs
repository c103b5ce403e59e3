//! Flags of the controller.

use std::time::Duration;

use url::Url;

use super::parse::{parse_class, parse_installation_id, parse_rate, parse_selector, parse_url};
use crate::api::CLASS_LABEL;
use crate::cli::failure::{Failure, OrFail};
use crate::cluster::kubernetes::{LeaseLocation, LeaseOptions};
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
    /// How long the worker still accepts relayed events with the secret, source and event that Kong had before a change.
    /// Raise it if nodes of Kong apply changes later.
    #[arg(long, default_value = "10m", value_name = "DURATION", value_parser = duration::parse, env = "HOOKSTREAM_RELAY_OVERLAP")]
    relay_overlap: Duration,
    /// An id that distinguishes this installation from others at the same gateway or tenant: at most 63 letters, digits,
    /// dots, dashes and underscores. Default: the uid of the operator's namespace; standalone keeps a random one.
    #[arg(long, value_name = "ID", value_parser = parse_installation_id, env = "HOOKSTREAM_INSTALLATION_ID")]
    pub installation_id: Option<String>,
    /// A former id of this installation, or the id of one that it replaces; may be repeated. Its relays are taken over.
    #[arg(long, value_name = "ID", value_delimiter = ',', value_parser = parse_installation_id, env = "HOOKSTREAM_FORMER_INSTALLATION_ID")]
    pub former_installation_id: Vec<String>,
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
    /// How often the leader checks the key ring.
    #[arg(long, hide = true, default_value = "30s", value_name = "DURATION", value_parser = duration::parse, env = "HOOKSTREAM_KEY_RING_CHECK_INTERVAL")]
    key_ring_check_interval: Duration,
}

impl ControllerArgs {
    pub fn options(&self) -> controller::ControllerOptions {
        controller::ControllerOptions {
            ingest_url: self.ingest_url.clone(),
            public_ingest_url: self.public_ingest_url.clone(),
            resync_interval: self.resync_interval,
            admin_ceiling: self.admin_rate_ceiling,
            relay_overlap: self.relay_overlap,
            key_ring_check: self.deadlines.key_ring_check_interval,
            installation_id: self.installation_id.clone(),
            former_installation_ids: self.former_installation_id.clone(),
            deadlines: controller::Deadlines {
                credentials: self.deadlines.credentials_patience,
                vendor: self.deadlines.vendor_patience,
                creation: self.deadlines.creation_grace,
            },
            ..controller::ControllerOptions::default()
        }
    }
}

/// Flags that name the Lease. A worker reads it to show the leader.
#[derive(clap::Args, Clone, Debug)]
pub struct LeaseNameArgs {
    /// The namespace of the Lease that elects the leader. Default: the operator's own.
    #[arg(long, value_name = "NAMESPACE", env = "HOOKSTREAM_LEASE_NAMESPACE")]
    lease_namespace: Option<String>,
    /// The name of the Lease. Replicas with the same work share one Lease; other replicas need another. Default:
    /// hookstream-controller, and with --controller-class NAME hookstream-controller-NAME.
    #[arg(long, value_name = "NAME", env = "HOOKSTREAM_LEASE_NAME")]
    lease_name: Option<String>,
}

/// Flags of leader election.
#[derive(clap::Args, Clone, Debug)]
pub struct LeaseArgs {
    #[command(flatten)]
    pub location: LeaseNameArgs,
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

impl LeaseNameArgs {
    /// Fills in the defaults.
    pub fn locate(self, own_namespace: &str, selection: &SelectionArgs) -> LeaseLocation {
        LeaseLocation {
            namespace: self.lease_namespace.unwrap_or_else(|| own_namespace.to_owned()),
            name: self.lease_name.unwrap_or_else(|| selection.default_lease_name()),
        }
    }
}

impl LeaseArgs {
    /// Checks the durations, and fills in the namespace.
    pub fn options(self, own_namespace: &str, selection: &SelectionArgs) -> Result<LeaseOptions, Failure> {
        let terms = LeaseTerms {
            duration: self.lease_duration,
            renew_deadline: self.lease_renew_deadline,
            retry: self.lease_retry_period,
        };
        terms.check().or_fail(|| "--lease-duration, --lease-renew-deadline, --lease-retry-period".into())?;
        let LeaseLocation { namespace, name } = self.location.locate(own_namespace, selection);
        Ok(LeaseOptions { namespace, name, terms, by_force: false })
    }
}

/// Flags that select the objects of one installation among several in a cluster.
#[derive(clap::Args, Clone, Debug)]
pub struct SelectionArgs {
    /// Work on objects with the label hookstream.dev/controller-class=NAME only. Default: on objects without that label.
    #[arg(long, value_name = "NAME", value_parser = parse_class, env = "HOOKSTREAM_CONTROLLER_CLASS")]
    controller_class: Option<String>,
    /// Work on objects with these labels only, such as team=payments. Applies in addition to --controller-class.
    #[arg(long, value_name = "SELECTOR", value_parser = parse_selector, env = "HOOKSTREAM_WATCH_LABEL_SELECTOR")]
    watch_label_selector: Option<String>,
}

impl SelectionArgs {
    /// Returns the label selector of the objects.
    pub fn label_selector(&self) -> String {
        let class = match &self.controller_class {
            Some(class) => format!("{CLASS_LABEL}={class}"),
            None => format!("!{CLASS_LABEL}"),
        };
        let selector = self.watch_label_selector.iter().map(String::as_str);
        [&*class].into_iter().chain(selector).collect::<Vec<_>>().join(",")
    }

    fn default_lease_name(&self) -> String {
        let class = self.controller_class.as_ref().map(|class| format!("-{}", class.to_lowercase()));
        // The name of an object has no underscore and no upper case.
        format!("hookstream-controller{}", class.unwrap_or_default().replace('_', "-"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selects_objects_of_one_class() {
        let select = |class: Option<&str>, selector: Option<&str>| {
            let owned = |text: Option<&str>| text.map(ToOwned::to_owned);
            let args =
                SelectionArgs { controller_class: owned(class), watch_label_selector: owned(selector) };
            (args.label_selector(), args.default_lease_name())
        };
        let expected = |selector: &str, lease: &str| (selector.to_owned(), lease.to_owned());
        assert_eq!(select(None, None), expected("!hookstream.dev/controller-class", "hookstream-controller"));
        assert_eq!(
            select(Some("Blue_1"), Some("a=b,c")),
            expected("hookstream.dev/controller-class=Blue_1,a=b,c", "hookstream-controller-blue-1")
        );
    }

    #[test]
    fn worker_and_controller_find_the_same_lease() {
        let selection =
            SelectionArgs { controller_class: Some("blue".to_owned()), watch_label_selector: None };
        let locate = |namespace: Option<&str>, name: Option<&str>| {
            let owned = |text: Option<&str>| text.map(ToOwned::to_owned);
            let args = LeaseNameArgs { lease_namespace: owned(namespace), lease_name: owned(name) };
            let LeaseLocation { namespace, name } = args.locate("home", &selection);
            format!("{namespace}/{name}")
        };
        assert_eq!(locate(None, None), "home/hookstream-controller-blue");
        assert_eq!(locate(Some("other"), Some("mine")), "other/mine");
    }
}
