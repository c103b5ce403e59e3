//! An operator under its own limited account, with a Kong and a receiver.
//!
//! Invariants: the operator has the rights of `deploy/base/rbac.yaml` and no others; every world has its own namespaces,
//! ports and folders.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use kube::Client;
use serde_json::{Value, json};

use super::http::http;
use super::manifests::merged;
use super::objects::{condition, documents, is_current, message, object};
use super::{
    Accounts, DEADLINE, Kong, Namespace, Process, Receiver, Reply, control_plane, eventually, free_port,
    watchdog,
};

pub struct World {
    /// The namespace of the user's objects.
    pub namespace: Namespace,
    /// The operator's own namespace.
    pub home: Namespace,
    pub kong: Kong,
    pub receiver: Receiver,
    /// The base URL of relays.
    pub ingest: String,
    pub client: Client,
    operator: Option<Process>,
    /// The logs of stopped operators.
    logs: String,
    pub accounts: Accounts,
    args: Vec<String>,
    env: Vec<(String, String)>,
    /// The addresses of other processes' ops ports, by process number.
    ops: Mutex<HashMap<u32, String>>,
}

/// Differences from the default world.
#[derive(Default)]
pub struct Setup<'a> {
    pub resync: Option<&'a str>,
    pub kong: &'a [&'a str],
    pub no_ingest_url: bool,
    /// More flags for the operator.
    pub flags: &'a [&'a str],
    /// Environment variables for the operator.
    pub env: &'a [(&'a str, &'a str)],
}

impl World {
    pub async fn start(hint: &str) -> World {
        World::with(hint, Setup::default()).await
    }

    pub async fn with(hint: &str, setup: Setup<'_>) -> World {
        let namespace = control_plane().namespace(hint).await;
        let home = control_plane().namespace(&format!("{hint}-operator")).await;
        let accounts = Accounts::create(&home).await;
        let listen = format!("127.0.0.1:{}", free_port());
        let data = watchdog::unique_path("data");
        std::fs::create_dir(&data).unwrap();
        let mut args: Vec<String> = [
            ("--namespace", namespace.name.as_str()),
            ("--operator-namespace", &home.name),
            ("--ops-listen", &format!("127.0.0.1:{}", free_port())),
            ("--listen", &listen),
            ("--api-listen", "127.0.0.1:0"),
            ("--egress-allow", "127.0.0.0/8"),
            ("--data", data.to_str().unwrap()),
            ("--resync-interval", setup.resync.unwrap_or("10m")),
            // Short, because the next operator waits for the lease of a killed one.
            ("--lease-duration", "5s"),
            ("--lease-renew-deadline", "4s"),
            ("--lease-retry-period", "500ms"),
            // High enough not to slow other tests; tests of rates set it themselves.
            ("--admin-rate-ceiling", "1000/s"),
            ("--log-level", "info,hookstream=debug"),
        ]
        .iter()
        .flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()])
        .collect();
        let ingest = format!("http://{listen}");
        if !setup.no_ingest_url {
            args.extend(["--ingest-url".to_owned(), ingest.clone()]);
            args.extend(["--public-ingest-url".to_owned(), ingest.clone()]);
        }
        args.extend(setup.flags.iter().map(ToString::to_string));
        let env = setup.env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let kong = Kong::start(setup.kong).await;
        let receiver = Receiver::start(|_, _| Reply::status(200));
        let client = namespace.client().await;
        let (operator, logs) = (None, String::new());
        let mut world = World {
            namespace,
            home,
            kong,
            receiver,
            ingest,
            client,
            operator,
            logs,
            accounts,
            args,
            env,
            ops: Mutex::default(),
        };
        world.start_operator();
        world
    }

    /// Starts the operator, or restarts it with the same flags, folder and account.
    pub fn start_operator(&mut self) {
        let mut env: Vec<(&str, &str)> = self.env.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        env.push(("KUBECONFIG", self.accounts.both.to_str().unwrap()));
        let args = std::iter::once("run").chain(self.args.iter().map(String::as_str));
        self.operator = Some(Process::spawn(args, &env));
    }

    /// Starts another process of the operator with the same flags, its role's account and ports of its own. `flags` replace
    /// flags of the same name.
    pub fn another(&self, role: &str, flags: &[&str]) -> Process {
        let worker_flags = ["--listen", "--api-listen", "--data"];
        let ops = format!("127.0.0.1:{}", free_port());
        let mut args = vec![role.to_owned()];
        for pair in self.args.chunks(2) {
            let is_replaced = pair[0] == "--ops-listen" || flags.contains(&pair[0].as_str());
            if !is_replaced && (role != "controller" || !worker_flags.contains(&pair[0].as_str())) {
                args.extend_from_slice(pair);
            }
        }
        args.extend(["--ops-listen".to_owned(), ops.clone()]);
        args.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let process = Process::spawn(&args, &[("KUBECONFIG", self.accounts.role(role).to_str().unwrap())]);
        self.ops.lock().unwrap().insert(process.pid(), ops);
        process
    }

    /// Returns the operator's metrics as text.
    pub async fn metrics(&self) -> Result<String, String> {
        let flag = self.args.iter().position(|arg| arg == "--ops-listen").unwrap();
        let answer = http().get(format!("http://{}/metrics", self.args[flag + 1])).send().await;
        answer.map_err(|e| e.to_string())?.text().await.map_err(|e| e.to_string())
    }

    /// Returns the status and the text of an answer of another process's ops port.
    pub async fn ops(&self, process: &Process, path: &str) -> (u16, String) {
        let address = self.ops.lock().unwrap()[&process.pid()].clone();
        eventually(DEADLINE, "the ops port", async || {
            let answer =
                http().get(format!("http://{address}{path}")).send().await.map_err(|e| e.to_string())?;
            let status = answer.status().as_u16();
            Ok((status, answer.text().await.map_err(|e| e.to_string())?))
        })
        .await
    }

    /// Returns the sum of a metric over its labels.
    pub async fn metric(&self, process: &Process, name: &str) -> f64 {
        let (_, text) = self.ops(process, "/metrics").await;
        let is_sample =
            |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        text.lines()
            .filter(is_sample)
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }

    pub async fn stop_operator(&mut self) {
        if let Some(operator) = self.operator.take() {
            operator.terminate().await;
            self.logs.push_str(&operator.log());
        }
    }

    /// Kills the operator with SIGKILL.
    pub fn operator_pid(&self) -> u32 {
        self.operator.as_ref().expect("a running operator").pid()
    }

    pub fn kill_operator(&mut self) {
        if let Some(operator) = self.operator.take() {
            operator.kill9();
            self.logs.push_str(&operator.log());
        }
    }

    /// Returns everything that the operator has logged, earlier processes included.
    pub fn log(&self) -> String {
        format!("{}{}", self.logs, self.operator.as_ref().map(Process::log).unwrap_or_default())
    }

    /// Applies objects together.
    pub async fn apply(&self, objects: &[Value]) {
        self.namespace.apply(&documents(objects)).await.expect("the objects");
    }

    /// Returns the Connection `kong` to this world's Kong.
    pub fn connection(&self) -> Value {
        self.connection_with(json!({}))
    }

    pub fn connection_with(&self, extra: Value) -> Value {
        object("Connection", "kong", merged(json!({"kong": {"adminUrl": self.kong.url}}), extra))
    }

    /// Returns an EventHook with the Connection `kong` and a webhook to the receiver.
    pub fn hook(&self, name: &str) -> Value {
        self.hook_with(name, json!({}))
    }

    pub fn hook_with(&self, name: &str, extra: Value) -> Value {
        let spec = json!({"source": "crud", "event": "consumers", "connectionRef": {"name": "kong"},
            "handler": {"webhook": {"url": self.receiver.url()}}});
        object("EventHook", name, merged(spec, extra))
    }

    /// Reads a path of the API server.
    pub async fn read(&self, path: &str) -> Result<Value, String> {
        let request = http::Request::get(path).body(Vec::new()).unwrap();
        self.client.request(request).await.map_err(|e| e.to_string())
    }

    /// Reads an object; `path` is `eventhooks/name` or `connections/name`.
    pub async fn get(&self, path: &str) -> Result<Value, String> {
        self.read(&format!("/apis/hookstream.dev/v1alpha1/namespaces/{}/{path}", self.namespace.name)).await
    }

    /// Waits until the object fits. Fails when the operator ends.
    pub async fn until(&self, path: &str, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.until_within(path, what, DEADLINE, fits).await
    }

    async fn until_within(
        &self,
        path: &str,
        what: &str,
        deadline: Duration,
        fits: impl Fn(&Value) -> bool,
    ) -> Value {
        eventually(deadline, &format!("{path}: {what}"), async || {
            let ended = self.operator.as_ref().and_then(Process::ended);
            assert!(ended.is_none(), "the operator ended ({ended:?}):\n{}", self.log());
            let object = self.get(path).await?;
            if fits(&object) { Ok(object) } else { Err(format!("{object:#}")) }
        })
        .await
    }

    /// Waits until the object is ready with its current spec.
    pub async fn ready(&self, path: &str) -> Value {
        self.until(path, "ready", |o| is_current(o) && condition(o, "Ready")["status"] == "True").await
    }

    /// Waits until the object is not ready with this reason.
    pub async fn not_ready(&self, path: &str, reason: &str) -> Value {
        self.not_ready_within(path, reason, DEADLINE).await
    }

    /// The same with another deadline.
    pub async fn not_ready_within(&self, path: &str, reason: &str, deadline: Duration) -> Value {
        let fits = |o: &Value| {
            let ready = condition(o, "Ready");
            is_current(o) && ready["status"] == "False" && ready["reason"] == reason
        };
        self.until_within(path, &format!("not ready: {reason}"), deadline, fits).await
    }

    /// Waits until the object is stalled with this reason. Returns its message.
    pub async fn stalled(&self, path: &str, reason: &str) -> String {
        let object = self.not_ready(path, reason).await;
        assert_eq!(condition(&object, "Stalled")["status"], "True", "{object:#}");
        assert_eq!(condition(&object, "Reconciling")["status"], "False", "{object:#}");
        message(&object)
    }

    pub async fn wait_until_deleted(&self, path: &str) {
        eventually(DEADLINE, &format!("{path} to be deleted"), async || match self.get(path).await {
            Err(error) if error.contains("not found") => Ok(()),
            other => Err(format!("{other:#?}")),
        })
        .await;
    }

    /// Returns the Kubernetes Events about an object.
    pub async fn events(&self, name: &str) -> Vec<Value> {
        let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", self.namespace.name);
        let mut events = self.read(&path).await.unwrap()["items"].as_array().unwrap().clone();
        events.retain(|e| e["regarding"]["name"] == name);
        events
    }

    /// Waits for an Event with this reason about an object.
    pub async fn event(&self, name: &str, reason: &str) -> Value {
        eventually(DEADLINE, &format!("an Event {reason} about {name}"), async || {
            let events = self.events(name).await;
            events.iter().find(|e| e["reason"] == reason).cloned().ok_or_else(|| format!("{events:#?}"))
        })
        .await
    }

    pub async fn kubectl(&self, args: &[&str]) -> String {
        self.namespace.kubectl(args).await.unwrap_or_else(|error| panic!("kubectl {args:?}: {error}"))
    }

    /// Applies a merge patch to an object's spec.
    pub async fn edit(&self, path: &str, spec: Value) {
        let patch = json!({ "spec": spec }).to_string();
        self.kubectl(&["patch", path, "--type=merge", "-p", &patch]).await;
    }

    /// Requests a reconcile by annotation.
    pub async fn request(&self, path: &str, token: &str) {
        let annotation = format!("hookstream.dev/reconcileRequestedAt={token}");
        self.kubectl(&["annotate", "--overwrite", path, &annotation]).await;
    }

    /// Asserts that no secret is visible in objects, in Events or in the operator's log.
    pub async fn assert_hides(&self, secrets: &[&str]) {
        let base = format!("/apis/hookstream.dev/v1alpha1/namespaces/{}", self.namespace.name);
        let events = format!("/apis/events.k8s.io/v1/namespaces/{}/events", self.namespace.name);
        let mut texts = vec![("the operator's log".to_owned(), self.log())];
        for path in [format!("{base}/eventhooks"), format!("{base}/connections"), events] {
            let text = self.read(&path).await.unwrap().to_string();
            texts.push((path, text));
        }
        for (name, text) in &texts {
            for secret in secrets {
                assert!(!text.contains(secret), "{name} shows {secret}");
            }
        }
    }
}
