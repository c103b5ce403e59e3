//! Clients of the API server: create and watch objects, measure the minimal writes, and read its write counters.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use hookstream::api::EventHook;
use hookstream::cluster::ResourceKind;
use hookstream::cluster::kubernetes::api_resource;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::harness::Process;
use crate::harness::objects::condition;
use crate::harness::world::World;

/// Concurrent requests; equals the controller's concurrent reconciles.
pub const CONCURRENCY: usize = 32;
/// Deadline of a wait; exceeds the time of any successful run.
const DEADLINE: Duration = Duration::from_secs(600);

/// Creates `count` hooks from a template and returns them.
pub async fn create_hooks(
    client: &Client,
    namespace: &str,
    hook: &Value,
    count: usize,
) -> Vec<DynamicObject> {
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), namespace, &api_resource(ResourceKind::EventHook));
    let create = async |number: usize| {
        let mut hook = hook.clone();
        hook["metadata"]["name"] = json!(format!("hook-{number}"));
        let object: DynamicObject = serde_json::from_value(hook).expect("an object");
        api.create(&PostParams::default(), &object).await.expect("the API server creates it")
    };
    stream::iter(0..count).map(create).buffer_unordered(CONCURRENCY).collect().await
}

/// Measures the two writes that every object needs: its finalizer and its status.
pub async fn measure_minimal_writes(client: &Client, objects: &[DynamicObject], status: &Value) -> Duration {
    let (merge, apply) = (PatchParams::default(), PatchParams::apply("hookstream-controller").force());
    let started = Instant::now();
    let write = async |object: &DynamicObject| {
        let (name, namespace) = (object.name_any(), object.namespace().expect("a namespace"));
        let api: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), &namespace, &api_resource(ResourceKind::EventHook));
        let metadata = json!({"uid": object.uid(), "resourceVersion": object.resource_version(),
            "finalizers": ["hookstream.dev/cleanup"]});
        let patch = json!({ "metadata": metadata });
        api.patch_metadata(&name, &merge, &Patch::Merge(&patch)).await.expect("the finalizer");
        let patch = json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook",
            "metadata": {"name": name, "namespace": namespace, "uid": object.uid()}, "status": status});
        api.patch_status(&name, &apply, &Patch::Apply(&patch)).await.expect("the status");
    };
    stream::iter(objects).for_each_concurrent(CONCURRENCY, write).await;
    started.elapsed()
}

/// Waits until the controller has completed `expected` reconciles of EventHooks since it started.
pub async fn wait_for_reconciles(world: &World, controller: &Process, expected: usize) -> Result<(), String> {
    let started = Instant::now();
    loop {
        let (_, text) = world.ops(controller, "/metrics").await;
        let line = r#"hookstream_reconciles_total{kind="EventHook",outcome="Applied"} "#;
        let count = text.lines().find_map(|l| l.strip_prefix(line)?.parse::<usize>().ok()).unwrap_or(0);
        if count >= expected {
            return Ok(());
        }
        if started.elapsed() > DEADLINE || controller.ended().is_some() {
            return Err(format!("{count} of {expected} reconciles after {:.0?}", started.elapsed()));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until `expected` hooks are ready. Waits for the controller's counter first, because listing all hooks costs the
/// API server CPU.
pub async fn wait_for_ready(world: &World, controller: &Process, expected: usize) -> Result<(), String> {
    wait_for_reconciles(world, controller, expected).await?;
    let api: Api<EventHook> = Api::namespaced(world.client.clone(), &world.namespace.name);
    let started = Instant::now();
    loop {
        let list = api.list(&ListParams::default().match_any()).await.map_err(|e| e.to_string())?;
        let is_ready = |hook: &&EventHook| {
            let value = serde_json::to_value(hook).unwrap_or_default();
            condition(&value, "Ready")["status"] == "True"
        };
        let count = list.items.iter().filter(is_ready).count();
        if count >= expected {
            return Ok(());
        }
        if started.elapsed() > DEADLINE || controller.ended().is_some() {
            return Err(format!("{count} of {expected} hooks are ready after {:.0?}", started.elapsed()));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Returns the writes that the API server has counted, by verb and resource.
pub async fn count_writes(client: &Client) -> BTreeMap<String, u64> {
    let request = http::Request::get("/metrics").body(Vec::new()).expect("a request");
    let text = client.request_text(request).await.expect("the API server's metrics");
    let mut all = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("apiserver_request_total{")) {
        let label = |name: &str| {
            let rest = line.split_once(&format!("{name}=\""))?.1;
            rest.split_once('"').map(|(value, _)| value)
        };
        let verb = label("verb").unwrap_or_default();
        if !["POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"].contains(&verb) {
            continue;
        }
        let part = label("subresource").filter(|part| !part.is_empty()).map(|part| format!("/{part}"));
        let name = format!("{verb} {}{}", label("resource").unwrap_or_default(), part.unwrap_or_default());
        let count = line.rsplit(' ').next().and_then(|n| n.parse::<f64>().ok()).expect("a number");
        *all.entry(name).or_default() += count as u64;
    }
    all
}

/// Returns the counters that increased, with their increase.
pub fn diff_counts(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let increase = |(name, count): (&String, &u64)| {
        let increase = count - before.get(name).copied().unwrap_or(0);
        (increase > 0).then(|| (name.clone(), increase))
    };
    now.iter().filter_map(increase).collect()
}

/// Formats counters, such as `1 PUT leases, 2 POST events`.
pub fn format_counts(writes: &BTreeMap<String, u64>) -> String {
    writes.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
}

/// Returns the resident memory of a process, in MiB.
pub fn resident_mib(process: &Process) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).expect("/proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).expect("a number") / 1024.0
}

/// Returns the CPU time that a process has used.
pub fn cpu_time(process: &Process) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid())).expect("/proc/<pid>/stat");
    // Count the fields after the name, which may contain spaces. utime and stime are fields 14 and 15.
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks = fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime");
    // USER_HZ is 100 on all common Linux builds: a tick is 10 ms.
    Duration::from_millis(ticks * 10)
}
