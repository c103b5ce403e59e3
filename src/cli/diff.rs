//! `hookstream diff`: shows the changes that a sync of manifests would make at the vendors.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use url::Url;

use super::data_folder::open_data_folder;
use super::failure::{CommandResult, Failure, OrFail};
use super::flags::{EgressArgs, parse_url};
use super::output::{self, HELP, OutputFormat, print_line, strip_control_chars};
use crate::cluster::files::OfflineManifests;
use crate::cluster::{Cluster, View};
use crate::controller::{
    self, Context, ControllerOptions, Deadlines, ObjectPreview, SyncError, VendorChange,
};
use crate::leadership::Leadership;
use crate::metrics::Metrics;
use crate::net::HttpClient;

/// Show the changes that a sync of these manifests would make at the vendors, without making them.
///
/// This process calls the vendors with the Connections and Secrets of the files. Like the controller, it finds an
/// external object by the uid and status, by adopt.id, or by the id that standalone derives from the name. The uid and
/// status come from --data, or from a manifest as kubectl get -o yaml prints it. It never shows secrets. Exit code 1:
/// something differs; 2: an object could not be compared.
///
/// Example: hookstream diff manifests/ --data /var/lib/hookstream
/// Example: kubectl get eventhooks,connections,secrets -o yaml > now.yaml && hookstream diff now.yaml
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Files or folders with manifests (*.yaml, *.yml, *.json).
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The data folder of standalone, with the state of its objects and its keys. Without it, secrets that the operator
    /// derives are not compared.
    #[arg(long, value_name = "DIR", env = "HOOKSTREAM_DATA")]
    data: Option<PathBuf>,
    /// The URL at which Kong reaches the worker, as the operator's flag has it. A Connection's ingestUrl overrides it.
    #[arg(long, value_name = "URL", value_parser = parse_url, env = "HOOKSTREAM_INGEST_URL")]
    ingest_url: Option<Url>,
    /// The URL at which Auth0 reaches the worker, as the operator's flag has it. A Connection's ingestUrl overrides it.
    #[arg(long, value_name = "URL", value_parser = parse_url, env = "HOOKSTREAM_PUBLIC_INGEST_URL")]
    public_ingest_url: Option<Url>,
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Table, value_name = "FORMAT", env = "HOOKSTREAM_OUTPUT", help = HELP)]
    output: OutputFormat,
    #[command(flatten)]
    egress: EgressArgs,
}

/// Not a list: the differences of each object.
#[derive(Serialize)]
struct Report {
    data: Vec<Row>,
}

/// One object. `change` is create, update, differs, unchanged or unknown.
#[derive(Serialize)]
struct Row {
    kind: &'static str,
    namespace: String,
    name: String,
    change: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    fields: Vec<String>,
    /// Secrets that cannot be compared here. They do not count as a difference.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    uncompared: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

pub async fn run(args: Args) -> CommandResult {
    let (cluster, view) = read(&args).await?;
    let http = HttpClient::new(args.egress.build(true, Vec::new()).await?)
        .or_fail(|| "reading the system's certificates".into())?;
    let options = ControllerOptions {
        ingest_url: args.ingest_url,
        public_ingest_url: args.public_ingest_url,
        // Use no grace period: a second attempt that could find a new object does not follow.
        deadlines: Deadlines { creation: Duration::ZERO, ..Deadlines::default() },
        ..ControllerOptions::default()
    };
    let metrics = Arc::new(Metrics::default());
    let context = Context::new(cluster, view, http, options, metrics, Leadership::always());
    let with_data = args.data.is_some();
    let rows: Vec<Row> =
        controller::preview(&context).await.into_iter().map(|preview| row(preview, with_data)).collect();
    let has_any = |changes: &[&str]| rows.iter().any(|row| changes.contains(&row.change));
    let code = match () {
        () if has_any(&[UNKNOWN]) => 2,
        () if has_any(&["create", "update", "differs"]) => 1,
        () => 0,
    };
    match args.output {
        OutputFormat::Table => print(&rows),
        other => output::print_value(other, &Report { data: rows })?,
    }
    Ok(ExitCode::from(code))
}

/// The `change` of an object that could not be compared.
const UNKNOWN: &str = "unknown";

async fn read(args: &Args) -> Result<(Arc<dyn Cluster>, View), Failure> {
    // Fail on a malformed manifest, which `FileCluster` only logs.
    let offline = OfflineManifests::read(args.paths.clone()).or_fail(|| "diff".into())?;
    let Some(data) = &args.data else {
        let view = offline.view().await;
        return Ok((Arc::new(offline), view));
    };
    let files = open_data_folder(&args.paths, data)?;
    let view = files.view().await;
    Ok((Arc::new(files), view))
}

fn row(preview: ObjectPreview, with_data: bool) -> Row {
    let ObjectPreview { kind, key, has_status, result } = preview;
    let row = Row {
        kind,
        namespace: key.namespace,
        name: key.name,
        change: UNKNOWN,
        id: None,
        fields: Vec::new(),
        uncompared: Vec::new(),
        reason: None,
        message: None,
    };
    match result {
        Ok(preview) => {
            let may_exist = preview.change == VendorChange::Create && !has_status && !with_data;
            Row {
                change: preview.change.into(),
                id: preview.id,
                fields: preview.fields,
                message: message(preview.note, &preview.unverified, may_exist),
                uncompared: preview.unverified,
                ..row
            }
        }
        Err(error) => {
            let mut message = error.to_string();
            if matches!(error, SyncError::Conflict { .. }) && !with_data {
                message.push_str(
                    "; if it belongs to this object, give --data, or the manifest as kubectl get -o yaml prints it",
                );
            }
            Row { reason: Some(error.reason()), message: Some(message), ..row }
        }
    }
}

/// Joins the parts of the message. `may_exist`: the object would be created, but the files may lack its status.
fn message(note: Option<String>, unverified: &[String], may_exist: bool) -> Option<String> {
    let hint = may_exist.then(|| {
        "if it exists in a cluster already, give the manifest as kubectl get -o yaml prints it".to_owned()
    });
    let secrets = (!unverified.is_empty()).then(|| format!("not comparable here: {}", unverified.join(", ")));
    let all: Vec<String> = note.into_iter().chain(hint).chain(secrets).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

fn print(rows: &[Row]) {
    let head = ["OBJECT", "CHANGE", "FIELDS", "MESSAGE"];
    let lines = rows.iter().map(|row| {
        let object = format!("{} {}/{}", row.kind, row.namespace, row.name);
        let message = row.message.clone().unwrap_or_default();
        [object, row.change.to_owned(), row.fields.join(", "), message].map(|text| strip_control_chars(&text))
    });
    output::table_lines(head, lines).iter().for_each(|line| print_line(line));
}
