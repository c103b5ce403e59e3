//! `hookstream standalone` as a process, with free ports and with manifests and data in a folder of its own.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::http::{answer, client};
use super::manifests::{manifest, merge, quick};
use super::metrics::{DELIVERED, FINISHED, count};
use super::{DEADLINE, Process, Receiver, Reply, eventually, free_port, watchdog};

/// One installation. It outlives the process, so that a test can kill the process and start it again on the same data.
pub struct Standalone {
    pub manifests: PathBuf,
    pub data: PathBuf,
    /// False: it has no data folder, and keeps its state in a database that an argument names.
    pub has_data: bool,
    /// `host:port` of the ingest port.
    pub listen: String,
    pub ops: String,
    pub api: String,
    args: Vec<String>,
    /// A program that starts the process. It gets the data folder and the process's command line as arguments.
    pub wrapper: Vec<String>,
    process: Option<Process>,
    pub client: reqwest::Client,
    markers: Markers,
}

/// Marker events: later work whose end proves that earlier work was handled. See [`Standalone::assert_stays`].
#[derive(Default)]
struct Markers {
    receiver: OnceCell<Receiver>,
    /// The revision of the marker's manifest, 0 before the first.
    revision: AtomicU64,
    /// The number of the next marker event.
    next: AtomicU64,
    /// Markers that were delivered since the process started; its counters include them.
    delivered: AtomicU64,
}

/// How many markers [`Standalone::assert_stays`] sends.
const MARKERS: usize = 3;
/// How often a marker's receiver fails each of them before it accepts.
const MARKER_FAILURES: usize = 2;

impl Standalone {
    /// Starts with these manifests and flags, and waits until the ingest port listens.
    pub async fn start(manifests: &str, args: &[&str]) -> Standalone {
        let mut standalone = Standalone::prepare(manifests, args);
        standalone.restart().await;
        standalone
    }

    /// Creates the folders and chooses the ports. Starts nothing.
    pub fn prepare(manifests: &str, args: &[&str]) -> Standalone {
        let dir = watchdog::unique_path("standalone");
        std::fs::create_dir_all(dir.join("manifests")).expect("a folder");
        let standalone = Standalone {
            manifests: dir.join("manifests"),
            data: dir.join("data"),
            has_data: true,
            listen: format!("127.0.0.1:{}", free_port()),
            ops: format!("127.0.0.1:{}", free_port()),
            api: format!("127.0.0.1:{}", free_port()),
            args: args.iter().map(ToString::to_string).collect(),
            wrapper: Vec::new(),
            process: None,
            client: client(),
            markers: Markers::default(),
        };
        standalone.write("all.yaml", manifests);
        standalone
    }

    /// Starts without a data folder: a database has the state, and others may share it.
    pub async fn start_without_data(manifests: &str, args: &[&str]) -> Standalone {
        let mut standalone = Standalone { has_data: false, ..Standalone::prepare(manifests, args) };
        standalone.restart().await;
        standalone
    }

    /// Sets the flag `--public-ingest-url` to the process's own address, from the next start on.
    pub fn public_ingest(&mut self) {
        self.args.extend(["--public-ingest-url".to_owned(), format!("http://{}", self.listen)]);
    }

    /// Adds flags, from the next start on.
    pub fn add_args(&mut self, args: &[&str]) {
        self.args.extend(args.iter().map(ToString::to_string));
    }

    /// Mounts a file system of this size as the data folder (`$0`), from the next start on, and runs the command `prepare`
    /// before the process. The mount ends with the process. Needs user namespaces, so its tests are ignored by default.
    pub fn mount_data(&mut self, size: &str, prepare: &str) {
        let mount =
            format!(r#"mkdir -p "$0" && mount -t tmpfs -o size={size} none "$0" && {prepare} && exec "$@""#);
        self.wrapper = ["unshare", "-Urm", "sh", "-c", &mount].map(String::from).into();
    }

    /// Starts the process, or restarts it on the same folders and ports.
    pub async fn restart(&mut self) {
        // Ends the old process first: a second one on the same data folder refuses to start.
        self.process = None;
        let process = self.spawn();
        process.wait_for_line(|line| line.contains("ingest listening"), DEADLINE).await;
        self.process = Some(process);
        self.markers.delivered.store(0, Ordering::SeqCst);
    }

    /// Starts one more process on the same folders and ports, and does not wait for it.
    pub fn spawn(&self) -> Process {
        let text = |path: &Path| path.display().to_string();
        let (manifests, data) = (text(&self.manifests), text(&self.data));
        let mut args = vec!["standalone", "--manifests", &manifests];
        if self.has_data {
            args.extend(["--data", &data]);
        }
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

    /// Writes a manifest atomically, by a rename.
    pub fn write(&self, file: &str, text: &str) {
        let path = self.manifests.join(file);
        let part = path.with_extension("part");
        std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, &path)).expect("a manifest");
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listen)
    }

    /// Publishes into the namespace `default`. Returns the status and the answer's JSON.
    pub async fn publish(&self, event: &Value) -> (u16, Value) {
        answer(self.client.post(self.url(EVENTS)).json(event)).await
    }

    /// Publishes an event that must be accepted.
    pub async fn publish_accepted(&self, event: &Value) {
        let (status, answer) = self.publish(event).await;
        assert_eq!(status, 202, "{event} was answered {answer}");
    }

    pub async fn metrics(&self) -> String {
        let url = format!("http://{}/metrics", self.ops);
        self.client.get(url).send().await.expect("metrics").text().await.expect("metrics")
    }

    /// Returns the sum of a counter over the series that have all of these labels, such as `state="dead"`. Markers of
    /// [`Standalone::pass_marker`] do not count.
    pub async fn count(&self, name: &str, labels: &[&str]) -> u64 {
        let total = count(&self.metrics().await, name, labels);
        let includes_markers = name == FINISHED && labels.iter().all(|label| *label == DELIVERED);
        total.saturating_sub(if includes_markers { self.markers.delivered.load(Ordering::SeqCst) } else { 0 })
    }

    /// Waits until that sum is `n`.
    pub async fn wait_for_count(&self, name: &str, labels: &[&str], n: u64) {
        eventually(DEADLINE, &format!("{name} {labels:?} to be {n}"), async || {
            let total = self.count(name, labels).await;
            if total == n { Ok(()) } else { Err(total.to_string()) }
        })
        .await;
    }

    /// Waits until the process has read the manifests as they are now: changes a manifest of its own, and waits until the
    /// change has an effect.
    pub async fn wait_for_scan(&self) {
        let receiver = self.markers.receiver.get_or_init(async || {
            let attempts = Mutex::new(HashMap::<String, usize>::new());
            Receiver::start(move |request, _| {
                let mut attempts = attempts.lock().unwrap();
                let attempt = attempts.entry(request.header("webhook-id").to_owned()).or_default();
                *attempt += 1;
                Reply::status(if *attempt <= MARKER_FAILURES { 503 } else { 200 })
            })
        });
        let url = receiver.await.url();
        let event = format!("revision-{}", self.markers.revision.fetch_add(1, Ordering::SeqCst) + 1);
        let mut spec = quick();
        merge(&mut spec, json!({"source": "marker", "event": event, "handler": {"webhook": {"url": url}}}));
        let content = json!({"metadata": {"namespace": "markers"}, "spec": spec});
        self.write("marker.yaml", &manifest("hookstream.dev/v1alpha1", "EventHook", "marker", content));
        self.pass_marker().await;
    }

    /// Publishes a marker event and waits until it is delivered. Needs an earlier [`Standalone::wait_for_scan`].
    pub async fn pass_marker(&self) {
        let receiver = self.markers.receiver.get().expect("a receiver of markers");
        let earlier_requests = receiver.requests().len();
        let event = format!("revision-{}", self.markers.revision.load(Ordering::SeqCst));
        let id = eventually(DEADLINE, "the marker's hook to match", async || {
            // A new id each time, because an event that matched no hook is not matched again.
            let id = format!("marker-{}", self.markers.next.fetch_add(1, Ordering::SeqCst));
            let body = json!({"id": id, "source": "marker", "event": event, "data": {}});
            let url = self.url("/v1/namespaces/markers/events");
            let (status, answer) = answer(self.client.post(url).json(&body)).await;
            if status == 202 && answer["deliveries"] == 1 { Ok(id) } else { Err(answer.to_string()) }
        })
        .await;
        receiver.wait_for(earlier_requests + MARKER_FAILURES + 1, DEADLINE).await;
        // Until it is settled, a restart would deliver it again, and the new process would count it.
        let url = format!("http://{}/v1/namespaces/markers/deliveries?event={id}", self.api);
        eventually(DEADLINE, "the marker to be settled", async || {
            let (_, list) = answer(self.client.get(&url)).await;
            if list["items"][0]["state"] == "delivered" { Ok(()) } else { Err(list.to_string()) }
        })
        .await;
        self.markers.delivered.fetch_add(1, Ordering::SeqCst);
    }

    /// Asserts that `is_true` holds, and still holds while the worker handles later events.
    ///
    /// Sends marker events one after another to a hook of their own. The marker's receiver fails each of them twice before
    /// it accepts, so a marker passes ingest, dispatch and two retry timers. Whatever was due before has happened by then,
    /// however slow the machine is.
    pub async fn assert_stays(&self, what: &str, mut is_true: impl AsyncFnMut() -> bool) {
        assert!(is_true().await, "{what}");
        if self.markers.receiver.get().is_none() {
            self.wait_for_scan().await;
        }
        for _ in 0..MARKERS {
            self.pass_marker().await;
            assert!(is_true().await, "{what}");
        }
    }
}

/// The path for events of the namespace `default`.
pub const EVENTS: &str = "/v1/namespaces/default/events";
