//! The API server from outside: objects made and read, the bare writes, and the writes that it counted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use hookstream::api::EventHook;
use hookstream::cluster::Kind;
use hookstream::cluster::kubernetes::resource;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::harness::Process;
use crate::world::{World, condition};

/// As many at once as the controller reconciles.
pub const CONCURRENCY: usize = 32;
/// Longer than anything that works.
const BROKEN: Duration = Duration::from_secs(600);

/// Makes hooks; them as they were made.
pub async fn create(client: &Client, namespace: &str, hook: &Value, number: usize) -> Vec<DynamicObject> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource(Kind::EventHook));
    let one = async |number: usize| {
        let mut hook = hook.clone();
        hook["metadata"]["name"] = json!(format!("hook-{number}"));
        let object: DynamicObject = serde_json::from_value(hook).expect("an object");
        api.create(&PostParams::default(), &object).await.expect("room for an object")
    };
    stream::iter(0..number).map(one).buffer_unordered(CONCURRENCY).collect().await
}

/// The two writes that an object needs, and nothing else.
pub async fn bare_writes(client: &Client, objects: &[DynamicObject], status: &Value) -> Duration {
    let (merge, apply) = (PatchParams::default(), PatchParams::apply("hookstream-controller").force());
    let started = Instant::now();
    let write = async |object: &DynamicObject| {
        let (name, namespace) = (object.name_any(), object.namespace().expect("a namespace"));
        let api: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), &namespace, &resource(Kind::EventHook));
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

/// Waits until the controller has carried out so many reconciles of EventHooks since it started.
pub async fn applied(world: &World, controller: &Process, number: usize) -> Result<(), String> {
    let started = Instant::now();
    loop {
        let (_, text) = world.ops(controller, "/metrics").await;
        let line = r#"hookstream_reconciles_total{kind="EventHook",outcome="Applied"} "#;
        let count = text.lines().find_map(|l| l.strip_prefix(line)?.parse::<usize>().ok()).unwrap_or(0);
        if count >= number {
            return Ok(());
        }
        if started.elapsed() > BROKEN || controller.ended().is_some() {
            return Err(format!("{count} of {number} reconciles after {:.0?}", started.elapsed()));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until so many hooks are ready: first by what the controller counts, for to list them all costs the API server.
pub async fn ready(world: &World, controller: &Process, number: usize) -> Result<(), String> {
    applied(world, controller, number).await?;
    let api: Api<EventHook> = Api::namespaced(world.client.clone(), &world.namespace.name);
    let started = Instant::now();
    loop {
        let list = api.list(&ListParams::default().match_any()).await.map_err(|e| e.to_string())?;
        let is = |hook: &&EventHook| {
            let value = serde_json::to_value(hook).unwrap_or_default();
            condition(&value, "Ready")["status"] == "True"
        };
        let count = list.items.iter().filter(is).count();
        if count >= number {
            return Ok(());
        }
        if started.elapsed() > BROKEN || controller.ended().is_some() {
            return Err(format!("{count} of {number} hooks are ready after {:.0?}", started.elapsed()));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// The writes that the API server counted so far, by what was written and how.
pub async fn writes(client: &Client) -> BTreeMap<String, u64> {
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

/// What came since.
pub fn since(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let more = |(name, count): (&String, &u64)| {
        let more = count - before.get(name).copied().unwrap_or(0);
        (more > 0).then(|| (name.clone(), more))
    };
    now.iter().filter_map(more).collect()
}

/// `1 PUT leases, 2 POST events`.
pub fn told(writes: &BTreeMap<String, u64>) -> String {
    writes.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
}

/// The memory that a process holds now, in MiB.
pub fn resident(process: &Process) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).expect("/proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).expect("a number") / 1024.0
}

/// The CPU time that a process used so far.
pub fn cpu(process: &Process) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid())).expect("/proc/<pid>/stat");
    // The name may hold spaces: fields are counted after it. utime and stime are the 14th and 15th of all.
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks = fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime");
    // A tick is 10 ms wherever Linux is usual.
    Duration::from_millis(ticks * 10)
}
