//! Flags that several roles share.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use ipnet::IpNet;
use url::Url;

use super::{Failure, OrFail};
use crate::cluster::kubernetes::LeaseOptions;
use crate::controller;
use crate::core::bucket::Rate;
use crate::core::duration::DurationError;
use crate::core::lease::Terms;
use crate::core::{duration, egress, hook, size};
use crate::net::{Bypass, Egress, Proxy, ServerTls};
use crate::sandbox;
use crate::worker::store::{Retention, Shares};
use crate::worker::{Disk, Limits};

/// Parses a duration flag for which 0 is off.
pub fn parse_window(text: &str) -> Result<Duration, DurationError> {
    if text == "0" { Ok(Duration::ZERO) } else { duration::parse(text) }
}

/// Parses a rate flag: `10/s`, `600/m`. As many may go at once after a pause.
pub fn parse_rate(text: &str) -> Result<Rate, String> {
    let (requests, unit) = text.split_once('/').unwrap_or((text, ""));
    let interval = match unit {
        "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        _ => Duration::ZERO,
    };
    match requests.parse() {
        Ok(requests @ 1..=1_000_000) if !interval.is_zero() => {
            Ok(Rate { requests, interval, burst: requests })
        }
        _ => Err("must be a number of requests a second or a minute: 10/s or 600/m".to_owned()),
    }
}

/// Parses how long a watch lasts: load balancers drop what is silent for minutes.
pub fn parse_watch_timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration::parse(text).map_err(|e| e.to_string())?;
    if (5..=290).contains(&timeout.as_secs()) {
        Ok(timeout)
    } else {
        Err("must be between 5s and 290s".to_owned())
    }
}

/// Parses `90%` or `90`.
pub fn parse_percent(text: &str) -> Result<u8, String> {
    let digits = text.strip_suffix('%').unwrap_or(text);
    let percent = digits.parse().ok().filter(|n| (1..=100).contains(n) && !digits.starts_with('+'));
    percent.ok_or_else(|| "must be a share of the disk from 1% to 100%".to_owned())
}

/// Parses an address flag.
pub fn parse_url(text: &str) -> Result<Url, String> {
    hook::parse_url(text).map_err(ToOwned::to_owned)
}

/// The controller's flags.
#[derive(clap::Args, Clone, Debug)]
pub struct ControllerArgs {
    /// The address under which Kong reaches the ingest port; a Connection's ingestUrl goes before it.
    #[arg(long, value_name = "URL", value_parser = parse_url, env = "HOOKSTREAM_INGEST_URL")]
    pub ingest_url: Option<Url>,
    /// The address under which Auth0 reaches the ingest port from the internet; a Connection's ingestUrl goes before it.
    #[arg(long, value_name = "URL", value_parser = parse_url, env = "HOOKSTREAM_PUBLIC_INGEST_URL")]
    pub public_ingest_url: Option<Url>,
    /// How often objects are compared with the vendor; a Connection's resyncInterval goes before it.
    #[arg(long, default_value = "10m", value_name = "DURATION", value_parser = duration::parse, env = "HOOKSTREAM_RESYNC_INTERVAL")]
    pub resync_interval: Duration,
    /// How often one host is called at most by all Connections together, such as 10/s or 600/m.
    #[arg(long, default_value = "10/s", value_name = "RATE", value_parser = parse_rate, env = "HOOKSTREAM_ADMIN_RATE_CEILING")]
    pub admin_rate_ceiling: Rate,
    #[command(flatten)]
    patience: PatienceArgs,
}

/// Bounded waits that tests shorten.
#[derive(clap::Args, Clone, Debug)]
struct PatienceArgs {
    /// How long a deletion waits for credentials of the vendor.
    #[arg(long, hide = true, default_value = "10m", value_name = "DURATION", value_parser = duration::parse, env = "HOOKSTREAM_CREDENTIALS_PATIENCE")]
    credentials_patience: Duration,
    /// How long a deletion waits for a vendor that answers nothing or only refuses.
    #[arg(long, hide = true, default_value = "1h", value_name = "DURATION", value_parser = duration::parse, env = "HOOKSTREAM_VENDOR_PATIENCE")]
    vendor_patience: Duration,
    /// How long what was created may not be shown.
    #[arg(long, hide = true, default_value = "30s", value_name = "DURATION", value_parser = duration::parse, env = "HOOKSTREAM_CREATION_GRACE")]
    creation_grace: Duration,
}

impl ControllerArgs {
    pub fn options(&self) -> controller::Options {
        controller::Options {
            ingest_url: self.ingest_url.clone(),
            public_ingest_url: self.public_ingest_url.clone(),
            resync_interval: self.resync_interval,
            admin_ceiling: self.admin_rate_ceiling,
            patience: controller::Patience {
                credentials: self.patience.credentials_patience,
                vendor: self.patience.vendor_patience,
                creation: self.patience.creation_grace,
            },
        }
    }
}

/// Which replica leads.
#[derive(clap::Args, Clone, Debug)]
pub struct LeaseArgs {
    /// The namespace of the Lease by which replicas agree who writes. Default: the operator's own.
    #[arg(long, value_name = "NAMESPACE", env = "HOOKSTREAM_LEASE_NAMESPACE")]
    lease_namespace: Option<String>,
    /// The name of the Lease: one for each set of replicas that does the same work.
    #[arg(long, default_value = "hookstream-controller", value_name = "NAME", env = "HOOKSTREAM_LEASE_NAME")]
    lease_name: String,
    /// How long other replicas wait for one that leads and gives no sign.
    #[arg(long, default_value = "15s", value_name = "DURATION", value_parser = duration::parse, env = "HOOKSTREAM_LEASE_DURATION")]
    lease_duration: Duration,
    /// How long a replica leads after its last renewal; shorter than the duration.
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = duration::parse, env = "HOOKSTREAM_LEASE_RENEW_DEADLINE")]
    lease_renew_deadline: Duration,
    /// The time between two renewals, or two looks of those that stand by.
    #[arg(long, default_value = "2s", value_name = "DURATION", value_parser = duration::parse, env = "HOOKSTREAM_LEASE_RETRY_PERIOD")]
    lease_retry_period: Duration,
}

impl LeaseArgs {
    pub fn options(self, own_namespace: &str) -> Result<LeaseOptions, Failure> {
        let terms = Terms {
            duration: self.lease_duration,
            renew_deadline: self.lease_renew_deadline,
            retry: self.lease_retry_period,
        };
        terms.check().or_fail(|| "--lease-duration, --lease-renew-deadline, --lease-retry-period".into())?;
        let namespace = self.lease_namespace.unwrap_or_else(|| own_namespace.to_owned());
        Ok(LeaseOptions { namespace, name: self.lease_name, terms, by_force: false })
    }
}

/// The worker's flags.
#[derive(clap::Args, Clone, Debug)]
pub struct WorkerArgs {
    /// The largest event in bytes.
    #[arg(long, default_value_t = 1 << 20, value_name = "BYTES", env = "HOOKSTREAM_MAX_EVENT_BYTES")]
    max_event_bytes: usize,
    /// The largest batch of events in bytes.
    #[arg(long, default_value_t = 16 << 20, value_name = "BYTES", env = "HOOKSTREAM_MAX_REQUEST_BYTES")]
    max_request_bytes: usize,
    /// How full the disk of --data may be; above it, events are refused before they are read. 100%: no limit.
    #[arg(long, default_value = "90%", value_parser = parse_percent, value_name = "PERCENT", env = "HOOKSTREAM_DISK_LIMIT")]
    disk_limit: u8,
    /// How long deliveries of a deleted hook wait for a hook of its name, before they are dead letters.
    #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = duration::parse, env = "HOOKSTREAM_HOOK_GRACE")]
    pub hook_grace: Duration,
    /// Use a store that another installation has used, and what waits in it, from now on as this one's.
    #[arg(long, env = "HOOKSTREAM_ACCEPT_NEW_STORE")]
    pub accept_new_store: bool,
    /// Which part of the disk may wait for the receivers of one namespace; above it, its events are refused. 100%: all.
    #[arg(long, default_value = "50%", value_parser = parse_percent, value_name = "PERCENT", env = "HOOKSTREAM_NAMESPACE_SHARE")]
    namespace_share: u8,
    /// Which part of the disk may wait for one hook; above it, its deliveries are dead letters at once. 100%: all.
    #[arg(long, default_value = "25%", value_parser = parse_percent, value_name = "PERCENT", env = "HOOKSTREAM_HOOK_SHARE")]
    hook_share: u8,
    /// How long an event with the id of an earlier one is taken for the same.
    #[arg(long, default_value = "24h", value_name = "DURATION", value_parser = parse_window, env = "HOOKSTREAM_DEDUP_WINDOW")]
    dedup_window: Duration,
    /// How long a relay with the body of an earlier one is taken for the same; 0: never.
    #[arg(long, default_value = "5s", value_name = "DURATION", value_parser = parse_window, env = "HOOKSTREAM_RELAY_DEDUP_WINDOW")]
    relay_dedup_window: Duration,
    /// How long delivered events are kept.
    #[arg(long, default_value = "24h", value_name = "DURATION", value_parser = duration::parse, env = "HOOKSTREAM_HISTORY_AGE")]
    history_age: Duration,
    /// How long dead letters are kept.
    #[arg(long, default_value = "168h", value_name = "DURATION", value_parser = duration::parse, env = "HOOKSTREAM_DEAD_LETTER_AGE")]
    dead_letter_age: Duration,
    /// How many bytes of delivered events are kept, such as 512MiB; the oldest go first.
    #[arg(long, default_value = "1GiB", value_parser = size::parse, value_name = "SIZE", env = "HOOKSTREAM_HISTORY_BYTES")]
    history_bytes: u64,
    /// How many EventHooks may have series of their own in the metrics: those with the annotation
    /// hookstream.dev/metrics: "true". 0: none.
    #[arg(long, default_value_t = 100, value_name = "COUNT", env = "HOOKSTREAM_HOOK_METRICS")]
    pub hook_metrics: usize,
    /// How many bytes of dead letters are kept; the oldest go first.
    #[arg(long, default_value = "1GiB", value_parser = size::parse, value_name = "SIZE", env = "HOOKSTREAM_DEAD_LETTER_BYTES")]
    dead_letter_bytes: u64,
    #[command(flatten)]
    pub tls: ServerTlsArgs,
    #[command(flatten)]
    pub scripts: ScriptArgs,
}

/// TLS of the ports that listen.
#[derive(clap::Args, Clone, Debug)]
pub struct ServerTlsArgs {
    /// A certificate chain in PEM: the ports (ingest and API) then speak HTTPS. Replaced files are taken within 10 s.
    #[arg(long, value_name = "FILE", requires = "tls_key", env = "HOOKSTREAM_TLS_CERT")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert", env = "HOOKSTREAM_TLS_KEY")]
    tls_key: Option<PathBuf>,
}

impl ServerTlsArgs {
    pub fn is_given(&self) -> bool {
        self.tls_cert.is_some()
    }

    /// What the ports show, where they speak TLS.
    pub fn open(&self) -> Result<Option<Arc<ServerTls>>, Failure> {
        let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) else { return Ok(None) };
        let tls = ServerTls::open(cert, key).or_fail(|| "--tls-cert, --tls-key".into())?;
        Ok(Some(Arc::new(tls)))
    }
}

impl WorkerArgs {
    pub fn limits(&self) -> Limits {
        Limits {
            max_event_bytes: self.max_event_bytes,
            max_request_bytes: self.max_request_bytes,
            dedup_window: self.dedup_window,
            relay_dedup_window: self.relay_dedup_window,
        }
    }

    pub fn disk(&self, data: &Path) -> Disk {
        Disk::new(data, self.disk_limit)
    }

    /// The shares of a disk of this size.
    pub fn shares(&self, disk: u64) -> Shares {
        let part = |percent: u8| disk / 100 * u64::from(percent);
        Shares { hook_bytes: part(self.hook_share), namespace_bytes: part(self.namespace_share) }
    }

    pub fn retention(&self) -> Retention {
        Retention {
            history_age: self.history_age,
            dead_letter_age: self.dead_letter_age,
            history_bytes: self.history_bytes,
            dead_letter_bytes: self.dead_letter_bytes,
        }
    }
}

/// How lambdas and templates are run.
#[derive(clap::Args, Clone, Debug)]
pub struct ScriptArgs {
    /// How long one call of a lambda, or the templates of one request, may run; never more than a hook's own timeout.
    #[arg(long, default_value = "1s", value_name = "DURATION", value_parser = duration::parse, env = "HOOKSTREAM_SCRIPT_TIMEOUT")]
    script_timeout: Duration,
    /// The Lua memory of one sandbox process, such as 64MiB.
    #[arg(long, default_value = "64MiB", value_parser = size::parse, value_name = "SIZE", env = "HOOKSTREAM_SCRIPT_MEMORY")]
    script_memory: u64,
    /// How many sandbox processes may run; one hook has never all of several. Default: as many as there are cores.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256), env = "HOOKSTREAM_SCRIPT_PROCESSES")]
    script_processes: Option<u16>,
    /// Run scripts even where the kernel refuses to confine their processes (no seccomp). Default: they are refused.
    #[arg(long, env = "HOOKSTREAM_SCRIPT_UNSANDBOXED")]
    script_unsandboxed: bool,
}

impl ScriptArgs {
    pub fn options(&self) -> sandbox::Options {
        let defaults = sandbox::Options::default();
        sandbox::Options {
            timeout: self.script_timeout,
            memory: self.script_memory,
            processes: self.script_processes.map_or(defaults.processes, usize::from),
            allow_unsandboxed: self.script_unsandboxed,
            ..defaults
        }
    }
}

/// Where requests may go: deliveries and admin calls alike.
#[derive(clap::Args, Clone, Debug)]
pub struct EgressArgs {
    /// cluster: private addresses too; public: public addresses only.
    #[arg(long, value_enum, default_value_t = EgressPolicy::Cluster, env = "HOOKSTREAM_EGRESS_POLICY")]
    egress_policy: EgressPolicy,
    /// Networks that are allowed whatever the policy says, such as 10.1.0.0/16.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', env = "HOOKSTREAM_EGRESS_ALLOW")]
    egress_allow: Vec<IpNet>,
    /// Networks that are refused.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', env = "HOOKSTREAM_EGRESS_DENY")]
    egress_deny: Vec<IpNet>,
    /// An HTTP proxy for every request (by CONNECT), such as http://proxy.example.com:3128. Those that the environment
    /// names (HTTPS_PROXY) are ignored.
    // Read later: what the parser of flags refuses it repeats, and here it may be a password.
    #[arg(long, value_name = "URL", env = "HOOKSTREAM_EGRESS_PROXY", hide_env_values = true)]
    egress_proxy: Option<String>,
    /// A file with user:password for the proxy. A replaced file counts from the next connection on.
    #[arg(long, value_name = "FILE", requires = "egress_proxy", env = "HOOKSTREAM_EGRESS_PROXY_AUTH")]
    egress_proxy_auth: Option<PathBuf>,
    /// What is reached without the proxy: hosts, .svc for all hosts below a name, and networks.
    #[arg(long, value_name = "HOST|CIDR", value_delimiter = ',', env = "HOOKSTREAM_EGRESS_PROXY_BYPASS")]
    egress_proxy_bypass: Vec<Bypass>,
}

/// Where a proxy is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ProxyAddress {
    host: String,
    port: u16,
}

/// Parses the address of a proxy.
fn parse_proxy(text: &str) -> Result<ProxyAddress, String> {
    let url = Url::parse(text).map_err(|e| format!("{e}: give http://HOST:PORT"))?;
    if url.scheme() != "http" {
        return Err("the proxy is spoken to by plain HTTP: give http://HOST:PORT".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "everybody on the machine sees it here: give user:password in a file, by --egress-proxy-auth"
                .into(),
        );
    }
    match (url.host_str(), url.path(), url.query()) {
        (Some(host), "/", None) => {
            let host = host.trim_matches(['[', ']']).to_owned();
            Ok(ProxyAddress { host, port: url.port_or_known_default().unwrap_or(80) })
        }
        _ => Err("a proxy has a host and a port and no path: give http://HOST:PORT".to_owned()),
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EgressPolicy {
    Cluster,
    Public,
}

impl EgressArgs {
    /// The way out. `refused`: the API server's addresses.
    pub async fn open(&self, loopback: bool, refused: Vec<SocketAddr>) -> Result<Egress, Failure> {
        let egress = Egress::new(self.policy(loopback, refused));
        let Some(address) = &self.egress_proxy else { return Ok(egress) };
        let ProxyAddress { host, port } = parse_proxy(address).or_fail(|| "--egress-proxy".into())?;
        let (credentials, bypass) = (self.egress_proxy_auth.clone(), self.egress_proxy_bypass.clone());
        let proxy = Proxy { host, port, credentials, bypass };
        // Now, and not with the first event that is to go out.
        proxy.credentials().await.or_fail(|| "--egress-proxy-auth".into())?;
        Ok(egress.through(proxy))
    }

    fn policy(&self, loopback: bool, refused: Vec<SocketAddr>) -> egress::Policy {
        egress::Policy {
            reach: match self.egress_policy {
                EgressPolicy::Cluster => egress::Reach::Cluster,
                EgressPolicy::Public => egress::Reach::Public,
            },
            loopback,
            allow: self.egress_allow.clone(),
            deny: self.egress_deny.clone(),
            refused,
        }
    }
}

/// True where a listen address can be reached from this machine alone.
pub fn is_loopback(flag: &str, listen: &str) -> Result<bool, Failure> {
    use std::net::ToSocketAddrs as _;
    let mut addresses = with_host(listen)
        .to_socket_addrs()
        .map_err(|e| Failure::new(format!("{flag} {listen}: {e}: give HOST:PORT")))?;
    Ok(addresses.all(|a| a.ip().is_loopback()))
}

/// `:8080` listens on every address.
pub fn with_host(listen: &str) -> String {
    if listen.starts_with(':') { format!("0.0.0.0{listen}") } else { listen.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        let rate =
            |requests, seconds| Rate { requests, interval: Duration::from_secs(seconds), burst: requests };
        assert_eq!(parse_rate("10/s"), Ok(rate(10, 1)));
        assert_eq!(parse_rate("600/m"), Ok(rate(600, 60)));
        for text in ["", "10", "10/", "/s", "0/s", "-1/s", "10/h", "1.5/s", "10/s/s"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn percents() {
        assert_eq!(parse_percent("90%"), Ok(90));
        assert_eq!(parse_percent("1"), Ok(1));
        for text in ["", "%", "0%", "101%", "+5", "5.5%", "-1", "90%%"] {
            assert!(parse_percent(text).is_err(), "{text}");
        }
    }
}
