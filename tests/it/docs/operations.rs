//! Runs the commands of day two as written, in a cluster with a gateway: backup, keys, preview, upgrade, restore, release and
//! uninstall.

use serde_json::json;

use super::pages::{RunBy, commands};
use super::quickstart::{HOME, pods};
use super::shell::Shell;
use crate::harness::helm::{complete_uninstall_check, local_values, values_file};
use crate::harness::manifests::merged;
use crate::harness::objects::{documents, free_lease, object};
use crate::harness::{ControlPlane, DEADLINE, Kong, Process, eventually, free_port};

pub const DOCUMENTS: [&str; 3] = ["docs/operations.md", "docs/preview.md", "docs/restore.md"];

/// The namespace of the objects.
const SHOP: &str = "shop";

struct Installation {
    cluster: ControlPlane,
    shell: Shell,
    kong: Kong,
    ops: u16,
    process: Option<Process>,
}

impl Installation {
    /// Installs the charts, and starts the process of the pod.
    async fn new() -> Installation {
        let cluster = ControlPlane::bare().await.unwrap();
        // A lease that `release` takes is certainly free after this time.
        let shell = Shell::new("operations", cluster.admin_kubeconfig())
            .env("HOOKSTREAM_LEASE_DURATION", "5s")
            .env("HOOKSTREAM_LEASE_RENEW_DEADLINE", "4s")
            .env("HOOKSTREAM_LEASE_RETRY_PERIOD", "500ms");
        let ports @ [ingest, _, ops] = [free_port(), free_port(), free_port()];
        let values = local_values(ports, &format!("http://127.0.0.1:{ingest}"));
        let values = values_file(&merged(values, json!({"mode": "combined"})));
        let install = "helm install hookstream-crds charts/hookstream-crds -n hookstream-system --create-namespace; \
                       helm install hookstream charts/hookstream -n hookstream-system -f";
        shell.expect(&format!("{install} {values}; kubectl create namespace {SHOP}")).await;
        let kong = Kong::start(&[]).await;
        let mut installation = Installation { cluster, shell, kong, ops, process: None };
        installation.start().await;
        installation
    }

    /// Frees the lease that a killed process or `release` still holds, for which others would wait.
    async fn free_lease(&self) {
        let apply = ["-n", HOME, "apply", "--server-side", "--force-conflicts", "-f", "-"];
        self.cluster.kubectl(apply, &documents(&[free_lease()])).await.unwrap();
    }

    async fn start(&mut self) {
        self.free_lease().await;
        self.process = Some(pods(&self.cluster, self.ops).await);
    }

    async fn start_if_ended(&mut self) {
        if self.process.is_none() {
            self.start().await;
        }
    }

    /// Ends the process without a cleanup.
    fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill9();
        }
    }

    /// Writes the manifests of a Connection and two hooks into the folder, and applies them.
    async fn apply(&self) {
        let hook = |name: &str| {
            let spec = json!({"source": "crud", "connectionRef": {"name": "kong"}, "handler": {"log": {}}});
            object("EventHook", name, spec)
        };
        let connection = object("Connection", "kong", json!({"kong": {"adminUrl": self.kong.url}}));
        let kustomization = json!({"namespace": SHOP, "resources": ["objects.yaml"]});
        let all = documents(&[connection, hook("kept"), hook("lost")]);
        std::fs::write(self.shell.folder.join("objects.yaml"), all).unwrap();
        std::fs::write(self.shell.folder.join("kustomization.yaml"), kustomization.to_string()).unwrap();
        self.shell
            .expect("kubectl apply -k . && kubectl -n shop wait --for=condition=Ready conn,evh --all --timeout=60s")
            .await;
    }

    /// Returns the secret of the relay of the hook `kept`; it derives from the newest key.
    async fn relay_secret(&self) -> String {
        let hooks = self.kong.hooks().await;
        let is_kept = |url: &str| url.contains("/relays/kept?");
        let kept = hooks.iter().find(|hook| hook["config"]["url"].as_str().is_some_and(is_kept));
        kept.unwrap_or_else(|| panic!("{hooks:?}"))["config"]["secret"].to_string()
    }

    async fn wait_for_another_secret(&self, former: &str) {
        eventually(DEADLINE, "a secret of the new key", async || match self.relay_secret().await {
            secret if secret == former => Err(secret),
            _ => Ok(()),
        })
        .await;
    }

    /// Loses the object `lost` without a cleanup, as by a restore of etcd.
    async fn lose_an_object(&mut self) {
        self.kill();
        let patch = r#"kubectl -n shop patch evh/lost --type=merge -p '{"metadata":{"finalizers":null}}'"#;
        self.shell.expect(&format!("{patch}; kubectl -n shop delete evh/lost")).await;
    }
}

/// Returns a script that runs a command on a terminal and answers its question.
fn on_terminal(command: &str) -> String {
    // `script` ends with the command's exit code, which is 0 when no orphan is left.
    format!("echo yes | script -qec {command:?} /dev/null")
}

/// Returns the commands of this test in the order in which they can run: the last ones remove what the others need.
fn ordered() -> Vec<String> {
    let rank = |command: &String| match command.as_str() {
        c if c.contains("kustomize") => 0,
        c if c.contains("get secret") || c.contains("patch secret") || c.contains("sleep") => 1,
        c if c.contains("$(date +%s)") => 1,
        c if c.contains("helm upgrade") => 2,
        c if c.contains("hookstream orphans") => 3,
        c if c.contains("create secret") || c.contains("annotate") => 4,
        c if c.contains("hookstream release") => 5,
        c if c.contains("delete eventhooks") || c.contains("helm uninstall") => 6,
        _ => 7,
    };
    let mut all: Vec<String> =
        DOCUMENTS.iter().flat_map(|document| commands(document, RunBy::Operations)).collect();
    all.sort_by_key(rank);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn day_two_commands_work_as_written() {
    for document in DOCUMENTS {
        let commands = commands(document, RunBy::Operations);
        assert!(!commands.is_empty(), "{document} has no such command: remove it from the list");
    }
    let mut it = Installation::new().await;
    it.apply().await;
    let mut secret = it.relay_secret().await;
    let (mut lists, mut releases) = (0, 0);
    for command in ordered() {
        match command.as_str() {
            // Each list has an orphan to show; those with `--delete` delete it.
            c if c.contains("hookstream orphans") => {
                it.start_if_ended().await;
                it.apply().await;
                it.lose_an_object().await;
                assert_eq!(it.kong.hooks().await.len(), 2);
                lists += 1;
                if c.contains("--delete") {
                    let output = it.shell.expect(&on_terminal(c)).await;
                    assert!(output.contains("deleted"), "{c}: {output}");
                    assert_eq!(it.kong.hooks().await.len(), 1, "{output}");
                } else {
                    // 1: an orphan is left.
                    let output = it.shell.expect(&format!("{c} || [ $? = 1 ]")).await;
                    assert!(output.contains("orphan"), "{c}: {output}");
                }
            }
            c if c.contains("create secret generic hookstream-keys") => {
                it.kill();
                it.shell.expect("kubectl -n hookstream-system delete secret hookstream-keys").await;
                secret = it.relay_secret().await;
                it.shell.expect(c).await;
                it.start().await;
            }
            c if c.contains("annotate") => {
                it.shell.expect(c).await;
                it.wait_for_another_secret(&secret).await;
                secret = it.relay_secret().await;
            }
            // Alternatives, so the lease of the one before is freed.
            c if c.contains("hookstream release") => {
                if releases > 0 {
                    it.free_lease().await;
                }
                let output = it.shell.expect(c).await;
                assert!(output.contains("released"), "{c}: {output}");
                releases += 1;
                if releases == 1 {
                    assert!(!it.kong.hooks().await.is_empty(), "the vendors' objects stay");
                }
            }
            c if c.contains("helm uninstall") => {
                tokio::join!(it.shell.expect(c), complete_uninstall_check(&it.cluster, HOME));
            }
            c => {
                let output = it.shell.expect(c).await;
                let expected = match c {
                    c if c.contains("kustomize") => {
                        "Plan: 0 to create, 0 to change, 0 to delete, 2 unchanged"
                    }
                    c if c.contains("helm upgrade") => "STATUS: deployed",
                    c if c.contains("patch secret") => "patched",
                    c if c.contains("delete crd") => "eventhooks.hookstream.dev",
                    _ => "",
                };
                assert!(output.contains(expected), "{c}: {output}");
            }
        }
        if command.contains("get secret") {
            let backup = std::fs::read_to_string(it.shell.folder.join("hookstream-keys.yaml")).unwrap();
            assert!(backup.contains("kind: Secret"), "the key ring");
        }
    }
    assert_eq!((lists, releases), (3, 3));
}
