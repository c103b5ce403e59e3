//! Many objects: the time from creation to Ready, the cost of an idle controller, and memory per object.

use std::time::Instant;

use kube::Client;
use serde_json::{Value, json};

use crate::api::{
    count_writes, cpu_time, create_hooks, diff_counts, format_counts, measure_minimal_writes, resident_mib,
    wait_for_ready, wait_for_reconciles,
};
use crate::harness::world::World;
use crate::harness::{client_of, control_plane};

/// Goal for the elapsed time divided by the time of the minimal writes.
const GOAL: f64 = 1.5;
/// Removes the rate limits of admin APIs, which `limited` measures.
const UNLIMITED: [&str; 4] = ["--log-level", "warn", "--admin-rate-ceiling", "1000000/s"];
/// Re-evaluates every unchanged object once per interval.
const RESYNC: [&str; 2] = ["--resync-interval", "10s"];

pub async fn run(objects: usize) -> Result<(), String> {
    let mut world = World::start("many").await;
    world.stop_operator().await;
    let template = world.hook("probe");
    world.apply(&[world.connection(), template.clone()]).await;

    // Measure the memory of a controller with one object, and use the status of that object as a template.
    let controller = world.another("controller", &UNLIMITED);
    let status = world.ready("eventhooks/probe").await["status"].clone();
    let baseline = resident_mib(&controller);
    controller.terminate().await;

    // Use the operator's own account, so that both sides pay for RBAC authorization.
    let operator = client_of(world.accounts.role("controller")).await?;
    let floor = measure_floor(&operator, &world, &template, objects, &status).await;
    let create_started = Instant::now();
    create_hooks(&world.client, &world.namespace.name, &template, objects).await;
    println!("{objects} objects created in {:.1?}", create_started.elapsed());

    let before = count_writes(&world.client).await;
    let started = Instant::now();
    let controller = world.another("controller", &UNLIMITED);
    wait_for_ready(&world, &controller, objects + 1).await?;
    let took = started.elapsed();
    // Read the CPU time now: Kubernetes Events may be written later.
    let used = cpu_time(&controller);
    println!(
        "created to Ready: {took:.1?} for {objects} objects, {:.0}/s, {:.0} us of controller CPU per object; the two minimal writes alone: {floor:.1?}; ratio {:.2} (goal under {GOAL})",
        objects as f64 / took.as_secs_f64(),
        used.as_micros() as f64 / objects as f64,
        took.as_secs_f64() / floor.as_secs_f64(),
    );
    let loaded = resident_mib(&controller);
    let _ = controller.terminate().await;
    println!(
        "API server writes: {}",
        format_counts(&diff_counts(&before, &count_writes(&world.client).await))
    );
    measure_idle(&world, objects, baseline, loaded).await
}

/// Returns the time of the minimal writes for `objects` objects in a namespace without a controller.
async fn measure_floor(
    operator: &Client,
    world: &World,
    template: &Value,
    objects: usize,
    status: &Value,
) -> std::time::Duration {
    let namespace = control_plane().namespace("bare").await;
    let created = create_hooks(&world.client, &namespace.name, template, objects).await;
    let mut status = status.clone();
    status["external"]["id"] = json!(uuid::Uuid::now_v7());
    measure_minimal_writes(operator, &created, &status).await
}

/// Prints the writes and CPU of a restart and two resyncs of unchanged objects, which should write nothing.
/// `baseline` and `loaded` are MiB with one object and with all of them.
async fn measure_idle(world: &World, objects: usize, baseline: f64, loaded: f64) -> Result<(), String> {
    let before = count_writes(&world.client).await;
    let started = Instant::now();
    let controller = world.another("controller", &[&UNLIMITED[..], &RESYNC].concat());
    wait_for_reconciles(world, &controller, objects).await?;
    let took = started.elapsed();
    let used = cpu_time(&controller);
    // One reconcile of each object at the start, and two resyncs.
    wait_for_reconciles(world, &controller, objects * 3).await?;
    let rate = (cpu_time(&controller) - used).as_micros() as f64 / (objects as f64 * 2.0);
    let mut written = diff_counts(&before, &count_writes(&world.client).await);
    let leases: u64 = written.iter().filter(|(name, _)| name.ends_with(" leases")).map(|(_, n)| n).sum();
    written.retain(|name, _| !name.ends_with(" leases"));
    println!(
        "idle: a restart (all objects compared in {took:.1?}) and two resyncs of {objects} objects ({rate:.0} us of CPU per object): {} writes (goal 0){}, and {leases} to Leases",
        written.values().sum::<u64>(),
        if written.is_empty() { String::new() } else { format!(" ({})", format_counts(&written)) },
    );
    let idle = resident_mib(&controller);
    println!(
        "memory: {loaded:.0} MiB when all were ready, {idle:.0} MiB when idle, {baseline:.0} MiB with one object: {:.1} KiB per object",
        (idle.max(loaded) - baseline) * 1024.0 / objects as f64,
    );
    let _ = controller.terminate().await;
    Ok(())
}
