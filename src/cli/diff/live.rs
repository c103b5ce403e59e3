//! The live side of `hookstream diff --cluster`: the cluster's objects, and the flags of the operator that runs there.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, PodSpec};
use kube::api::ListParams;
use kube::{Api, Client};
use serde_json::Value;
use strum::IntoEnumIterator;
use url::Url;

use super::report::{Row, deleted_row};
use crate::cli::failure::{Failure, OrFail};
use crate::cli::flags::{parse_installation_id, parse_selector, parse_url};
use crate::cli::kubeconfig::{ApiServer, create_client};
use crate::cli::target::ClusterTargetArgs;
use crate::cluster::files::OfflineManifests;
use crate::cluster::kubernetes::{Kubernetes, KubernetesOptions};
use crate::cluster::{ManifestOverlay, ObjectKey, ResourceKind, View};
use crate::leadership::Leadership;

/// The labels of the operator's workloads.
const WORKLOADS: &str = "app.kubernetes.io/part-of=hookstream";

/// Flags of a comparison with a cluster.
#[derive(clap::Args)]
pub struct ClusterArgs {
    /// Take uid, status and hashes of the objects from the cluster, and what the files lack: Connections, Secrets and
    /// ConfigMaps. Never reads the key ring, so secrets that the operator derives are not compared.
    #[arg(long, conflicts_with = "data", env = "HOOKSTREAM_DIFF_CLUSTER")]
    pub cluster: bool,
    #[command(flatten)]
    target: ClusterTargetArgs,
    /// The operator's own namespace, which contains the key ring.
    #[arg(long, default_value = "hookstream-system", value_name = "NAMESPACE", env = "POD_NAMESPACE")]
    operator_namespace: String,
    /// The id of the installation, as the operator's flag has it. Default: the uid of the operator's namespace.
    #[arg(long, value_name = "ID", value_parser = parse_installation_id, env = "HOOKSTREAM_INSTALLATION_ID")]
    installation_id: Option<String>,
    /// Show the objects of the files' namespaces that the files do not have as deletions.
    #[arg(long, requires = "cluster", env = "HOOKSTREAM_DIFF_PRUNE")]
    prune: bool,
    /// Show only deletions of objects with these labels.
    #[arg(short = 'l', long, value_name = "LABELS", value_parser = parse_selector, requires = "prune", env = "HOOKSTREAM_DIFF_SELECTOR")]
    selector: Option<String>,
}

/// A cluster that is compared with manifests.
pub struct LiveCluster {
    pub cluster: Arc<ManifestOverlay>,
    pub view: View,
    /// The objects of the manifests. Only these are compared.
    pub keys: BTreeSet<(ResourceKind, ObjectKey)>,
    pub flags: OperatorFlags,
    pub deletions: Vec<Row>,
}

/// Flags with which the operator runs, as far as they are known.
#[derive(Default)]
pub struct OperatorFlags {
    pub ingest_url: Option<Url>,
    pub public_ingest_url: Option<Url>,
    pub installation_id: Option<String>,
}

impl ClusterArgs {
    /// Reads the manifests and the cluster.
    pub async fn read(&self, paths: &[std::path::PathBuf]) -> Result<LiveCluster, Failure> {
        let profile = self.target.profile()?;
        let kubeconfig = self.target.kubeconfig(&profile);
        let config = kubeconfig.load().await?;
        let server = kubeconfig.server(&config);
        let namespace = profile.namespace.unwrap_or_else(|| config.default_namespace.clone());
        let client = create_client(config)?;
        let manifests = OfflineManifests::read_with_namespace(paths, &namespace).or_fail(|| "diff".into())?;
        let options = KubernetesOptions {
            namespace: self.operator_namespace.clone(),
            // The key ring is never read here.
            key_ring_secret: None,
            namespaces: Vec::new(),
            label_selector: String::new(),
            require_secret_label: false,
            token_audience: String::new(),
            watch_timeout: std::time::Duration::from_secs(200),
        };
        let kubernetes = Arc::new(Kubernetes::new(client.clone(), &options, Leadership::always()));
        let cluster = Arc::new(ManifestOverlay::new(manifests, kubernetes.clone()));
        let keys = cluster.keys();
        let namespaces: BTreeSet<String> = keys.iter().map(|(_, key)| key.namespace.clone()).collect();
        let namespaces: Vec<String> = namespaces.into_iter().collect();
        let list = async |selector: &str| -> Result<Vec<(ResourceKind, Value)>, Failure> {
            let mut all = Vec::new();
            // Without a namespace, all would be listed.
            for kind in ResourceKind::iter().filter(|_| !namespaces.is_empty()) {
                let name: &str = kind.into();
                let objects = kubernetes.list_objects(kind, &namespaces, selector).await;
                let objects = objects.or_fail(|| format!("listing objects of kind {name} in {server}"))?;
                all.extend(objects.into_iter().map(|object| (kind, object)));
            }
            Ok(all)
        };
        let live = list("").await?;
        let prunable = match &self.selector {
            Some(selector) => list(selector).await?,
            None => live.clone(),
        };
        let is_deleted =
            |(kind, object): &&(ResourceKind, Value)| self.prune && !keys.contains(&(*kind, key_of(object)));
        let deletions = prunable
            .iter()
            .filter(is_deleted)
            .map(|(kind, object)| deleted_row(*kind, key_of(object), object, &live))
            .collect();
        let mut flags = self.operator_flags(&client).await;
        flags.installation_id = self.installation_id.clone().or(flags.installation_id);
        if flags.installation_id.is_none() {
            self.check_operator_namespace(&client, &server).await?;
        }
        let view = cluster.view(live).await;
        Ok(LiveCluster { cluster, view, keys, flags, deletions })
    }

    /// Checks that the namespace exists whose uid marks the relays. Otherwise each object would report that.
    async fn check_operator_namespace(&self, client: &Client, server: &ApiServer) -> Result<(), Failure> {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        match namespaces.get_metadata_opt(&self.operator_namespace).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(Failure::new(format!(
                "{server} has no namespace {}: give the operator's namespace with --operator-namespace",
                self.operator_namespace
            ))),
            // Then the marks are not compared.
            Err(kube::Error::Api(status)) if status.code == 403 => Ok(()),
            Err(error) => Err(Failure::new(server.describe(&error))),
        }
    }

    /// Reads flags of the operator's workloads. Without the right to list them there are none.
    async fn operator_flags(&self, client: &Client) -> OperatorFlags {
        let params = ListParams::default().labels(WORKLOADS);
        let namespace = &self.operator_namespace;
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
        let sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
        let (deployments, sets) = tokio::join!(deployments.list(&params), sets.list(&params));
        let of_deployments = deployments.into_iter().flatten().filter_map(|found| found.spec?.template.spec);
        let of_sets = sets.into_iter().flatten().filter_map(|found| found.spec?.template.spec);
        flags_of(of_deployments.chain(of_sets))
    }
}

fn flags_of(pods: impl Iterator<Item = PodSpec>) -> OperatorFlags {
    let args: Vec<String> = pods
        .flat_map(|pod| pod.containers)
        .flat_map(|container| container.command.into_iter().chain(container.args).flatten())
        .collect();
    let value = |flag: &str| {
        let prefix = format!("{flag}=");
        args.iter().find_map(|arg| arg.strip_prefix(&prefix)).map(ToOwned::to_owned)
    };
    let url = |flag: &str| value(flag).and_then(|text| parse_url(&text).ok());
    OperatorFlags {
        ingest_url: url("--ingest-url"),
        public_ingest_url: url("--public-ingest-url"),
        installation_id: value("--installation-id"),
    }
}

fn key_of(object: &Value) -> ObjectKey {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    ObjectKey::new(text("/metadata/namespace"), text("/metadata/name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_flags_of_the_operator() {
        let pod: PodSpec = serde_json::from_value(serde_json::json!({"containers": [
            {"name": "a", "args": ["controller", "--ingest-url=http://i.test:8080", "--installation-id=abc"]}]}))
        .unwrap();
        let flags = flags_of([pod].into_iter());
        assert_eq!(flags.ingest_url.unwrap().as_str(), "http://i.test:8080/");
        assert_eq!(flags.installation_id.as_deref(), Some("abc"));
        assert!(flags.public_ingest_url.is_none());
    }
}
