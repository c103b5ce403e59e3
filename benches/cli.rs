//! `cargo bench --bench cli`: how long the command line takes until its first output, and for many manifests. Prints each
//! figure with its goal, beside the floor of the same run: the time of a process that prints one line.
//!
//! Exits 0 unless a command failed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// `HOOKSTREAM_BIN` measures another build.
fn program() -> std::ffi::OsString {
    std::env::var_os("HOOKSTREAM_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_hookstream").into())
}

/// Starts a command. Returns the time until its first output and the time until its end.
fn measure(mut command: Command) -> (Duration, Duration) {
    let started = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn().expect("the command starts");
    let mut out = child.stdout.take().expect("its output");
    let read = out.read(&mut [0; 1]).expect("its output");
    let first = started.elapsed();
    assert!(read == 1, "{command:?} printed nothing");
    out.read_to_end(&mut Vec::new()).expect("its output");
    let status = child.wait().expect("its end");
    assert!(status.success(), "{command:?}: {status}");
    (first, started.elapsed())
}

/// Measures a command several times, and prints the median, minimum and maximum.
fn report(
    name: &str,
    goal: &str,
    rounds: usize,
    command: impl Fn() -> Command,
    pick: fn((Duration, Duration)) -> Duration,
) {
    let mut times: Vec<Duration> = (0..rounds).map(|_| pick(measure(command()))).collect();
    times.sort();
    let ms = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1000.0);
    let (median, first, last) = (times[rounds / 2], times[0], times[rounds - 1]);
    println!("{name:<44} {:>9} ms ({}-{})  goal {goal}", ms(median), ms(first), ms(last));
}

fn hookstream(args: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(args).env("NO_COLOR", "1");
    command
}

/// A hook as users write them: with a filter, a signature and a schedule of retries; every tenth with a template.
fn manifest(number: usize) -> String {
    let handler = if number.is_multiple_of(10) {
        "webhookCustom: {url: 'https://hooks.example.com/in', payload: {text: 'order {{ event.data.id }}'}}"
            .to_owned()
    } else {
        "webhook: {url: 'https://hooks.example.com/in', format: CloudEvents, \
         signature: {scheme: StandardWebhooks, secretRef: {name: keys, key: secret}}}"
            .to_owned()
    };
    format!(
        "apiVersion: hookstream.dev/v1alpha1\nkind: EventHook\nmetadata:\n  name: hook-{number}\n  namespace: team-{}\nspec:\n  \
         source: shop\n  event: order.created\n  filter: 'event.data.total > {number} && event.data.country == \"NL\"'\n  \
         delivery: {{concurrency: 8, retry: {{maxAge: 24h, maxAttempts: 20}}}}\n  handler:\n    {handler}\n",
        number % 100
    )
}

fn write_manifests(folder: &Path, count: usize) {
    std::fs::create_dir(folder).expect("a folder");
    let secrets: Vec<String> = (0..100)
        .map(|team| {
            format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: keys, namespace: team-{team}}}\nstringData: {{secret: whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}}\n")
        })
        .collect();
    // A folder may have 10,000 files.
    let first = [&secrets[..], &[manifest(0)]].concat().join("---\n");
    std::fs::write(folder.join("hook-0.yaml"), first).expect("a file");
    for number in 1..count {
        std::fs::write(folder.join(format!("hook-{number}.yaml")), manifest(number)).expect("a file");
    }
}

/// `hookstream emulate kong` with hooks. Ends when it is dropped.
struct Kong {
    process: Child,
    /// `host:port` of the admin API.
    address: String,
}

impl Kong {
    fn with_hooks(count: usize) -> Kong {
        let mut command = hookstream(&["emulate", "kong", "--listen", "127.0.0.1:0"]);
        // Both streams, because the line with the address is for people.
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the emulator");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("its output")).read_line(&mut line).expect("its address");
        let address = line.trim().rsplit("http://").next().expect("an address").to_owned();
        let kong = Kong { process, address };
        for number in 0..count {
            let body = r#"{"source":"crud","event":"consumers","handler":"webhook","config":{"url":"https://hooks.example.com/in"}}"#;
            kong.call(&format!("PUT /event-hooks/{}", hook_id(number)), body);
        }
        kong
    }

    /// Calls the admin API. Returns the whole answer.
    fn call(&self, line: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("the emulator");
        write!(
            stream,
            "{line} HTTP/1.1\r\nhost: kong\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 20"), "{line}: {answer}");
        answer
    }
}

impl Drop for Kong {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn hook_id(number: usize) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

/// Writes a Connection to this Kong and hooks that are equal to those of [`Kong::with_hooks`].
fn write_adopted(file: &Path, kong: &Kong, count: usize) {
    let head = "apiVersion: hookstream.dev/v1alpha1\nkind:";
    let connection = format!(
        "{head} Connection\nmetadata: {{name: kong, namespace: default}}\nspec: {{kong: {{adminUrl: 'http://{}'}}}}\n",
        kong.address
    );
    let hook = |number| {
        format!(
            "{head} EventHook\nmetadata: {{name: hook-{number}, namespace: default}}\nspec:\n  source: crud\n  event: consumers\n  \
             connectionRef: {{name: kong}}\n  deliverBy: Gateway\n  adopt: {{id: {}, mode: Match}}\n  \
             handler: {{webhook: {{url: 'https://hooks.example.com/in'}}}}\n",
            hook_id(number)
        )
    };
    let documents: Vec<String> = std::iter::once(connection).chain((0..count).map(hook)).collect();
    std::fs::write(file, documents.join("---\n")).expect("a file");
}

/// The hooks that `diff` compares.
const COMPARED: usize = 1000;

/// Measures `diff` once, which succeeds only if every hook is equal. The floor is its requests at its rate limit: 10 at once,
/// then 10 a second.
fn compare(dir: &Path) {
    let kong = Kong::with_hooks(COMPARED);
    let file = dir.join("adopted.yaml");
    write_adopted(&file, &kong, COMPARED);
    let file = file.display().to_string();
    report("diff of 1,000 hooks: all", "the floor", 1, || hookstream(&["diff", &file]), |(_, all)| all);
    // Only `diff` has read anything.
    let requests = kong.call("GET /__emulator/requests", "").matches(r#""method":"GET""#).count();
    let floor = requests.saturating_sub(10) * 100;
    println!("{:<44} {floor:>9} ms", format!("floor: its {requests} requests at the limit of 10/s"));
}

fn main() {
    let dir =
        tempfile::Builder::new().prefix("bench-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let (one, many) = (dir.path().join("one"), dir.path().join("many"));
    write_manifests(&one, 1);
    write_manifests(&many, 10_000);
    let (one, many) = (one.display().to_string(), many.display().to_string());
    let echo = || {
        let mut command = Command::new("/bin/echo");
        command.arg("a line");
        command
    };
    report("floor: a process that prints one line", "-", 21, echo, |(first, _)| first);
    report(
        "version --client: first output",
        "< 50 ms",
        21,
        || hookstream(&["version", "--client"]),
        |(first, _)| first,
    );
    report(
        "validate of one hook: first output",
        "< 50 ms",
        21,
        || hookstream(&["validate", &one]),
        |(first, _)| first,
    );
    report(
        "validate of 10,000 hooks: all",
        "< 2000 ms",
        5,
        || hookstream(&["validate", &many]),
        |(_, all)| all,
    );
    compare(dir.path());
}
