//! `cargo bench --bench scripts`: the cost of the sandbox. Measures invocations per second of templates and a lambda
//! through the pool. Also measures the start time and idle memory of a child process, and the time to replace a killed
//! one.
//!
//! Exits 0 unless an invocation failed or no sandbox is available. The goals are for a machine with two cores.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use hookstream::core::event::data::Data;
use hookstream::core::template::context;
use hookstream::sandbox::{Invocation, RenderContext, Sandbox, SandboxOptions, ScriptOwner};
use serde_json::value::to_raw_value;
use serde_json::{Value, json};

/// Invocations per measurement.
const INVOCATIONS: usize = 20_000;
/// Concurrent callers of one hook: the default concurrency of its deliveries.
const CALLERS: usize = 8;
const HOOKS: usize = 4;
/// Deadline of one invocation.
const DEADLINE: Duration = Duration::from_secs(30);
const FIELDS: &str = "{\"text\": {* json(entity.username) *}, \"operation\": \"{{ operation }}\"}";
const TEMPLATE: &str = "Admin account `{{ entity.username }}` {{ operation }}d{% if entity.email then %}; address {{ entity.email:lower() }}{% end %}";
const LAMBDA: &str = "return function (data, event, source, pid)\n  local name = data.entity.username:lower()\n  return name == 'ada' and event == 'admins'\nend";

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(bench())
}

async fn bench() -> ExitCode {
    let options = SandboxOptions {
        program: PathBuf::from(env!("CARGO_BIN_EXE_hookstream")),
        ..SandboxOptions::default()
    };
    let mut starts = Vec::new();
    for _ in 0..10 {
        let started = Instant::now();
        let sandbox = Sandbox::start(options.clone()).await;
        starts.push(started.elapsed());
        if let Some(why) = sandbox.unavailable() {
            println!("FAILED: {why}");
            return ExitCode::FAILURE;
        }
    }
    print_row("start of a child process", &format!("{:.1} ms", millis(median(starts))), "50 ms");

    let sandbox = Sandbox::start(options.clone()).await;
    warm_up(&sandbox).await;
    let idle: Vec<(u64, u64)> = child_pids().into_iter().map(read_memory).collect();
    let (resident, anonymous) = idle.iter().copied().max().unwrap_or_default();
    print_row(
        "memory of an idle child",
        &format!("{anonymous} KiB anonymous, {resident} KiB resident"),
        "8192 KiB anonymous",
    );

    let mut replaced = Vec::new();
    for _ in 0..10 {
        child_pids().into_iter().for_each(kill);
        // Wait until all are gone: an invocation sent to a dying child would fail.
        while !child_pids().is_empty() {
            tokio::task::yield_now().await;
        }
        let started = Instant::now();
        invoke_lambda(&sandbox, "hook").await;
        replaced.push(started.elapsed());
    }
    print_row("first result after all were killed", &format!("{:.1} ms", millis(median(replaced))), "100 ms");

    let variables = Arc::new(context(Data::from(data()), "crud", "admins"));
    let context = RenderContext { variables, bytes: data().to_string().len() };
    for (name, template) in [("template of fields", FIELDS), ("template with code", TEMPLATE)] {
        let rate = measure_rate(async |hook: &str| {
            let owner = ScriptOwner { namespace: &"n".into(), hook: &hook.into() };
            let rendered = sandbox.render(owner, &[template], &context, DEADLINE).await;
            let texts = rendered.expect("the template renders").texts;
            assert!(texts[0].contains("Ada"), "{texts:?}");
        })
        .await;
        print_row(name, &format!("{rate:.0}/s"), "10000/s");
    }
    let rate = measure_rate(async |hook: &str| invoke_lambda(&sandbox, hook).await).await;
    print_row("lambda", &format!("{rate:.0}/s"), "10000/s");
    ExitCode::SUCCESS
}

fn print_row(name: &str, figure: &str, goal: &str) {
    println!("sandbox: {name:36} {figure:40} goal {goal}");
}

fn data() -> Value {
    json!({"operation": "create", "entity": {"username": "Ada", "email": "Ada@Example.com", "id": "937df175-3db2-4e6d-8aa1-d95c94a76089",
        "created_at": 1_627_588_552, "tags": ["a", "b"], "meta": {"note": "x".repeat(600)}}, "schema": "admins"})
}

async fn invoke_lambda(sandbox: &Sandbox, hook: &str) {
    let data = to_raw_value(&data()).unwrap();
    let call = Invocation { function: LAMBDA, data: &data, event: "admins", source: "crud", pid: 1 };
    let owner = ScriptOwner { namespace: &"n".into(), hook: &hook.into() };
    assert_eq!(sandbox.invoke(owner, call, DEADLINE).await, Ok(json!(true)));
}

/// Starts every child that the pool may have, and runs a lambda in each.
async fn warm_up(sandbox: &Sandbox) {
    let names: Vec<String> = (0..HOOKS).map(|hook| format!("hook-{hook}")).collect();
    for _ in 0..20 {
        join_all(names.iter().map(|hook| invoke_lambda(sandbox, hook))).await;
    }
}

/// Returns invocations per second, for several hooks with several callers each.
async fn measure_rate(invoke: impl AsyncFn(&str)) -> f64 {
    let started = Instant::now();
    let invoke = &invoke;
    join_all((0..HOOKS * CALLERS).map(|caller| async move {
        let hook = format!("hook-{}", caller % HOOKS);
        for _ in 0..INVOCATIONS / (HOOKS * CALLERS) {
            invoke(&hook).await;
        }
    }))
    .await;
    INVOCATIONS as f64 / started.elapsed().as_secs_f64()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Returns the child processes of this process, which are the sandboxes.
fn child_pids() -> Vec<i32> {
    let own = format!("PPid:\t{}\n", std::process::id());
    let pids = std::fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.contains(&own) && !status.contains("State:\tZ")
    })
    .collect()
}

/// Returns the resident and the anonymous memory of a process, in KiB.
fn read_memory(pid: i32) -> (u64, u64) {
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
