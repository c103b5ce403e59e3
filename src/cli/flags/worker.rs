//! Flags of the worker.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::TraceArgs;
use super::parse::{parse_host, parse_network, parse_percent, parse_window};
use super::store::StoreArgs;
use crate::admin;
use crate::cli::failure::{Failure, OrFail};
use crate::core::output::MAX_OUTPUT;
use crate::core::{duration, size};
use crate::memory::{ItemSizes, Split, default_budget, memory_limit};
use crate::net::ServerTls;
use crate::sandbox;
use crate::worker::store::{KeepResponses, Retention, Shares};
use crate::worker::{self, AllowedOrigin, Disk, HandshakeOrigins, Limits};

/// The worker's flags.
#[derive(clap::Args, Clone, Debug)]
pub struct WorkerArgs {
    /// The largest accepted event in bytes.
    #[arg(long, default_value_t = 1 << 20, value_name = "BYTES", env = "HOOKSTREAM_MAX_EVENT_BYTES")]
    max_event_bytes: usize,
    /// The largest accepted batch of events in bytes.
    #[arg(long, default_value_t = 16 << 20, value_name = "BYTES", env = "HOOKSTREAM_MAX_REQUEST_BYTES")]
    max_request_bytes: usize,
    /// The memory for payloads: request bodies, queued commits, deliveries that are ready or in flight, script calls and
    /// responses of admin APIs, such as 384MiB. Default: (limit - sandbox) / 2, at most 1GiB. The limit is that of the
    /// cgroup, otherwise the memory of the machine; the sandbox is --script-processes times --script-memory. The other
    /// half is for the page cache, code, objects and connections.
    #[arg(long, value_parser = size::parse, value_name = "SIZE", env = "HOOKSTREAM_MEMORY_BUDGET")]
    memory_budget: Option<u64>,
    /// The usage of the disk of --data above which events are rejected before they are read. 100%: no limit. No effect with
    /// --store-url.
    #[arg(long, default_value = "90%", value_parser = parse_percent, value_name = "PERCENT", env = "HOOKSTREAM_DISK_LIMIT")]
    disk_limit: u8,
    /// How long deliveries of a deleted hook wait for a new hook of the same name before they become dead letters.
    #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = duration::parse, env = "HOOKSTREAM_HOOK_GRACE")]
    pub hook_grace: Duration,
    /// Adopt a store that belongs to another installation, with its pending deliveries.
    #[arg(long, env = "HOOKSTREAM_ACCEPT_NEW_STORE")]
    pub accept_new_store: bool,
    /// The share of the disk for pending deliveries of one namespace. Above it, events for this namespace are rejected.
    /// 100%: no limit.
    #[arg(long, default_value = "50%", value_parser = parse_percent, value_name = "PERCENT", env = "HOOKSTREAM_NAMESPACE_SHARE")]
    namespace_share: u8,
    /// The share of the disk for pending deliveries of one hook. Above it, new deliveries of this hook become dead
    /// letters immediately. 100%: no limit.
    #[arg(long, default_value = "25%", value_parser = parse_percent, value_name = "PERCENT", env = "HOOKSTREAM_HOOK_SHARE")]
    hook_share: u8,
    /// How long a second event with the same id counts as a duplicate; 0: never.
    #[arg(long, default_value = "24h", value_name = "DURATION", value_parser = parse_window, env = "HOOKSTREAM_DEDUP_WINDOW")]
    dedup_window: Duration,
    /// How long a second relay with the same body counts as a duplicate; 0: never.
    #[arg(long, default_value = "5s", value_name = "DURATION", value_parser = parse_window, env = "HOOKSTREAM_RELAY_DEDUP_WINDOW")]
    relay_dedup_window: Duration,
    /// How long delivered events are kept.
    #[arg(long, default_value = "24h", value_name = "DURATION", value_parser = duration::parse, env = "HOOKSTREAM_HISTORY_AGE")]
    history_age: Duration,
    /// How long dead letters are kept.
    #[arg(long, default_value = "168h", value_name = "DURATION", value_parser = duration::parse, env = "HOOKSTREAM_DEAD_LETTER_AGE")]
    dead_letter_age: Duration,
    /// How long events that no hook matched are kept, at most --history-age. Their size is limited to a quarter of
    /// --history-bytes, divided between the namespaces.
    #[arg(long, default_value = "24h", value_name = "DURATION", value_parser = duration::parse, env = "HOOKSTREAM_UNMATCHED_AGE")]
    unmatched_age: Duration,
    /// The maximum size of kept delivered events, such as 512MiB. The oldest are deleted first.
    #[arg(long, default_value = "1GiB", value_parser = size::parse, value_name = "SIZE", env = "HOOKSTREAM_HISTORY_BYTES")]
    history_bytes: u64,
    /// Of which deliveries the request and the response of the last attempt are kept, with 4 KiB of each body and without
    /// secrets. To read them requires permission to get deliveries/payload.
    #[arg(long, value_enum, default_value_t = KeepFlag::Failed, value_name = "WHICH", env = "HOOKSTREAM_KEEP_RESPONSES")]
    keep_responses: KeepFlag,
    /// The maximum number of EventHooks with metric series of their own. An EventHook opts in with the annotation
    /// hookstream.dev/metrics: "true". 0: none.
    #[arg(long, default_value_t = 100, value_name = "COUNT", env = "HOOKSTREAM_HOOK_METRICS")]
    pub hook_metrics: usize,
    /// The maximum size of kept dead letters. The oldest are deleted first.
    #[arg(long, default_value = "1GiB", value_parser = size::parse, value_name = "SIZE", env = "HOOKSTREAM_DEAD_LETTER_BYTES")]
    dead_letter_bytes: u64,
    /// Serve the web console at /console/ of the API port.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL", env = "HOOKSTREAM_CONSOLE")]
    pub console: bool,
    /// Networks or addresses of load balancers and proxies in front of both ports. While a port is almost full, it limits the
    /// connections of each other address; for this, loopback addresses need not be listed. A listed address is believed about
    /// its clients (X-Forwarded-For), for the console's log-in limit: list only proxies that append to that header.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = parse_network, env = "HOOKSTREAM_TRUSTED_PROXIES")]
    pub trusted_proxies: Vec<IpNet>,
    /// The senders whose webhook handshake (OPTIONS with WebHook-Request-Origin, CloudEvents) is granted, such as
    /// shop=eventgrid.azure.net or, with a limit of requests a minute, shop=eventgrid.azure.net@120. `*` stands for every
    /// namespace or origin. A granted sender still needs a token to publish.
    #[arg(
        long,
        value_name = "NAMESPACE=ORIGIN[@RATE]",
        value_delimiter = ',',
        env = "HOOKSTREAM_HANDSHAKE_ORIGINS"
    )]
    handshake_origins: Vec<AllowedOrigin>,
    /// Grant the webhook handshake of every origin.
    #[arg(long, env = "HOOKSTREAM_HANDSHAKE_ALLOW_ALL")]
    handshake_allow_all: bool,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub webhook_origin: WebhookOriginArgs,
    #[command(flatten)]
    pub traces: TraceArgs,
    #[command(flatten)]
    pub tls: ServerTlsArgs,
    #[command(flatten)]
    pub scripts: ScriptArgs,
}

/// The sender in webhook handshakes.
#[derive(clap::Args, Clone, Debug)]
pub struct WebhookOriginArgs {
    /// The origin, a DNS name that stands for this installation, that is stated to receivers of hooks with
    /// handler.webhook.handshake.
    #[arg(long = "webhook-origin", default_value = "hookstream", value_name = "NAME", value_parser = parse_host, env = "HOOKSTREAM_WEBHOOK_ORIGIN")]
    pub name: String,
}

/// TLS of listening ports.
#[derive(clap::Args, Clone, Debug)]
pub struct ServerTlsArgs {
    /// A file with a certificate chain (PEM), to serve HTTPS on every port but the ops port. A replaced file is loaded
    /// within 10 s.
    #[arg(long, value_name = "FILE", requires = "tls_key", env = "HOOKSTREAM_TLS_CERT")]
    tls_cert: Option<PathBuf>,
    /// A file with the certificate's private key (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert", env = "HOOKSTREAM_TLS_KEY")]
    tls_key: Option<PathBuf>,
}

impl ServerTlsArgs {
    pub fn is_given(&self) -> bool {
        self.tls_cert.is_some()
    }

    /// Loads the certificate; None if the ports serve plain HTTP.
    pub fn load(&self) -> Result<Option<Arc<ServerTls>>, Failure> {
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

    pub fn handshake(&self) -> HandshakeOrigins {
        HandshakeOrigins { allow_all: self.handshake_allow_all, allowed: self.handshake_origins.clone() }
    }

    /// Divides the memory budget into its shares.
    pub fn memory(&self) -> Result<Split, Failure> {
        let sizes = ItemSizes {
            event: self.max_event_bytes as u64,
            request: self.max_request_bytes as u64,
            attempt: worker::ATTEMPT_OVERHEAD as u64,
            rendered: MAX_OUTPUT as u64,
            script_reply: sandbox::protocol::MAX_REPLY_MEMORY,
            admin_response: admin::MAX_RESPONSE as u64,
        };
        let minimum = Split::minimum(&sizes);
        let budget = self.memory_budget.unwrap_or_else(|| self.default_memory_budget(minimum));
        Split::new(budget, &sizes).or_fail(|| "--memory-budget".into())
    }

    fn default_memory_budget(&self, minimum: u64) -> u64 {
        let sandbox = self.scripts.options();
        let sandbox = sandbox.memory.saturating_mul(sandbox.processes as u64);
        let limit = memory_limit();
        let budget = default_budget(limit.map_or(0, |limit| limit.bytes), sandbox, minimum);
        let (limit_mib, budget_mib) = (limit.map(|limit| limit.bytes >> 20), budget >> 20);
        if budget == minimum {
            let sandbox_mib = sandbox >> 20;
            tracing::warn!(
                limit_mib,
                sandbox_mib,
                budget_mib,
                "memory limit is small for the sandbox processes and the largest request: raise the limit, or set \
                 --memory-budget, --script-processes or --max-request-bytes"
            );
        } else {
            tracing::debug!(limit_mib, budget_mib, "memory budget derived from the memory limit");
        }
        budget
    }

    pub fn disk(&self, data: &Path) -> Disk {
        Disk::new(data, self.disk_limit)
    }

    /// Returns the disk of a store in a database. This process cannot measure it, so it has no limit.
    pub fn database_disk(&self) -> Disk {
        Disk::unlimited(self.store.store_size)
    }

    /// Returns the limits of pending deliveries on a disk of this size in bytes.
    pub fn shares(&self, disk: u64) -> Shares {
        let share = |percent: u8| disk / 100 * u64::from(percent);
        Shares { hook_bytes: share(self.hook_share), namespace_bytes: share(self.namespace_share) }
    }

    pub fn keep_responses(&self) -> KeepResponses {
        match self.keep_responses {
            KeepFlag::Failed => KeepResponses::Failed,
            KeepFlag::All => KeepResponses::All,
            KeepFlag::None => KeepResponses::None,
        }
    }

    pub fn retention(&self) -> Retention {
        Retention {
            history_age: self.history_age,
            dead_letter_age: self.dead_letter_age,
            unmatched_age: self.unmatched_age,
            history_bytes: self.history_bytes,
            dead_letter_bytes: self.dead_letter_bytes,
        }
    }
}

/// Which attempts keep their request and response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum KeepFlag {
    Failed,
    All,
    None,
}

/// Flags of lambdas and templates.
#[derive(clap::Args, Clone, Debug)]
pub struct ScriptArgs {
    /// How long one lambda invocation, or the templates of one request, may run; a hook's own timeout also applies.
    #[arg(long, default_value = "1s", value_name = "DURATION", value_parser = duration::parse, env = "HOOKSTREAM_SCRIPT_TIMEOUT")]
    script_timeout: Duration,
    /// The Lua memory limit of one sandbox process, such as 64MiB.
    #[arg(long, default_value = "64MiB", value_parser = size::parse, value_name = "SIZE", env = "HOOKSTREAM_SCRIPT_MEMORY")]
    script_memory: u64,
    /// The number of sandbox processes. If there are several, one hook never occupies all of them. Default: the number
    /// of cores.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256), env = "HOOKSTREAM_SCRIPT_PROCESSES")]
    script_processes: Option<u16>,
    /// Run scripts even if the kernel cannot confine their processes (no seccomp). Default: scripts are rejected.
    #[arg(long, env = "HOOKSTREAM_SCRIPT_UNSANDBOXED")]
    script_unsandboxed: bool,
}

impl ScriptArgs {
    pub fn options(&self) -> sandbox::SandboxOptions {
        let defaults = sandbox::SandboxOptions::default();
        sandbox::SandboxOptions {
            timeout: self.script_timeout,
            memory: self.script_memory,
            processes: self.script_processes.map_or(defaults.processes, usize::from),
            allow_unsandboxed: self.script_unsandboxed,
            ..defaults
        }
    }
}
