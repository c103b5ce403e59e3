//! `cargo bench --bench scripts`: what the sandbox costs. Calls a second of a template and of a lambda through the pool,
//! and how long a child takes to start, what memory it has at rest, and how long a killed one takes to be replaced.
//!
//! Exits 0 unless something broke: a call that failed, or no sandbox at all. The goals are for a machine of two cores.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures::future::join_all;
use hookstream::core::template::context;
use hookstream::sandbox::{Call, Options, Sandbox};
use serde_json::value::to_raw_value;
use serde_json::{Value, json};

const CALLS: usize = 20_000;
/// Callers of one hook: the deliveries that a hook makes at once by default.
const CALLERS: usize = 8;
const HOOKS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(30);
const FIELDS: &str = "{\"text\": {* json(entity.username) *}, \"operation\": \"{{ operation }}\"}";
const TEMPLATE: &str = "Admin account `{{ entity.username }}` {{ operation }}d{% if entity.email then %}; address {{ entity.email:lower() }}{% end %}";
const LAMBDA: &str = "return function (data, event, source, pid)\n  local name = data.entity.username:lower()\n  return name == 'ada' and event == 'admins'\nend";

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(bench())
}

async fn bench() -> ExitCode {
    let options = Options { program: PathBuf::from(env!("CARGO_BIN_EXE_hookstream")), ..Options::default() };
    let mut starts = Vec::new();
    for _ in 0..10 {
        let started = Instant::now();
        let sandbox = Sandbox::start(options.clone()).await;
        starts.push(started.elapsed());
        if let Some(why) = sandbox.unavailable() {
            println!("BROKEN: {why}");
            return ExitCode::FAILURE;
        }
    }
    row("start of a child", &format!("{:.1} ms", millis(median(starts))), "50 ms");

    let sandbox = Sandbox::start(options.clone()).await;
    warm(&sandbox).await;
    let rest: Vec<(u64, u64)> = children().into_iter().map(memory).collect();
    let (shared, own) = rest.iter().copied().max().unwrap_or_default();
    row(
        "memory of a child at rest",
        &format!("{own} KiB its own, {shared} KiB resident"),
        "8192 KiB its own",
    );

    let mut replaced = Vec::new();
    for _ in 0..10 {
        let before = children();
        before.iter().copied().for_each(kill);
        // One that is asked while it dies costs the call: that is not what is measured.
        while !children().is_empty() {
            tokio::task::yield_now().await;
        }
        let started = Instant::now();
        call(&sandbox, "hook").await;
        replaced.push(started.elapsed());
    }
    row("first answer after all were killed", &format!("{:.1} ms", millis(median(replaced))), "100 ms");

    let data = data();
    let context = context(&data, "crud", "admins");
    for (name, template) in [("template of fields", FIELDS), ("template with code", TEMPLATE)] {
        let rate = rate(async |hook: &str| {
            let texts = sandbox.render(hook, &[template], &context, PATIENCE).await.expect("it renders");
            assert!(texts[0].contains("Ada"), "{texts:?}");
        })
        .await;
        row(name, &format!("{rate:.0}/s"), "10000/s");
    }
    let rate = rate(async |hook: &str| call(&sandbox, hook).await).await;
    row("lambda", &format!("{rate:.0}/s"), "10000/s");
    ExitCode::SUCCESS
}

fn row(name: &str, figure: &str, goal: &str) {
    println!("sandbox: {name:36} {figure:40} goal {goal}");
}

fn data() -> Value {
    json!({"operation": "create", "entity": {"username": "Ada", "email": "Ada@Example.com", "id": "937df175-3db2-4e6d-8aa1-d95c94a76089",
        "created_at": 1_627_588_552, "tags": ["a", "b"], "meta": {"note": "x".repeat(600)}}, "schema": "admins"})
}

async fn call(sandbox: &Sandbox, hook: &str) {
    let data = to_raw_value(&data()).unwrap();
    let call = Call { function: LAMBDA, data: &data, event: "admins", source: "crud", pid: 1 };
    assert_eq!(sandbox.call(hook, call, PATIENCE).await, Ok(json!(true)));
}

/// Every child the pool may have is started, and has run something.
async fn warm(sandbox: &Sandbox) {
    let names: Vec<String> = (0..HOOKS).map(|hook| format!("hook-{hook}")).collect();
    for _ in 0..20 {
        join_all(names.iter().map(|hook| call(sandbox, hook))).await;
    }
}

/// Calls a second, of several hooks with several callers each.
async fn rate(one: impl AsyncFn(&str)) -> f64 {
    let started = Instant::now();
    let one = &one;
    join_all((0..HOOKS * CALLERS).map(|caller| async move {
        let hook = format!("hook-{}", caller % HOOKS);
        for _ in 0..CALLS / (HOOKS * CALLERS) {
            one(&hook).await;
        }
    }))
    .await;
    CALLS as f64 / started.elapsed().as_secs_f64()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The children of this process: the sandboxes.
fn children() -> Vec<i32> {
    let own = format!("PPid:\t{}\n", std::process::id());
    let numbers = std::fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers
        .filter(|pid: &i32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.contains(&own) && !status.contains("State:\tZ")
        })
        .collect()
}

/// Resident memory of a process and the part of it that is its own, in KiB.
fn memory(pid: i32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|text| text.trim().trim_end_matches(" kB").trim().parse().ok()).unwrap_or_default()
    };
    (field("VmRSS:"), field("RssAnon:"))
}

fn kill(pid: i32) {
    use rustix::process::{Pid, Signal, kill_process};
    kill_process(Pid::from_raw(pid).expect("a pid"), Signal::KILL).ok();
}
