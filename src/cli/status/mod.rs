//! `hookstream status`: the state of an installation on one screen.

mod cluster;
mod leader;
mod print;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;

use super::failure::{CommandResult, Failure};
use super::output::{HELP, OutputFormat, print_json, print_line};
use super::service::ServiceCluster;
use super::worker_args::WorkerApiArgs;
use super::worker_client::WorkerClient;
use crate::core::duration;
use crate::core::time::Millis;
use crate::core::version::Version;
use cluster::ClusterStatus;
use leader::{Leader, LeaderAnswer, ReportedLeader, find_leader};
use print::{ObjectLists, WorkerStatus, status_lines, status_lines_without_worker};

/// The time between two requests.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Show on one screen what requires attention: objects that are not Ready, hooks that do not deliver, the backlog, dead
/// letters, disk and memory. Exit code 1: something is unwell.
///
/// What a user requested, a suspended object or a paused hook, is shown and is not unwell. In a cluster, --context shows
/// the leader too and, if the worker cannot be reached, the state of the objects. Without a namespace, all namespaces are
/// shown.
///
/// Example: hookstream status -A --wait 2m
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    #[command(flatten)]
    api: WorkerApiArgs,
    /// Show all namespaces. Requires permission to list deliveries in all of them.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Wait up to this time (such as 2m) until nothing is unwell.
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, conflicts_with = "watch")]
    wait: Option<Duration>,
    /// Show the state every two seconds, until interrupted.
    #[arg(long)]
    watch: bool,
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Table, value_name = "FORMAT", env = "HOOKSTREAM_OUTPUT", help = HELP)]
    output: OutputFormat,
}

/// The output in JSON and YAML.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    format_version: u32,
    /// False if the exit code is 1.
    healthy: bool,
    client: Version,
    /// Absent if the worker was not found.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    /// Absent if the controllers elect no leader, or if the worker does not know it and is not reached through a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<&'a Leader>,
    /// The worker's response. Null: it cannot be reached.
    worker: Option<&'a RawValue>,
    /// Why the worker cannot be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    worker_problem: Option<&'a str>,
    /// The objects of the cluster, if the worker cannot be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<&'a ObjectLists>,
}

/// The state at one time.
enum Snapshot {
    Worker {
        body: Box<RawValue>,
        status: Box<WorkerStatus>,
        leader: Option<Leader>,
    },
    /// The worker cannot be reached; the rest is what the cluster shows.
    Cluster {
        problem: String,
        found: ClusterStatus,
        leader: Leader,
    },
}

impl Snapshot {
    fn is_healthy(&self) -> bool {
        match self {
            Snapshot::Worker { status, leader, .. } => {
                status.healthy && leader.as_ref().is_none_or(Leader::is_healthy)
            }
            Snapshot::Cluster { .. } => false,
        }
    }
}

pub async fn run(args: Args) -> CommandResult {
    let cluster = args.api.cluster().await?;
    let deadline = args.wait.map(|wait| Instant::now() + wait);
    let mut worker = None;
    loop {
        let is_waiting = deadline.is_some_and(|deadline| Instant::now() < deadline);
        let snapshot = match read(&args, cluster.as_ref(), &mut worker).await {
            Ok(snapshot) if is_waiting && !snapshot.is_healthy() => None,
            // A worker that starts cannot be reached yet.
            Err(failure) if is_waiting && failure.is_temporary => None,
            Err(failure) => return Err(failure.failure),
            Ok(snapshot) => Some(snapshot),
        };
        if let Some(snapshot) = snapshot {
            print(&args, worker.as_ref(), &snapshot)?;
            if !args.watch {
                return Ok(ExitCode::from(u8::from(!snapshot.is_healthy())));
            }
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// A failed read. `is_temporary`: the worker cannot be reached now, and the next read may succeed.
struct ReadFailure {
    failure: Failure,
    is_temporary: bool,
}

impl Args {
    /// Returns the namespace to show. None: all.
    fn namespace(&self) -> Option<&str> {
        Some(&*self.api.caller.namespace).filter(|name| !self.all_namespaces && !name.is_empty())
    }
}

/// Reads the state from the worker. If it cannot be reached, reads what the cluster shows.
async fn read(
    args: &Args,
    cluster: Option<&ServiceCluster>,
    worker: &mut Option<WorkerClient>,
) -> Result<Snapshot, ReadFailure> {
    let failed = match read_worker(args, cluster.is_some(), worker).await {
        Ok(snapshot) => return Ok(snapshot),
        Err(failed) => failed,
    };
    let Some(cluster) = cluster.filter(|_| failed.is_temporary) else { return Err(failed) };
    // If the API server cannot be reached either, the first failure says so.
    let Some(found) = ClusterStatus::read(cluster, args.namespace()).await else { return Err(failed) };
    let route = worker.as_ref().and_then(WorkerClient::proxied_route);
    let service = route.map(|route| (route.namespace.as_str(), route.service.as_str()));
    let leader = find_leader(&cluster.client, &cluster.server, service, Millis::now()).await;
    Ok(Snapshot::Cluster { problem: failed.failure.message, found, leader })
}

/// Reads the state from the worker. Finds it first, if it was not found yet.
async fn read_worker(
    args: &Args,
    is_in_cluster: bool,
    worker: &mut Option<WorkerClient>,
) -> Result<Snapshot, ReadFailure> {
    let temporary = |failure| ReadFailure { failure, is_temporary: true };
    let lasting = |failure| ReadFailure { failure, is_temporary: false };
    let worker = match worker {
        Some(worker) => worker,
        None => {
            let found = args.api.connect_without_namespace().await;
            // In a cluster, the Service may be created later.
            worker.insert(found.map_err(|failure| ReadFailure { failure, is_temporary: is_in_cluster })?)
        }
    };
    let url = match args.namespace() {
        None => worker.root_url(&["v1", "status"]),
        Some(namespace) => worker.url(namespace, &["status"]).map_err(lasting)?,
    };
    let response = worker.get(url).await.map_err(temporary)?;
    let is_temporary = response.status.is_server_error() || response.status == StatusCode::TOO_MANY_REQUESTS;
    let response = response.success(2).map_err(|failure| ReadFailure { failure, is_temporary })?;
    let body: Box<RawValue> = response.json().map_err(lasting)?;
    let status: WorkerStatus = response.json().map_err(lasting)?;
    // The worker knows the name of its Lease (`--lease-name`), and may be permitted to read it where the user is not.
    let reported = status.leader.as_ref().map_or(LeaderAnswer::Unknown, ReportedLeader::answer);
    let leader = match (reported, worker.proxied_route()) {
        (LeaderAnswer::Known(leader), _) => Some(leader),
        // There is no Lease to search for.
        (LeaderAnswer::NoElection, _) | (LeaderAnswer::Unknown, None) => None,
        (LeaderAnswer::Unknown, Some(route)) => {
            let service = Some((route.namespace.as_str(), route.service.as_str()));
            Some(find_leader(&route.client, &route.server, service, Millis::now()).await)
        }
    };
    Ok(Snapshot::Worker { body, status: Box::new(status), leader })
}

fn print(args: &Args, worker: Option<&WorkerClient>, snapshot: &Snapshot) -> Result<(), Failure> {
    let target = worker.map(WorkerClient::target);
    if args.output == OutputFormat::Table {
        if args.watch && std::io::stdout().is_terminal() {
            // Clears the screen and moves to its top.
            print_line("\u{1b}[2J\u{1b}[H");
        }
        let now = Millis::now();
        let lines = match snapshot {
            Snapshot::Worker { status, leader, .. } => {
                let target = target.unwrap_or_default();
                status_lines(status, leader.as_ref(), target, snapshot.is_healthy(), now)
            }
            Snapshot::Cluster { problem, found, leader } => {
                let ClusterStatus { objects, problems } = found;
                status_lines_without_worker(args.namespace(), problem, leader, (objects, problems), now)
            }
        };
        lines.iter().for_each(|line| print_line(line));
        return Ok(());
    }
    let mut report = Report {
        format_version: 1,
        healthy: snapshot.is_healthy(),
        client: Version::current(),
        target,
        leader: None,
        worker: None,
        worker_problem: None,
        cluster: None,
    };
    match snapshot {
        Snapshot::Worker { body, leader, .. } => {
            (report.worker, report.leader) = (Some(&**body), leader.as_ref());
        }
        Snapshot::Cluster { problem, found, leader } => {
            (report.worker_problem, report.leader) = (Some(problem.as_str()), Some(leader));
            report.cluster = Some(&found.objects);
        }
    }
    let json = serde_json::value::to_raw_value(&report)
        .map_err(|error| Failure::new(format!("writing JSON: {error}")))?;
    print_json(args.output, &json)
}
