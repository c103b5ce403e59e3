//! The measured processes: how to start them, their addresses, CPU time and memory.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::CONCURRENCY;
use super::counters::Usage;
use super::preload;

/// The path of the worker's publish route.
pub const PATH: &str = "/v1/namespaces/default/events";

/// The addresses of a started `hookstream standalone`, besides its ingest port.
pub struct Ports {
    /// Its metrics.
    pub ops: String,
    pub api: SocketAddr,
}

/// A running process under test. Killed on drop.
pub struct Subject {
    pub address: SocketAddr,
    pub path: &'static str,
    /// Number of sources that its events cycle through: `bench-0` and so on.
    pub sources: usize,
    child: Child,
    /// The folder of its manifests and data, deleted on drop.
    dir: Option<tempfile::TempDir>,
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
        memory_mib(self.child.id(), "VmHWM:").expect("/proc")
    }

    /// Returns the resident memory of the process and its children (the sandbox), in MiB.
    pub fn family_resident_mib(&self) -> f64 {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        let children = std::fs::read_to_string(children).unwrap_or_default();
        let pids = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        pids.map(|pid| memory_mib(pid, "VmRSS:").unwrap_or(0.0)).sum::<f64>() + self.resident_mib()
    }

    /// Returns the resident memory, in MiB.
    pub fn resident_mib(&self) -> f64 {
        memory_mib(self.child.id(), "VmRSS:").expect("/proc")
    }

    /// Returns what the process has used.
    pub fn usage(&self) -> Usage {
        Usage::of(self.child.id())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the folder of its data, of a worker that was started in a folder.
    pub fn data_folder(&self) -> std::path::PathBuf {
        self.dir.as_ref().expect("a folder").path().join("data")
    }

    /// Asks the process to stop and waits for its end.
    pub fn stop(mut self) {
        use rustix::process::{Pid, Signal, kill_process};
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, Signal::TERM).expect("a signal");
        self.child.wait().expect("its end");
    }
}

/// Reads a field of `/proc/PID/status`, in MiB. None if the process ended.
fn memory_mib(pid: u32, field: &str) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
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
    Subject { address, path, sources, child, dir }
}

/// Starts the bare relay, a second process of this bench.
pub fn start_bare_relay(sink: SocketAddr) -> Subject {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--bare-relay", &sink.to_string()]);
    start(command, "listening on", "/", 1, None)
}

/// Starts the bare relay that also appends each request to a file and syncs it before it responds.
pub fn start_syncing_relay(sink: SocketAddr) -> Subject {
    let dir = temp_folder();
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--bare-relay", &sink.to_string()]).arg(dir.path().join("log"));
    start(command, "listening on", "/", 1, Some(dir))
}

/// Creates a temporary folder in the target directory. `/tmp` may be a tmpfs, where fsync costs nothing.
pub fn temp_folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("bench-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

/// Creates a temporary folder with a copy of a filled store in `data`.
pub fn folder_with_store(size: preload::Size) -> tempfile::TempDir {
    let dir = temp_folder();
    preload::copy_to(&dir.path().join("data"), size);
    dir
}

/// Starts `hookstream standalone` with `hooks` webhooks that all receive each event, signed by Standard Webhooks. None:
/// its store is empty.
pub fn start_durable(
    sink: SocketAddr,
    size: Option<preload::Size>,
    hooks: usize,
    history_age: &str,
) -> (Subject, Ports) {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\n\
         stringData: {secret: whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}\n";
    let signature = "{scheme: StandardWebhooks, secretRef: {name: keys, key: secret}}";
    let mut text = secret.to_owned();
    for number in 0..hooks {
        let name = if number == 0 { "sink".to_owned() } else { format!("sink-{number}") };
        let webhook =
            format!("{{url: 'http://{sink}/{number}', format: CloudEvents, signature: {signature}}}");
        text += &hook(&name, &format!("webhook: {webhook}"));
    }
    let dir = size.map_or_else(temp_folder, folder_with_store);
    let flags = size.unwrap_or(preload::Size { keys: 0, deliveries: 0 }).worker_flags(history_age);
    start_with_flags(dir, &text, 1, &flags.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Starts `hookstream standalone` with a handler (YAML), on a filled store.
pub fn start_with_handler(handler: &str, size: preload::Size) -> (Subject, Ports) {
    start_on_store(size, &hook("sink", handler), 1)
}

/// Starts `hookstream standalone` with these manifests, on a filled store.
pub fn start_on_store(size: preload::Size, text: &str, sources: usize) -> (Subject, Ports) {
    start_on_folder(folder_with_store(size), size, text, sources)
}

/// Starts `hookstream standalone` with these manifests, on the store of this size in `data` of the folder.
pub fn start_on_folder(
    dir: tempfile::TempDir,
    size: preload::Size,
    text: &str,
    sources: usize,
) -> (Subject, Ports) {
    let flags = size.worker_flags(preload::WINDOW);
    start_with_flags(dir, text, sources, &flags.iter().map(String::as_str).collect::<Vec<_>>())
}

fn hook(name: &str, handler: &str) -> String {
    format!(
        "---\napiVersion: hookstream.dev/v1alpha1\nkind: EventHook\nmetadata: {{name: {name}}}\n\
         spec: {{source: bench-0, handler: {{{handler}}}, delivery: {{concurrency: {CONCURRENCY}}}}}\n"
    )
}

/// Starts `hookstream standalone` with these manifests and the store in `data` of the folder.
pub fn start_with_manifests(dir: tempfile::TempDir, text: &str, sources: usize) -> (Subject, Ports) {
    start_with_flags(dir, text, sources, &[])
}

/// The bytes of a file of manifests. The program reads no file of more than 16 MiB.
const FILE_BYTES: usize = 4 << 20;

/// Writes the documents into as few files as the program reads.
fn write_manifests(folder: &Path, text: &str) {
    let (mut file, mut number) = (String::new(), 0);
    let mut write = |file: &mut String| {
        std::fs::write(folder.join(format!("{number:04}.yaml")), &file).expect("a manifest");
        file.clear();
        number += 1;
    };
    for document in text.split_inclusive("---\n") {
        file.push_str(document);
        if file.len() > FILE_BYTES {
            write(&mut file);
        }
    }
    write(&mut file);
}

/// Starts `hookstream standalone` with these manifests and additional flags.
pub fn start_with_flags(
    dir: tempfile::TempDir,
    text: &str,
    sources: usize,
    flags: &[&str],
) -> (Subject, Ports) {
    let manifests = dir.path().join("manifests");
    std::fs::create_dir(&manifests).expect("a folder");
    write_manifests(&manifests, text);
    let port = || TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let (listen, ops, api) = (port().to_string(), port().to_string(), port());
    // `HOOKSTREAM_BIN` compares another build.
    let program =
        std::env::var_os("HOOKSTREAM_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_hookstream").into());
    let mut command = Command::new(program);
    command.arg("standalone").arg("--manifests").arg(&manifests).arg("--data").arg(dir.path().join("data"));
    command.args(["--log-level", "error", "--listen", &listen, "--ops-listen", &ops]);
    command.args(["--api-listen", &api.to_string()]).args(flags);
    let mut child = command.spawn().expect("the process starts");
    let address = listen.parse().expect("an address");
    // The port is open once the store is.
    while TcpStream::connect(address).is_err() {
        assert!(child.try_wait().expect("its state").is_none(), "the process ended at its start");
        std::thread::sleep(Duration::from_millis(2));
    }
    (Subject { address, path: PATH, sources, child, dir: Some(dir) }, Ports { ops, api })
}
