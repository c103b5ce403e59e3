//! The operator's service accounts. They have the rights of `deploy/base/rbac.yaml` (the chart renders the same file) and
//! no others.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Namespace;
use super::objects::{documents, free_lease};

/// Kubeconfig files with tokens of the three accounts, one for each way to run the program.
#[derive(Clone)]
pub struct Accounts {
    /// `hookstream run`: both roles in one process.
    pub both: PathBuf,
    pub controller: PathBuf,
    pub worker: PathBuf,
}

impl Accounts {
    /// Creates the accounts, roles, bindings and the Lease of one operator in the namespace `home`. Cluster-scoped objects get the
    /// namespace's name as a suffix, because many operators share a control plane in the tests.
    pub async fn create(home: &Namespace) -> Accounts {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/base/rbac.yaml");
        let text = std::fs::read_to_string(file).unwrap().replace("hookstream-system", &home.name);
        let mut objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        for object in &mut objects {
            let unique = |name: &Value| Value::String(format!("{}-{}", name.as_str().unwrap(), home.name));
            if object["kind"].as_str().unwrap().starts_with("ClusterRole") {
                object["metadata"]["name"] = unique(&object["metadata"]["name"]);
            }
            if object["roleRef"]["kind"] == "ClusterRole" {
                object["roleRef"]["name"] = unique(&object["roleRef"]["name"]);
            }
        }
        objects.push(free_lease());
        home.apply(&documents(&objects)).await.expect("the operator's accounts");
        Accounts {
            both: home.kubeconfig_of("hookstream").await,
            controller: home.kubeconfig_of("hookstream-controller").await,
            worker: home.kubeconfig_of("hookstream-worker").await,
        }
    }

    /// Returns the kubeconfig of a role of the program: `run`, `worker` or `controller`.
    pub fn role(&self, role: &str) -> &Path {
        match role {
            "run" => &self.both,
            "worker" => &self.worker,
            _ => &self.controller,
        }
    }
}
