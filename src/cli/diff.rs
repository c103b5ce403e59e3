//! `hookstream diff`: what a sync of manifests would change at the vendors.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use url::Url;

use super::output::{self, HELP, Output, clean};
use super::settings::{EgressArgs, parse_url};
use super::{Failure, OrFail, Outcome, say};
use crate::cluster::files::{Files, Offline, Options};
use crate::cluster::{Cluster, View};
use crate::controller::{self, Context, Looked, Patience, Problem, VendorChange};
use crate::leadership::Leadership;
use crate::metrics::Metrics;
use crate::net::HttpClient;

/// Show what a sync of these manifests would change at the vendors. Nothing is written.
///
/// The vendors are reached from here, by the Connections and Secrets of the files. An object is found there as the
/// controller finds it: by --data, by the uid and status that kubectl get -o yaml prints, by adopt.id, or by the id that
/// standalone makes of its name. Secrets are never shown. Exit code 1: something differs; 2: something could not be told.
///
/// Example: hookstream diff manifests/ --data /var/lib/hookstream
/// Example: kubectl get eventhooks,connections,secrets -o yaml > now.yaml && hookstream diff now.yaml
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Files or folders with manifests (*.yaml, *.yml, *.json).
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The data folder of standalone: what it told the vendors, and its keys. Default: secrets that the operator makes
    /// are not compared.
    #[arg(long, value_name = "DIR", env = "HOOKSTREAM_DATA")]
    data: Option<PathBuf>,
    /// How Kong reaches the worker, as the operator was told. Connections may say otherwise.
    #[arg(long, value_name = "URL", value_parser = parse_url, env = "HOOKSTREAM_INGEST_URL")]
    ingest_url: Option<Url>,
    /// How Auth0 reaches the worker, as the operator was told. Connections may say otherwise.
    #[arg(long, value_name = "URL", value_parser = parse_url, env = "HOOKSTREAM_PUBLIC_INGEST_URL")]
    public_ingest_url: Option<Url>,
    #[arg(short, long, value_enum, default_value_t = Output::Table, env = "HOOKSTREAM_OUTPUT", help = HELP)]
    output: Output,
    #[command(flatten)]
    egress: EgressArgs,
}

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
    /// Secrets that nobody here can compare: no difference.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    uncompared: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

pub async fn run(args: Args) -> Outcome {
    let (cluster, view) = read(&args).await?;
    let http = HttpClient::new(args.egress.open(true, Vec::new()).await?)
        .or_fail(|| "reading the system's certificates".into())?;
    let options = controller::Options {
        ingest_url: args.ingest_url,
        public_ingest_url: args.public_ingest_url,
        // What is not shown now is not there: nobody looks a second time.
        patience: Patience { creation: Duration::ZERO, ..Patience::default() },
        ..controller::Options::default()
    };
    let metrics = Arc::new(Metrics::default());
    let context = Context::new(cluster, view, http, options, metrics, Leadership::always());
    let with_data = args.data.is_some();
    let rows: Vec<Row> =
        controller::preview(&context).await.into_iter().map(|looked| row(looked, with_data)).collect();
    let has = |changes: &[&str]| rows.iter().any(|row| changes.contains(&row.change));
    let code = match () {
        () if has(&[UNKNOWN]) => 2,
        () if has(&["create", "update", "differs"]) => 1,
        () => 0,
    };
    match args.output {
        Output::Table => print(&rows),
        other => output::print(other, &Report { data: rows })?,
    }
    Ok(ExitCode::from(code))
}

const UNKNOWN: &str = "unknown";

async fn read(args: &Args) -> Result<(Arc<dyn Cluster>, View), Failure> {
    // By itself it says what cannot be read, which standalone leaves to its log.
    let offline = Offline::read(args.paths.clone()).or_fail(|| "diff".into())?;
    let Some(data) = &args.data else {
        let view = offline.view().await;
        return Ok((Arc::new(offline), view));
    };
    // To open a folder that standalone never used would make keys in it.
    if !data.join("keys.json").is_file() {
        return Err(Failure::new(format!(
            "--data {}: no keys.json in it: give the folder that standalone was started with",
            data.display()
        )));
    }
    let options = Options { manifests: args.paths.clone(), data: data.clone(), prune: false, token: None };
    let files = Files::open(options).or_fail(|| "--data".into())?;
    let view = files.view().await;
    Ok((Arc::new(files), view))
}

fn row(looked: Looked, with_data: bool) -> Row {
    let Looked { kind, key, has_status, result } = looked;
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
            let unseen = preview.change == VendorChange::Create && !has_status && !with_data;
            Row {
                change: preview.change.into(),
                id: preview.id,
                fields: preview.fields,
                message: said(preview.note, &preview.uncompared, unseen),
                uncompared: preview.uncompared,
                ..row
            }
        }
        Err(problem) => {
            let mut message = problem.to_string();
            if matches!(problem, Problem::Conflict { .. }) && !with_data {
                message.push_str(
                    "; if it is this object's, give --data, or the manifest as kubectl get -o yaml prints it",
                );
            }
            Row { reason: Some(problem.reason()), message: Some(message), ..row }
        }
    }
}

/// `unseen`: it is to be created, for all that the files tell.
fn said(note: Option<String>, uncompared: &[String], unseen: bool) -> Option<String> {
    let unseen = unseen.then(|| {
        "if it lives in a cluster already, give the manifest as kubectl get -o yaml prints it".to_owned()
    });
    let secrets = (!uncompared.is_empty()).then(|| format!("not comparable here: {}", uncompared.join(", ")));
    let all: Vec<String> = note.into_iter().chain(unseen).chain(secrets).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

fn print(rows: &[Row]) {
    let head = ["OBJECT", "CHANGE", "FIELDS", "MESSAGE"];
    let lines = rows.iter().map(|row| {
        let object = format!("{} {}/{}", row.kind, row.namespace, row.name);
        let message = row.message.clone().unwrap_or_default();
        [object, row.change.to_owned(), row.fields.join(", "), message].map(|text| clean(&text))
    });
    output::table(head, lines).iter().for_each(|line| say(line));
}
