//! `hookstream orphans`: lists vendor objects that no custom resource holds, and deletes those that this installation
//! provably configured.

use std::collections::HashSet;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::data_folder::open_data_folder;
use super::failure::{CommandResult, Failure, OrFail};
use super::flags::{EgressArgs, OperatorNamespaceArgs, parse_installation_id};
use super::kubeconfig::create_client;
use super::output::{self, HELP, ItemList, OutputFormat, print_line, strip_control_chars};
use super::target::ClusterTargetArgs;
use crate::cluster::files::{FileCluster, OfflineManifests, view_of};
use crate::cluster::kubernetes::{Kubernetes, KubernetesOptions};
use crate::cluster::{Cluster, ClusterError, ObjectKey, ResourceKind};
use crate::controller::orphans::{
    CustomResources, Holding, ResourceRecord, VendorObject, delete_vendor_object, list_vendor_objects,
};
use crate::controller::{Context, ControllerOptions};
use crate::core::keys::KeyRing;
use crate::leadership::Leadership;
use crate::metrics::Metrics;
use crate::net::HttpClient;

/// The kinds that hold vendor objects.
const HOLDERS: [ResourceKind; 3] = [ResourceKind::EventHook, ResourceKind::EventStream, ResourceKind::Hook];

/// List the objects at the vendors that no custom resource holds, relays to the worker included.
///
/// Calls the vendors of all Connections with their credentials. An object is an orphan if the mark in its URL proves that
/// this installation configured it, and unmanaged otherwise. --delete deletes orphans and never an unmanaged object.
/// Exit code 1: there are such objects; 2: a vendor could not be read, or an orphan not be deleted.
///
/// Example: hookstream orphans --operator-namespace hookstream-system
/// Example: hookstream orphans --manifests manifests/ --data /var/lib/hookstream --delete
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Delete the orphans after a confirmation.
    #[arg(long)]
    delete: bool,
    /// Delete without a confirmation, for scripts.
    #[arg(long, requires = "delete")]
    yes: bool,
    /// Files or folders with the manifests of standalone, instead of a cluster.
    #[arg(long, num_args = 1.., value_name = "PATH", value_delimiter = ',', env = "HOOKSTREAM_MANIFESTS")]
    manifests: Vec<PathBuf>,
    /// The data folder of standalone. Required with --manifests.
    #[arg(long, value_name = "DIR", env = "HOOKSTREAM_DATA")]
    data: Option<PathBuf>,
    /// A namespace to work in; may be repeated. Default: all.
    #[arg(long, value_delimiter = ',', env = "HOOKSTREAM_NAMESPACE")]
    namespace: Vec<String>,
    #[command(flatten)]
    own: OperatorNamespaceArgs,
    /// The id of this installation, as the operator's flag has it. Default: the uid of the operator's namespace, or the id
    /// in the data folder.
    #[arg(long, value_name = "ID", value_parser = parse_installation_id, env = "HOOKSTREAM_INSTALLATION_ID")]
    installation_id: Option<String>,
    #[command(flatten)]
    target: ClusterTargetArgs,
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Table, value_name = "FORMAT", env = "HOOKSTREAM_OUTPUT", help = HELP)]
    output: OutputFormat,
    #[command(flatten)]
    egress: EgressArgs,
}

/// One vendor object. `state` is orphan, unmanaged, deleted, changed or failed.
#[derive(Serialize)]
struct Row {
    kind: &'static str,
    id: String,
    connection: String,
    endpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    workspace: Option<String>,
    /// Source, event and handler, or the name.
    description: String,
    /// The object to which a relay leads, as NAMESPACE/NAME.
    #[serde(skip_serializing_if = "Option::is_none")]
    relay: Option<String>,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// Where the custom resources are.
enum Installation {
    Cluster { kubernetes: Arc<Kubernetes>, namespaces: Vec<String> },
    Files { manifests: Vec<PathBuf>, data: PathBuf },
}

pub async fn run(args: Args) -> CommandResult {
    if args.delete && !args.yes && !std::io::stdin().is_terminal() {
        return Err(Failure::new("--delete: standard input is no terminal for the confirmation: give --yes"));
    }
    let (installation, cluster) = open(&args).await?;
    let connections = installation.read(&[ResourceKind::Connection]).await?;
    let keys: Vec<ObjectKey> = connections.iter().map(|(_, connection)| key_of(connection)).collect();
    let egress = args.egress.build(true, Vec::new()).await?;
    let http = HttpClient::new(egress).or_fail(|| "reading the system's certificates".into())?;
    let context = Context::new(
        cluster.clone(),
        view_of(&connections).await,
        http,
        ControllerOptions::default(),
        Arc::new(Metrics::default()),
        Leadership::always(),
    );
    let identity = Identity::read(&args, &*cluster).await?;

    let (objects, mut is_incomplete) = list_all(&context, keys).await;
    let resources = installation.custom_resources().await?;
    let mut rows: Vec<(&VendorObject, Row)> = objects
        .iter()
        .filter_map(|object| Some((object, row(object, identity.classify(&resources, object))?)))
        .collect();
    let orphans = rows.iter().filter(|(_, row)| row.state == ORPHAN).count();
    if args.delete && orphans > 0 && (args.yes || confirm(orphans)?) {
        // The confirmation may have taken minutes.
        let resources = installation.custom_resources().await?;
        for (object, row) in rows.iter_mut().filter(|(_, row)| row.state == ORPHAN) {
            let is_orphan = identity.classify(&resources, object) == Holding::Ours;
            let result = if is_orphan { delete_vendor_object(&context, object).await } else { Ok(false) };
            (row.state, row.message) = match result {
                Ok(true) => ("deleted", None),
                Ok(false) => ("changed", Some("changed since it was listed: not deleted".to_owned())),
                Err(error) => {
                    is_incomplete = true;
                    ("failed", Some(error.to_string()))
                }
            };
        }
    }
    let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
    let code = match () {
        () if is_incomplete => 2,
        () if rows.iter().any(|row| row.state != "deleted") => 1,
        () => 0,
    };
    match args.output {
        OutputFormat::Table => print(&rows),
        other => output::print_value(other, &ItemList { items: rows })?,
    }
    Ok(ExitCode::from(code))
}

const ORPHAN: &str = "orphan";

/// What proves that a relay belongs to this installation.
struct Identity {
    installation: Option<String>,
    key_ring: Option<Arc<KeyRing>>,
}

impl Identity {
    async fn read(args: &Args, cluster: &dyn Cluster) -> Result<Self, Failure> {
        let installation = match &args.installation_id {
            Some(id) => Some(id.clone()),
            None => cluster.installation_mark().await.or_fail(|| {
                format!("reading the id of the installation (namespace {})", args.own.operator_namespace)
            })?,
        };
        if installation.is_none() {
            eprintln!("hookstream: the id of this installation is unknown: give --installation-id");
        }
        let key_ring = match cluster.key_ring(false).await {
            Ok(key_ring) => Some(key_ring),
            Err(error @ ClusterError::KeyRing(_)) => {
                eprintln!("hookstream: nothing can be proven: {error}");
                None
            }
            Err(error) => return Err(Failure::new(format!("reading the key ring: {error}"))),
        };
        Ok(Identity { installation, key_ring })
    }

    fn classify(&self, resources: &CustomResources, object: &VendorObject) -> Holding {
        resources.classify(object, self.installation.as_deref(), self.key_ring.as_deref())
    }
}

async fn open(args: &Args) -> Result<(Installation, Arc<dyn Cluster>), Failure> {
    if args.manifests.is_empty() {
        let kubeconfig = args.target.kubeconfig(&args.target.profile()?);
        let client = create_client(kubeconfig.load().await?)?;
        let options = KubernetesOptions {
            namespace: args.own.operator_namespace.clone(),
            key_ring_secret: args.own.key_ring_secret.clone(),
            namespaces: args.namespace.clone(),
            // Objects of every controller class hold their external objects.
            label_selector: String::new(),
            require_secret_label: false,
            token_audience: String::new(),
            watch_timeout: std::time::Duration::from_secs(200),
        };
        let kubernetes = Arc::new(Kubernetes::new(client, &options, Leadership::always()));
        let installation =
            Installation::Cluster { kubernetes: kubernetes.clone(), namespaces: args.namespace.clone() };
        return Ok((installation, kubernetes));
    }
    let data = args.data.clone().ok_or_else(|| Failure::new("--manifests requires --data"))?;
    let installation = Installation::Files { manifests: args.manifests.clone(), data };
    let files = installation.open_files()?;
    Ok((installation, Arc::new(files)))
}

impl Installation {
    fn open_files(&self) -> Result<FileCluster, Failure> {
        let Installation::Files { manifests, data } = self else {
            return Err(Failure::new("these are no files"));
        };
        // Fail on a malformed manifest, which `FileCluster` only logs: its object would look deleted.
        OfflineManifests::read(manifests.clone()).or_fail(|| "--manifests".into())?;
        open_data_folder(manifests, data)
    }

    /// Reads all objects of these kinds as untyped JSON.
    async fn read(&self, kinds: &[ResourceKind]) -> Result<Vec<(ResourceKind, Value)>, Failure> {
        match self {
            Installation::Files { .. } => {
                let all = self.open_files()?.raw_objects();
                Ok(all.into_iter().filter(|(kind, _)| kinds.contains(kind)).collect())
            }
            Installation::Cluster { kubernetes, namespaces } => {
                let mut all = Vec::new();
                for kind in kinds {
                    let objects = kubernetes.list_objects(*kind, namespaces, "").await;
                    let name: &str = kind.into();
                    let objects = objects.or_fail(|| format!("listing objects of kind {name}"))?;
                    all.extend(objects.into_iter().map(|object| (*kind, object)));
                }
                Ok(all)
            }
        }
    }

    async fn custom_resources(&self) -> Result<CustomResources, Failure> {
        let objects = self.read(&HOLDERS).await?;
        let records = objects.iter().map(|(kind, object)| ResourceRecord::parse(*kind, object)).collect();
        let namespaces = match self {
            Installation::Cluster { namespaces, .. } => namespaces.clone(),
            Installation::Files { .. } => Vec::new(),
        };
        Ok(CustomResources::new(records, namespaces))
    }
}

fn key_of(object: &Value) -> ObjectKey {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    ObjectKey::new(text("/metadata/namespace"), text("/metadata/name"))
}

/// Lists the objects of all Connections; an object that several Connections show is listed once. Returns true if a
/// Connection could not be read.
async fn list_all(context: &Context, mut connections: Vec<ObjectKey>) -> (Vec<VendorObject>, bool) {
    connections.sort();
    let (mut objects, mut seen, mut is_incomplete) = (Vec::new(), HashSet::new(), false);
    for key in connections {
        match list_vendor_objects(context, &key).await {
            Ok(listed) => objects.extend(listed.into_iter().filter(|object| {
                let (endpoint, workspace) = (object.endpoint.clone(), object.workspace.clone());
                seen.insert((object.kind, endpoint, workspace, object.id.clone()))
            })),
            Err(error) => {
                is_incomplete = true;
                eprintln!("hookstream: Connection {key}: {}", strip_control_chars(&error.to_string()));
            }
        }
    }
    (objects, is_incomplete)
}

/// Returns the row of an object that no custom resource holds.
fn row(object: &VendorObject, holding: Holding) -> Option<Row> {
    let (state, message) = match holding {
        Holding::Held => return None,
        Holding::Ours => (ORPHAN, None),
        Holding::Unmanaged(why) => ("unmanaged", Some(why)),
    };
    let target = object.relay.as_ref().map(|relay| &relay.target);
    Some(Row {
        kind: object.kind.into(),
        id: object.id.clone(),
        connection: object.connection.to_string(),
        endpoint: object.endpoint.clone(),
        workspace: object.workspace.clone(),
        description: object.description.clone(),
        relay: target.map(|target| format!("{}/{}", target.namespace, target.name)),
        state,
        message,
    })
}

fn confirm(count: usize) -> Result<bool, Failure> {
    eprint!("Delete {count} objects at the vendors? Type yes: ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).or_fail(|| "reading the confirmation".into())?;
    Ok(answer.trim() == "yes")
}

fn print(rows: &[Row]) {
    let header = ["KIND", "ID", "CONNECTION", "DESCRIPTION", "RELAY TO", "STATE", "MESSAGE"];
    let lines = rows.iter().map(|row| {
        [
            row.kind.to_owned(),
            row.id.clone(),
            row.connection.clone(),
            row.description.clone(),
            row.relay.clone().unwrap_or_default(),
            row.state.to_owned(),
            row.message.clone().unwrap_or_default(),
        ]
        .map(|text| strip_control_chars(&text))
    });
    output::table_lines(header, lines).iter().for_each(|line| print_line(line));
}
