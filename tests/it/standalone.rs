//! `hookstream standalone` as a process: free ports, manifests and data in a folder of its own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{DEADLINE, Process, eventually, free_port, watchdog};

/// The parts of one installation: they outlive the process, so that it can be killed and started again on them.
pub struct Standalone {
    pub manifests: PathBuf,
    pub data: PathBuf,
    /// `host:port` of the ingest port.
    pub listen: String,
    pub ops: String,
    pub api: String,
    args: Vec<String>,
    /// A program that the process is started by, which gets the data folder and the process's command line.
    pub wrapper: Vec<String>,
    process: Option<Process>,
    pub client: reqwest::Client,
}

impl Standalone {
    /// Starts with these manifests and flags, and waits until it takes events.
    pub async fn start(manifests: &str, args: &[&str]) -> Standalone {
        let mut standalone = Standalone::prepare(manifests, args);
        standalone.restart().await;
        standalone
    }

    /// Makes the folders and chooses the ports; nothing runs yet.
    pub fn prepare(manifests: &str, args: &[&str]) -> Standalone {
        let dir = watchdog::unique_path("standalone");
        std::fs::create_dir_all(dir.join("manifests")).expect("a folder");
        let standalone = Standalone {
            manifests: dir.join("manifests"),
            data: dir.join("data"),
            listen: format!("127.0.0.1:{}", free_port()),
            ops: format!("127.0.0.1:{}", free_port()),
            api: format!("127.0.0.1:{}", free_port()),
            args: args.iter().map(ToString::to_string).collect(),
            wrapper: Vec::new(),
            process: None,
            client: client(),
        };
        standalone.write("all.yaml", manifests);
        standalone
    }

    /// Auth0 finds it by its own address, from the next start on.
    pub fn public_ingest(&mut self) {
        self.args.extend(["--public-ingest-url".to_owned(), format!("http://{}", self.listen)]);
    }

    /// Mounts a file system of this size as the data folder, from the next start on; `then` is done in it first (`$0`).
    /// The mount ends with the process. False where this machine gives no user namespace, which mounting needs.
    pub fn on_a_disk_of(&mut self, size: &str, then: &str) -> bool {
        let may = ["-Urm", "mount", "-t", "tmpfs", "none", "/mnt"];
        let may = std::process::Command::new("unshare").args(may).output();
        if !may.is_ok_and(|output| output.status.success()) {
            eprintln!("left out: this machine gives no user namespace to mount a small disk in");
            return false;
        }
        let mount =
            format!(r#"mkdir -p "$0" && mount -t tmpfs -o size={size} none "$0" && {then} && exec "$@""#);
        self.wrapper = ["unshare", "-Urm", "sh", "-c", &mount].map(String::from).into();
        true
    }

    /// Starts the process (again) on the same folders and ports.
    pub async fn restart(&mut self) {
        // The old one first: two on one data folder are refused.
        self.process = None;
        let process = self.spawn();
        process.wait_for_line(|line| line.contains("ingest listening"), DEADLINE).await;
        self.process = Some(process);
    }

    /// One more process on the same folders and ports, not waited for.
    pub fn spawn(&self) -> Process {
        let text = |path: &Path| path.display().to_string();
        let (manifests, data) = (text(&self.manifests), text(&self.data));
        let mut args = vec!["standalone", "--manifests", &manifests, "--data", &data];
        args.extend(["--listen", &self.listen, "--ops-listen", &self.ops]);
        args.extend(["--api-listen", &self.api]);
        args.extend(self.args.iter().map(String::as_str));
        let command = Process::command(args, &[]);
        let Some((program, rest)) = self.wrapper.split_first() else { return Process::start(command) };
        let mut wrapped = std::process::Command::new(program);
        wrapped.args(rest).arg(&self.data).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(name, value),
                None => wrapped.env_remove(name),
            };
        }
        Process::start(wrapped)
    }

    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("a process that was started")
    }

    /// Writes a manifest as careful tools do: a new file takes the old one's place.
    pub fn write(&self, file: &str, text: &str) {
        let path = self.manifests.join(file);
        let part = path.with_extension("part");
        std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, &path)).expect("a manifest");
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listen)
    }

    /// Publishes into the namespace `default`: the status and the answer's JSON.
    pub async fn publish(&self, event: &Value) -> (u16, Value) {
        answer(self.client.post(self.url(EVENTS)).json(event)).await
    }

    /// Publishes what must be accepted.
    pub async fn accepted(&self, event: &Value) {
        let (status, answer) = self.publish(event).await;
        assert_eq!(status, 202, "{event} was answered {answer}");
    }

    pub async fn metrics(&self) -> String {
        let url = format!("http://{}/metrics", self.ops);
        self.client.get(url).send().await.expect("metrics").text().await.expect("metrics")
    }

    /// The sum of a counter over the series whose labels hold all of these texts, such as `state="dead"`.
    pub async fn count(&self, name: &str, labels: &[&str]) -> u64 {
        count(&self.metrics().await, name, labels)
    }

    /// Waits until that sum is `n`.
    pub async fn wait_for_count(&self, name: &str, labels: &[&str], n: u64) {
        eventually(DEADLINE, &format!("{name} {labels:?} to be {n}"), async || {
            let found = self.count(name, labels).await;
            if found == n { Ok(()) } else { Err(found.to_string()) }
        })
        .await;
    }
}

/// Where events of the namespace `default` go.
pub const EVENTS: &str = "/v1/namespaces/default/events";
pub const FINISHED: &str = "hookstream_deliveries_finished";
pub const INGESTED: &str = "hookstream_ingest_requests";
pub const ATTEMPTS: &str = "hookstream_delivery_attempts";
pub const DEAD: &str = r#"state="dead""#;
pub const DELIVERED: &str = r#"state="delivered""#;

/// The sum of a counter in a text of metrics.
pub fn count(metrics: &str, name: &str, labels: &[&str]) -> u64 {
    metrics
        .lines()
        .filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| ["_total{", "_total "].iter().any(|end| rest.starts_with(end)))
        })
        .filter(|line| labels.iter().all(|label| line.contains(label)))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

/// Sends a request: the status and the answer's JSON, null where it is none.
pub async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.expect("an answer");
    let status = response.status().as_u16();
    (status, response.json().await.unwrap_or(Value::Null))
}

/// A client that reaches nothing but this machine.
pub fn client() -> reqwest::Client {
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder().no_proxy().timeout(DEADLINE).build().expect("a client")
}

/// A manifest; JSON is YAML.
pub fn manifest(api_version: &str, kind: &str, name: &str, content: Value) -> String {
    let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}});
    merge(&mut object, content);
    format!("---\n{object}\n")
}

/// An EventHook of the source `s` with a webhook at this URL; `more` is laid over its spec.
pub fn hook(name: &str, url: &str, more: Value) -> String {
    let mut spec = json!({"source": "s", "handler": {"webhook": {"url": url}}});
    merge(&mut spec, more);
    manifest("hookstream.dev/v1alpha1", "EventHook", name, json!({"spec": spec}))
}

pub fn secret(name: &str, data: Value) -> String {
    manifest("v1", "Secret", name, json!({"stringData": data}))
}

/// Members of `from` replace or join those of `into`; null removes.
pub fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                if value.is_null() {
                    into.remove(&key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (into, from) => *into = from,
    }
}

/// An event of the source `s`.
pub fn event(id: &str) -> Value {
    json!({"id": id, "source": "s", "event": "e", "data": {"id": id}})
}

/// Retries that a test can wait for.
pub fn quick() -> Value {
    json!({"delivery": {"timeout": "2s", "retry": {"initialBackoff": "100ms", "maxBackoff": "1s"}}})
}

/// Something stays as it is for long enough that a change would have shown.
pub async fn stays(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_millis(700) {
        assert!(holds().await, "{what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// Kong's admin API, emulated by the program itself, as a process.
pub struct Kong {
    pub url: String,
    client: reqwest::Client,
    #[allow(dead_code, reason = "dropped with it")]
    process: Process,
}

impl Kong {
    pub async fn start() -> Kong {
        let process = Process::spawn(["emulate", "kong", "--listen", "127.0.0.1:0"], &[]);
        let line = process.wait_for_line(|line| line.contains("listening on http"), DEADLINE).await;
        let url = line.rsplit(' ').next().expect("an address").to_owned();
        Kong { url, client: client(), process }
    }

    /// A Connection to it, of the name `kong`.
    pub fn connection(&self) -> String {
        let spec = json!({"spec": {"kong": {"adminUrl": self.url}}});
        manifest("hookstream.dev/v1alpha1", "Connection", "kong", spec)
    }

    pub async fn hooks(&self) -> Vec<Value> {
        let (_, answer) = answer(self.client.get(format!("{}/event-hooks", self.url))).await;
        answer["data"].as_array().cloned().unwrap_or_default()
    }

    /// The hooks, once there are so many.
    pub async fn wait_for_hooks(&self, n: usize) -> Vec<Value> {
        eventually(DEADLINE, &format!("{n} hooks at Kong"), async || {
            let hooks = self.hooks().await;
            if hooks.len() == n { Ok(hooks) } else { Err(format!("{hooks:?}")) }
        })
        .await
    }

    /// Emits an event as the gateway would; how many hooks it matched.
    pub async fn emit(&self, source: &str, event: &str, data: Value) -> u64 {
        let body = json!({"source": source, "event": event, "data": data});
        let request = self.client.post(format!("{}/__emulator/events", self.url)).json(&body);
        answer(request).await.1["matched"].as_u64().expect("how many matched")
    }

    /// The admin requests that came with this method.
    pub async fn requests(&self, method: &str) -> usize {
        let (_, log) = answer(self.client.get(format!("{}/__emulator/requests", self.url))).await;
        log.to_string().matches(&format!("\"method\":\"{method}\"")).count()
    }
}
