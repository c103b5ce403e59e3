//! `hookstream diff`: shows the changes that a sync of manifests would make at the vendors.

mod live;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use url::Url;

use super::data_folder::open_data_folder;
use super::failure::{CommandResult, Failure, OrFail};
use super::flags::{EgressArgs, parse_url};
use super::output::{self, OutputFormat};
use crate::cluster::files::OfflineManifests;
use crate::cluster::{Cluster, View};
use crate::controller::{self, Context, ControllerOptions, Deadlines};
use crate::leadership::Leadership;
use crate::metrics::Metrics;
use crate::net::HttpClient;
use live::{ClusterArgs, LiveCluster, OperatorFlags};
use report::{Report, Row, preview_row, print, print_markdown};

/// Show the changes that a sync of these manifests would make at the vendors, without making them.
///
/// This process calls the vendors with the Connections and Secrets of the files, and with --cluster of the cluster. Like
/// the controller, it finds an external object by the uid and status, by adopt.id, or by the id that standalone derives
/// from the name. The uid and status come from --cluster or --data, or from a manifest as kubectl get -o yaml prints it.
/// It never shows secrets. Exit code 1: something differs; 2: an object could not be compared.
///
/// Example: hookstream diff manifests/ --data /var/lib/hookstream
/// Example: kustomize build . | hookstream diff - --cluster
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Files or folders with manifests (*.yaml, *.yml, *.json), or - for standard input.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The data folder of standalone, with the state of its objects and its keys. Without it, secrets that the operator
    /// derives are not compared.
    #[arg(long, value_name = "DIR", env = "HOOKSTREAM_DATA")]
    data: Option<PathBuf>,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// The URL at which Kong reaches the worker, as the operator's flag has it. A Connection's ingestUrl overrides it. Default
    /// with --cluster: the operator's flag there.
    #[arg(long, value_name = "URL", value_parser = parse_url, env = "HOOKSTREAM_INGEST_URL")]
    ingest_url: Option<Url>,
    /// The URL at which Auth0 reaches the worker, as the operator's flag has it. A Connection's ingestUrl overrides it.
    /// Default with --cluster: the operator's flag there.
    #[arg(long, value_name = "URL", value_parser = parse_url, env = "HOOKSTREAM_PUBLIC_INGEST_URL")]
    public_ingest_url: Option<Url>,
    /// The output format. markdown: for a comment on a change.
    // Not HOOKSTREAM_OUTPUT, because other commands do not have these formats.
    #[arg(short, long, value_enum, default_value_t = DiffFormat::Table, value_name = "FORMAT", env = "HOOKSTREAM_DIFF_OUTPUT")]
    output: DiffFormat,
    #[command(flatten)]
    egress: EgressArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum DiffFormat {
    Table,
    Json,
    Yaml,
    Markdown,
}

pub async fn run(args: Args) -> CommandResult {
    let http = HttpClient::new(args.egress.build(true, Vec::new()).await?)
        .or_fail(|| "reading the system's certificates".into())?;
    if args.cluster.cluster {
        let live = args.cluster.read(&args.paths).await?;
        let LiveCluster { cluster, view, keys, flags, deletions } = live;
        let context = context(&args, cluster, view, http, flags);
        let previews = controller::preview(&context, &|kind, key| keys.contains(&(kind, key.clone()))).await;
        let rows = previews.into_iter().map(|preview| preview_row(preview, true)).chain(deletions);
        return report(rows.collect(), args.output);
    }
    let (cluster, view) = read(&args).await?;
    let context = context(&args, cluster, view, http, OperatorFlags::default());
    let has_state = args.data.is_some();
    let previews = controller::preview(&context, &|_, _| true).await;
    report(previews.into_iter().map(|preview| preview_row(preview, has_state)).collect(), args.output)
}

fn context(
    args: &Args,
    cluster: Arc<dyn Cluster>,
    view: View,
    http: HttpClient,
    flags: OperatorFlags,
) -> Context {
    let options = ControllerOptions {
        ingest_url: args.ingest_url.clone().or(flags.ingest_url),
        public_ingest_url: args.public_ingest_url.clone().or(flags.public_ingest_url),
        installation_id: flags.installation_id,
        // Use no grace period: a second attempt that could find a new object does not follow.
        deadlines: Deadlines { creation: Duration::ZERO, ..Deadlines::default() },
        prefers_lists: true,
        ..ControllerOptions::default()
    };
    Context::new(cluster, view, http, options, Arc::new(Metrics::default()), Leadership::always())
}

fn report(rows: Vec<Row>, format: DiffFormat) -> CommandResult {
    let report = Report::new(rows);
    match format {
        DiffFormat::Table => print(&report),
        DiffFormat::Json => output::print_value(OutputFormat::Json, &report)?,
        DiffFormat::Yaml => output::print_value(OutputFormat::Yaml, &report)?,
        DiffFormat::Markdown => print_markdown(&report),
    }
    Ok(ExitCode::from(report.exit_code()))
}

async fn read(args: &Args) -> Result<(Arc<dyn Cluster>, View), Failure> {
    let Some(data) = &args.data else {
        let offline = OfflineManifests::read(args.paths.clone()).or_fail(|| "diff".into())?;
        let view = offline.view().await;
        return Ok((Arc::new(offline), view));
    };
    if args.paths.iter().any(|path| path.as_os_str() == "-") {
        return Err(Failure::new("diff: - and --data exclude each other: write the manifests to a file"));
    }
    // Fail on a malformed manifest, which `FileCluster` only logs.
    OfflineManifests::read(args.paths.clone()).or_fail(|| "diff".into())?;
    let files = open_data_folder(&args.paths, data)?;
    let view = files.view().await;
    Ok((Arc::new(files), view))
}
