//! The measured processes: how to start them, their addresses, CPU time and memory.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use super::CONCURRENCY;

/// The path of the worker's publish route.
pub const PATH: &str = "/v1/namespaces/default/events";

/// A running process under test. Killed on drop.
pub struct Subject {
    pub address: SocketAddr,
    pub path: &'static str,
    /// Number of sources that its events cycle through: `bench-0` and so on.
    pub sources: usize,
    child: Child,
    /// The folder of its manifests and data, deleted on drop.
    _dir: Option<tempfile::TempDir>,
}

impl Drop for Subject {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Subject {
    /// Returns the peak resident memory, in MiB.
    pub fn peak_mib(&self) -> f64 {
        self.memory_mib("VmHWM:")
    }

    /// Returns the resident memory, in MiB.
    pub fn resident_mib(&self) -> f64 {
        self.memory_mib("VmRSS:")
    }

    /// Reads a field of `/proc/PID/status`, in MiB.
    fn memory_mib(&self, field: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("/proc");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a line of memory");
        line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).expect("a number") / 1024.0
    }

    /// Returns the CPU time used, in microseconds.
    pub fn cpu_us(&self) -> f64 {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("/proc/<pid>/stat");
        // Count the fields after the name, which may contain spaces. utime and stime are fields 14 and 15.
        let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
        let ticks: f64 =
            fields[11].parse::<f64>().expect("utime") + fields[12].parse::<f64>().expect("stime");
        // USER_HZ is 100 on all common Linux builds: a tick is 10 ms.
        ticks * 10_000.0
    }
}

/// Starts a process and waits for the line of its output that contains `ready_line` and ends with its address.
pub fn start(
    mut command: Command,
    ready_line: &str,
    path: &'static str,
    sources: usize,
    dir: Option<tempfile::TempDir>,
) -> Subject {
    let mut child = command.stdout(Stdio::piped()).spawn().expect("the process starts");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let line = lines.find_map(|line| line.ok().filter(|line| line.contains(ready_line))).expect("it listens");
    let address = line.rsplit([' ', '/']).next().expect("an address").parse().expect("an address");
    Subject { address, path, sources, child, _dir: dir }
}

/// Starts the bare relay, a second process of this bench.
pub fn start_bare_relay(sink: SocketAddr) -> Subject {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--bare-relay", &sink.to_string()]);
    start(command, "listening on", "/", 1, None)
}

/// Creates a temporary folder in the target directory. `/tmp` may be a tmpfs, where fsync costs nothing.
pub fn temp_folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("bench-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

/// Starts `hookstream standalone` with a signed webhook.
pub fn start_standalone(sink: SocketAddr) -> Subject {
    let webhook =
        format!("webhook: {{url: 'http://{sink}/', signature: {{secretRef: {{name: keys, key: secret}}}}}}");
    start_with_handler(&webhook).0
}

/// Starts `hookstream standalone` with a handler (YAML). Also returns the address of its metrics.
pub fn start_with_handler(handler: &str) -> (Subject, String) {
    let text = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: keys}}\nstringData: {{secret: secret}}\n---\n\
         apiVersion: hookstream.dev/v1alpha1\nkind: EventHook\nmetadata: {{name: sink}}\n\
         spec: {{source: bench-0, handler: {{{handler}}}, delivery: {{concurrency: {CONCURRENCY}}}}}\n"
    );
    start_with_manifests(temp_folder(), &text, 1)
}

/// Starts `hookstream standalone` with these manifests and the store in `data` of the folder. Also returns the address of
/// its metrics.
pub fn start_with_manifests(dir: tempfile::TempDir, text: &str, sources: usize) -> (Subject, String) {
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
