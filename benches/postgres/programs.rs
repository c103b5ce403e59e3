//! The measured programs: several workers on one database, or the bare program.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Bench;
use crate::bare;
use crate::common::CONCURRENCY;
use crate::common::process::{self, Subject};
use crate::connection::Connection;

/// Hooks, each with a source of its own. Several, so that each worker owns some.
pub const HOOKS: usize = 8;
/// How long workers may take to divide the shards: longer than a lease.
const DIVIDED_WITHIN: Duration = Duration::from_secs(60);

/// Processes that share a database.
pub struct Program {
    pub name: String,
    pub subjects: Vec<Subject>,
    pub database: Connection,
    pub url: String,
}

impl Program {
    /// Starts workers on a new database.
    pub fn workers(bench: &Bench, count: usize) -> Program {
        Program::workers_with_hooks(bench, count, HOOKS)
    }

    /// Starts workers with this number of hooks on a new database. The others get a copy of the first one's data folder: its
    /// keys.
    pub fn workers_with_hooks(bench: &Bench, count: usize, hooks: usize) -> Program {
        let (url, manifests) = (bench.server.new_database(), manifests(bench, hooks));
        let dir = process::temp_folder();
        let data = dir.path().join("data");
        let mut subjects = vec![start_worker(dir, &manifests, hooks, &url)];
        for _ in 1..count {
            let dir = process::temp_folder();
            copy_folder(&data, &dir.path().join("data"));
            subjects.push(start_worker(dir, &manifests, hooks, &url));
        }
        let database = Connection::open(&url);
        wait_until_divided(&database, count);
        let name = if count == 1 { "one worker".to_owned() } else { format!("{count} workers") };
        Program { name, subjects, database, url }
    }

    /// Starts the bare program on the tables of a new database.
    pub fn bare(bench: &Bench) -> Program {
        let url = bench.server.new_database();
        let status = Command::new(program()).args(["store", "migrate", "--store-url", &url]).output();
        let output = status.expect("the program starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args([bare::MODE, &bench.sink.address().to_string(), &url]);
        let subject = process::start(command, "listening on", "/", HOOKS, None);
        let database = Connection::open(&url);
        Program { name: "bare program".to_owned(), subjects: vec![subject], database, url }
    }

    /// Waits until no delivery is pending, so that all outcomes are committed.
    pub fn wait_until_settled(&self) {
        let started = Instant::now();
        while self.database.number("SELECT count(*) FROM (SELECT FROM hookstream.pending LIMIT 1) p") > 0.0 {
            assert!(started.elapsed() < DIVIDED_WITHIN, "deliveries stay pending");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Starts one worker in the folder, on its `data` if it has that.
pub fn start_worker(dir: tempfile::TempDir, manifests: &str, hooks: usize, url: &str) -> Subject {
    // The history stays: retention is no part of what is compared.
    let flags = ["--store-url", url, "--history-age", "168h", "--history-bytes", "1TiB"];
    process::start_with_flags(dir, manifests, hooks, &flags).0
}

/// Returns the manifests: a hook for each source. Together they have the concurrency of the bare program, or one each if they
/// are more.
pub fn manifests(bench: &Bench, hooks: usize) -> String {
    let mut text = "apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\n\
         stringData: {secret: whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}\n"
        .to_owned();
    let signature = "{scheme: StandardWebhooks, secretRef: {name: keys, key: secret}}";
    for number in 0..hooks {
        text += &format!(
            "---\napiVersion: hookstream.dev/v1alpha1\nkind: EventHook\nmetadata: {{name: sink-{number}}}\n\
             spec: {{source: bench-{number}, delivery: {{concurrency: {}}}, handler: {{webhook: {{url: 'http://{}/', format: CloudEvents, signature: {signature}}}}}}}\n",
            (CONCURRENCY / hooks).max(1),
            bench.sink.address()
        );
    }
    text
}

fn program() -> std::ffi::OsString {
    std::env::var_os("HOOKSTREAM_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_hookstream").into())
}

/// Copies a folder that a stopped or running worker uses.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            std::fs::copy(&path, target).expect("a copy");
        }
    }
}

/// Waits until this many workers own the same number of shards, give or take one.
fn wait_until_divided(database: &Connection, workers: usize) {
    let started = Instant::now();
    loop {
        let counts: Vec<usize> = database
            .rows("SELECT count(*) FROM hookstream.shards WHERE owner IS NOT NULL GROUP BY owner ORDER BY 1")
            .iter()
            .map(|row| row[0].parse().expect("a number"))
            .collect();
        let is_even = counts.first().zip(counts.last()).is_some_and(|(least, most)| most - least <= 1);
        if counts.len() == workers && counts.iter().sum::<usize>() == 256 && is_even {
            return;
        }
        assert!(started.elapsed() < DIVIDED_WITHIN, "the workers do not divide the shards: {counts:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
