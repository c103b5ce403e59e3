//! etcd, kube-apiserver and (on demand) kube-controller-manager: one of each for a test binary, with their files in a
//! folder that is removed with it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{LazyLock, Mutex, OnceLock};
use std::time::{Duration, Instant};

use base64::prelude::*;
use k8s_openapi::api::core::v1::Namespace as K8sNamespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::json;

use super::{DEADLINE, Namespace, eventually, free_port, run, tool, watchdog};

/// How long a loaded machine with cold disks may take to start an API server.
const START: Duration = Duration::from_secs(90);

/// The name of the kubeconfig file with all rights. Tests may use it; a process of the operator must not.
pub const ADMIN_KUBECONFIG: &str = "admin.kubeconfig";

pub struct ControlPlane {
    /// The folder of certificates, data and logs.
    pub dir: PathBuf,
    pub url: String,
    /// The certificate to trust for `url`.
    pub ca_file: PathBuf,
    admin_kubeconfig: PathBuf,
    /// The commands of etcd and kube-apiserver, as tool, arguments and log.
    commands: Vec<(&'static str, Vec<String>, PathBuf)>,
    /// etcd and kube-apiserver.
    servers: Mutex<Vec<Child>>,
    /// kube-controller-manager.
    controllers: Mutex<Vec<Child>>,
}

/// Returns the control plane of this test binary. The first caller starts it.
pub fn control_plane() -> &'static ControlPlane {
    // Holds a Result, because a panic in here would show its reason to the first test and "poisoned" to all others.
    static CONTROL_PLANE: LazyLock<Result<ControlPlane, String>> = LazyLock::new(|| {
        // In a thread, because a test's runtime cannot run another runtime inside itself.
        std::thread::spawn(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                // Another program may take a free port before etcd or the API server binds it.
                let mut last_error = String::new();
                for _ in 0..3 {
                    match ControlPlane::bare().await {
                        Ok(control_plane) => {
                            control_plane.apply_crds(hookstream::api::crds()).await;
                            return Ok(control_plane);
                        }
                        Err(error) => last_error = error,
                    }
                }
                Err(last_error)
            })
        })
        .join()
        .unwrap_or_else(|_| Err("panicked while starting".into()))
    });
    CONTROL_PLANE.as_ref().unwrap_or_else(|error| panic!("the control plane did not start: {error}"))
}

impl ControlPlane {
    /// Starts a control plane without Hookstream's CRDs, for tests that install them.
    pub async fn bare() -> Result<ControlPlane, String> {
        let dir = watchdog::unique_path("controlplane");
        std::fs::create_dir_all(dir.join("certs")).map_err(|e| e.to_string())?;
        let (etcd, peer, port) = (free_port(), free_port(), free_port());
        let mut etcd_args = vec!["--unsafe-no-fsync".to_owned()];
        etcd_args.push(format!("--data-dir={}", dir.join("etcd").display()));
        for (flag, port) in [
            ("--listen-client-urls", etcd),
            ("--advertise-client-urls", etcd),
            ("--listen-peer-urls", peer),
            ("--initial-advertise-peer-urls", peer),
        ] {
            etcd_args.push(format!("{flag}=http://127.0.0.1:{port}"));
        }
        etcd_args.push(format!("--initial-cluster=default=http://127.0.0.1:{peer}"));

        let token = uuid::Uuid::now_v7().to_string();
        write(&dir.join("tokens"), &format!("{token},admin,admin,system:masters\n"));
        service_account_keys(&dir);
        let mut server_args = Vec::new();
        let file = |name: &str| dir.join(name).display().to_string();
        for (flag, value) in [
            ("--etcd-servers", format!("http://127.0.0.1:{etcd}")),
            ("--secure-port", port.to_string()),
            ("--bind-address", "127.0.0.1".into()),
            ("--cert-dir", file("certs")),
            ("--token-auth-file", file("tokens")),
            ("--authorization-mode", "RBAC".into()),
            ("--service-account-key-file", file("sa.pub")),
            ("--service-account-signing-key-file", file("sa.key")),
            ("--service-account-issuer", "https://kubernetes.default.svc".into()),
            ("--api-audiences", "https://kubernetes.default.svc,hookstream".into()),
            ("--service-cluster-ip-range", "10.96.0.0/16".into()),
            // Without the service account controller no namespace has the account that this plugin requires of every Pod.
            ("--disable-admission-plugins", "ServiceAccount".into()),
        ] {
            server_args.push(format!("{flag}={value}"));
        }
        let control_plane = ControlPlane {
            url: format!("https://127.0.0.1:{port}"),
            ca_file: dir.join("certs/apiserver.crt"),
            admin_kubeconfig: dir.join(ADMIN_KUBECONFIG),
            commands: vec![
                ("etcd", etcd_args, dir.join("etcd.log")),
                ("kube-apiserver", server_args, dir.join("kube-apiserver.log")),
            ],
            servers: Mutex::default(),
            controllers: Mutex::default(),
            dir,
        };
        write(&control_plane.admin_kubeconfig, &control_plane.kubeconfig_text(&token, "default"));
        control_plane.start_servers().await?;
        Ok(control_plane)
    }

    /// Starts etcd and kube-apiserver, and waits until they are ready.
    pub async fn start_servers(&self) -> Result<(), String> {
        for (name, args, log) in &self.commands {
            let mut command = Command::new(tool(name));
            command.args(args);
            self.servers.lock().unwrap().push(watchdog::spawn(command, log).map_err(|e| e.to_string())?);
        }
        self.wait_until_ready(&self.dir.join("kube-apiserver.log")).await
    }

    /// Kills kube-apiserver and etcd. The folder of etcd's data is complete afterwards, because etcd writes a log ahead.
    pub fn stop_servers(&self) {
        for mut child in self.servers.lock().unwrap().drain(..).rev() {
            child.kill().expect("SIGKILL");
            child.wait().expect("its end");
            watchdog::forget(child.id());
        }
    }

    /// Returns the folder of etcd's data.
    pub fn etcd_data(&self) -> PathBuf {
        self.dir.join("etcd")
    }

    async fn wait_until_ready(&self, log: &Path) -> Result<(), String> {
        let start = Instant::now();
        loop {
            for child in self.servers.lock().unwrap().iter_mut() {
                if let Ok(Some(status)) = child.try_wait() {
                    watchdog::forget(child.id());
                    return Err(format!("{status}, see {}\n{}", self.dir.display(), last_lines(log)));
                }
            }
            // The server creates its certificate itself; before that there is nothing to trust.
            if self.ca_file.exists()
                && let Ok(client) = self.try_client().await
                && let Ok(request) = http::Request::get("/readyz").body(Vec::new())
                && client.request_text(request).await.is_ok_and(|answer| answer == "ok")
            {
                return Ok(());
            }
            if start.elapsed() > START {
                return Err(format!("not ready within {START:?}\n{}", last_lines(log)));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn apply_crds(&self, crds: Vec<serde_json::Value>) {
        let client = self.client().await;
        let api: Api<CustomResourceDefinition> = Api::all(client.clone());
        for crd in crds {
            let name = crd["metadata"]["name"].as_str().expect("a name").to_owned();
            let crd: CustomResourceDefinition = serde_json::from_value(crd).expect("a CRD");
            let params = PatchParams::apply("tests").force();
            api.patch(&name, &params, &Patch::Apply(&crd))
                .await
                .unwrap_or_else(|e| panic!("the API server rejects {name}: {e}"));
        }
        eventually(DEADLINE, "the CRDs to be served", async || {
            for crd in api.list(&ListParams::default()).await.map_err(|e| e.to_string())? {
                let conditions = crd.status.and_then(|s| s.conditions).unwrap_or_default();
                if !conditions.iter().any(|c| c.type_ == "Established" && c.status == "True") {
                    return Err(format!("{conditions:?}"));
                }
            }
            // The condition Established is set a moment before the API server serves the resource.
            let hooks: Api<hookstream::api::EventHook> = Api::all(client.clone());
            let connections: Api<hookstream::api::Connection> = Api::all(client.clone());
            hooks.list(&ListParams::default()).await.map_err(|e| e.to_string())?;
            connections.list(&ListParams::default()).await.map(drop).map_err(|e| e.to_string())
        })
        .await;
    }

    /// Starts kube-controller-manager once. Only it deletes the contents of namespaces and collects orphans.
    pub fn start_controller_manager(&self) {
        static STARTED: OnceLock<()> = OnceLock::new();
        STARTED.get_or_init(|| {
            let mut command = Command::new(tool("kube-controller-manager"));
            command.arg("--kubeconfig").arg(&self.admin_kubeconfig).args([
                "--controllers=namespace-controller,garbage-collector-controller",
                "--leader-elect=false",
                "--secure-port=0",
                // Deletions queue here; with one worker each, a busy test run would be slow.
                "--concurrent-namespace-syncs=10",
                "--concurrent-gc-syncs=10",
            ]);
            let child = watchdog::spawn(command, &self.dir.join("kube-controller-manager.log"));
            self.controllers.lock().unwrap().push(child.expect("kube-controller-manager"));
        });
    }

    /// Returns the kubeconfig file with all rights.
    pub fn admin_kubeconfig(&self) -> &Path {
        &self.admin_kubeconfig
    }

    /// Writes a kubeconfig file with this token.
    pub fn kubeconfig(&self, token: &str, namespace: &str) -> PathBuf {
        let path = watchdog::unique_path("kubeconfig");
        write(&path, &self.kubeconfig_text(token, namespace));
        path
    }

    fn kubeconfig_text(&self, token: &str, namespace: &str) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": self.url, "certificate-authority": self.ca_file}}],
            "users": [{"name": "it", "user": {"token": token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it", "namespace": namespace}}],
        })
        .to_string()
    }

    /// Returns a client with all rights that lives in the caller's runtime. A shared client would end with the test that
    /// made it.
    pub async fn client(&self) -> Client {
        self.try_client().await.expect("a client")
    }

    async fn try_client(&self) -> Result<Client, String> {
        client_of(&self.admin_kubeconfig).await
    }

    /// Creates a namespace. It ends with the control plane.
    pub async fn namespace(&self, hint: &str) -> Namespace {
        static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("{hint}-{number}");
        let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
        let api: Api<K8sNamespace> = Api::all(self.client().await);
        let namespace = K8sNamespace { metadata, ..K8sNamespace::default() };
        api.create(&PostParams::default(), &namespace).await.expect("a namespace");
        Namespace { name }
    }

    /// Runs kubectl with all rights. Returns its output, or its standard error if it fails.
    pub async fn kubectl<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
        input: &str,
    ) -> Result<String, String> {
        let mut command = self.tool_command("kubectl");
        // A cache of its own: the default one may describe a server that used this port before.
        command.arg("--cache-dir").arg(self.dir.join("kubectl-cache")).args(args);
        run(command, input).await
    }

    /// Runs helm with all rights.
    pub async fn helm<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<String, String> {
        let mut command = self.tool_command("helm");
        command.args(args);
        run(command, "").await
    }

    fn tool_command(&self, name: &str) -> Command {
        let mut command = Command::new(tool(name));
        command.env("KUBECONFIG", &self.admin_kubeconfig).env("HOME", &self.dir);
        command
    }
}

/// Returns a client for a kubeconfig file.
pub async fn client_of(kubeconfig: &Path) -> Result<Client, String> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).map_err(|e| e.to_string())?;
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|e| e.to_string())?;
    Client::try_from(config).map_err(|e| e.to_string())
}

/// Writes an EC key pair in the format that kube-apiserver reads.
fn service_account_keys(dir: &Path) {
    // The prefix of the DER encoding of every P-256 public key.
    const SPKI: &str = "3059301306072a8648ce3d020106082a8648ce3d030107034200";
    let random = ring::rand::SystemRandom::new();
    let private = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
    let pair =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, private.as_ref(), &random).expect("a key");
    let mut public = hex::decode(SPKI).expect("hex");
    public.extend_from_slice(pair.public_key().as_ref());
    for (file, label, der) in [("sa.key", "PRIVATE", private.as_ref()), ("sa.pub", "PUBLIC", &public)] {
        let text = BASE64_STANDARD.encode(der);
        write(&dir.join(file), &format!("-----BEGIN {label} KEY-----\n{text}\n-----END {label} KEY-----\n"));
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
