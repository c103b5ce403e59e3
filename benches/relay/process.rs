//! The two subjects, as processes: their addresses and what CPU they used.

#![allow(dead_code, reason = "two programs use it, each a part")]

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use crate::bare::CONCURRENCY;

/// Where events are published.
pub const PATH: &str = "/v1/namespaces/default/events";

pub struct Subject {
    pub address: SocketAddr,
    pub path: &'static str,
    /// How many sources its events come from, by turns: `bench-0` and so on.
    pub sources: usize,
    child: Child,
    /// Its manifests and data.
    _dir: Option<tempfile::TempDir>,
}

impl Drop for Subject {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Subject {
    /// The most memory that it ever held, in MiB.
    pub fn peak(&self) -> f64 {
        self.memory("VmHWM:")
    }

    /// The memory that it holds now, in MiB.
    pub fn resident(&self) -> f64 {
        self.memory("VmRSS:")
    }

    fn memory(&self, of: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("/proc");
        let line = status.lines().find_map(|line| line.strip_prefix(of)).expect("a line of memory");
        line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).expect("a number") / 1024.0
    }

    /// The CPU time it used so far, in microseconds.
    pub fn cpu(&self) -> f64 {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("/proc/<pid>/stat");
        // The name may hold spaces: fields are counted after it. utime and stime are the 14th and 15th of all.
        let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
        let ticks: f64 =
            fields[11].parse::<f64>().expect("utime") + fields[12].parse::<f64>().expect("stime");
        // A tick is 10 ms wherever Linux is usual.
        ticks * 10_000.0
    }
}

pub fn start(
    mut command: Command,
    starts: &str,
    path: &'static str,
    sources: usize,
    dir: Option<tempfile::TempDir>,
) -> Subject {
    let mut child = command.stdout(Stdio::piped()).spawn().expect("starting a subject");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let line = lines.find_map(|line| line.ok().filter(|line| line.contains(starts))).expect("it listens");
    let address = line.rsplit([' ', '/']).next().expect("an address").parse().expect("an address");
    Subject { address, path, sources, child, _dir: dir }
}

pub fn bare_relay(sink: SocketAddr) -> Subject {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--bare-relay", &sink.to_string()]);
    start(command, "listening on", "/", 1, None)
}

/// A folder beside the build, not in /tmp: that may be memory, where fsync costs nothing.
pub fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("bench-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

pub fn standalone(sink: SocketAddr) -> Subject {
    let webhook =
        format!("webhook: {{url: 'http://{sink}/', signature: {{secretRef: {{name: keys, key: secret}}}}}}");
    with_handler(&webhook).0
}

/// The same with another handler (YAML); and the address of its metrics.
pub fn with_handler(handler: &str) -> (Subject, String) {
    let text = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: keys}}\nstringData: {{secret: secret}}\n---\n\
         apiVersion: hookstream.dev/v1alpha1\nkind: EventHook\nmetadata: {{name: sink}}\n\
         spec: {{source: bench-0, handler: {{{handler}}}, delivery: {{concurrency: {CONCURRENCY}}}}}\n"
    );
    standalone_with(folder(), &text, 1)
}

/// `hookstream standalone` on these manifests, its data in `data` of this folder; and the address of its metrics.
pub fn standalone_with(dir: tempfile::TempDir, text: &str, sources: usize) -> (Subject, String) {
    let manifests = dir.path().join("manifests");
    std::fs::create_dir(&manifests).expect("a folder");
    std::fs::write(manifests.join("all.yaml"), text).expect("a manifest");
    let port = || TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").to_string();
    let (listen, ops) = (port(), port());
    let mut command = Command::new(env!("CARGO_BIN_EXE_hookstream"));
    command.arg("standalone").arg("--manifests").arg(&manifests).arg("--data").arg(dir.path().join("data"));
    command.args(["--log-level", "warn", "--listen", &listen, "--ops-listen", &ops]);
    command.args(["--api-listen", "127.0.0.1:0"]);
    (start(command, "ingest listening", PATH, sources, Some(dir)), ops)
}
