//! A controller on a control plane of its own, for tests that change or restart the control plane.

use serde_json::{Value, json};

use super::helm::token;
use super::objects::{condition, documents, free_lease, is_current, object};
use super::{ControlPlane, DEADLINE, Kong, Process, eventually};

const HOME: &str = "hookstream-system";
pub const SHOP: &str = "shop";

pub struct OwnCluster {
    pub control_plane: ControlPlane,
    pub kong: Kong,
}

impl OwnCluster {
    /// Starts a control plane with these definitions, the operator's accounts, and the Connection `kong`.
    pub async fn start(crds: Vec<Value>) -> OwnCluster {
        let control_plane = ControlPlane::bare().await.unwrap();
        control_plane.apply_crds(crds).await;
        let kong = Kong::start(&[]).await;
        let cluster = OwnCluster { control_plane, kong };
        for namespace in [HOME, SHOP] {
            cluster.control_plane.kubectl(["create", "namespace", namespace], "").await.unwrap();
        }
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/base/rbac.yaml");
        let rights = std::fs::read_to_string(file).unwrap();
        let lease = documents(&[free_lease()]);
        cluster.control_plane.kubectl(["apply", "-f", "-"], &rights).await.unwrap();
        cluster.control_plane.kubectl(["-n", HOME, "apply", "-f", "-"], &lease).await.unwrap();
        cluster.apply(&object("Connection", "kong", json!({"kong": {"adminUrl": cluster.kong.url}}))).await;
        cluster
    }

    /// Starts the controller.
    pub async fn controller(&self, flags: &[&str]) -> Process {
        let token = token(&self.control_plane, HOME, "hookstream-controller", None).await;
        let kubeconfig = self.control_plane.kubeconfig(&token, HOME);
        let common = [
            ["--ops-listen", "127.0.0.1:0"],
            ["--egress-allow", "127.0.0.0/8"],
            ["--ingest-url", "http://127.0.0.1:1"],
            ["--lease-duration", "5s"],
            ["--lease-renew-deadline", "4s"],
            ["--lease-retry-period", "500ms"],
        ];
        let args =
            ["controller"].into_iter().chain(common.into_iter().flatten()).chain(flags.iter().copied());
        Process::spawn(args, &[("KUBECONFIG", kubeconfig.to_str().unwrap())])
    }

    pub async fn apply(&self, object: &Value) {
        let args = ["-n", SHOP, "apply", "--server-side", "--validate=strict", "-f", "-"];
        self.control_plane.kubectl(args, &documents(std::slice::from_ref(object))).await.unwrap();
    }

    /// Returns an EventHook with the Connection `kong`.
    pub fn hook(&self, name: &str, event: &str) -> Value {
        object(
            "EventHook",
            name,
            json!({"source": "crud", "event": event, "connectionRef": {"name": "kong"}, "handler": {"log": {}}}),
        )
    }

    pub async fn get(&self, path: &str) -> Result<Value, String> {
        let text = self.control_plane.kubectl(["-n", SHOP, "get", path, "-o", "json"], "").await?;
        serde_json::from_str(&text).map_err(|e| e.to_string())
    }

    /// Waits until the object is ready with its current spec.
    pub async fn ready(&self, path: &str) -> Value {
        eventually(DEADLINE * 2, &format!("{path} to be ready"), async || {
            let object = self.get(path).await?;
            let is_ready = is_current(&object) && condition(&object, "Ready")["status"] == "True";
            if is_ready { Ok(object) } else { Err(format!("{object:#}")) }
        })
        .await
    }
}
