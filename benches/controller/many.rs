//! Many objects: from nothing to ready, idle, and in memory.

use std::time::Instant;

use kube::Client;
use serde_json::{Value, json};

use crate::api::{applied, bare_writes, cpu, create, ready, resident, since, told, writes};
use crate::harness::{client_of, control_plane};
use crate::world::World;

const GOAL: f64 = 1.5;
/// The limits of admin APIs are another figure's.
const UNLIMITED: [&str; 4] = ["--log-level", "warn", "--admin-rate-ceiling", "1000000/s"];
/// Once in it every object is compared, without anybody's having changed it.
const RESYNC: [&str; 2] = ["--resync-interval", "10s"];

pub async fn run(objects: usize) -> Result<(), String> {
    let mut world = World::start("many").await;
    world.stop_operator().await;
    let template = world.hook("probe");
    world.apply(&[world.connection(), template.clone()]).await;

    // What one object's status is, and what the controller needs without any.
    let controller = world.another("controller", &UNLIMITED);
    let status = world.ready("eventhooks/probe").await["status"].clone();
    let empty = resident(&controller);
    controller.terminate().await;

    // By the operator's own account: who is judged by RBAC waits for it.
    let operator = client_of(world.accounts.role("controller")).await?;
    let floor = floor(&operator, &world, &template, objects, &status).await;
    let made = Instant::now();
    create(&world.client, &world.namespace.name, &template, objects).await;
    println!("{objects} objects made in {:.1?}", made.elapsed());

    let before = writes(&world.client).await;
    let started = Instant::now();
    let controller = world.another("controller", &UNLIMITED);
    ready(&world, &controller, objects + 1).await?;
    let took = started.elapsed();
    // Events may come after.
    let used = cpu(&controller);
    println!(
        "from nothing to Ready: {took:.1?} for {objects} objects, {:.0}/s, {:.0} us of the controller's CPU each; the two bare writes: {floor:.1?}; ratio {:.2} (goal under {GOAL})",
        objects as f64 / took.as_secs_f64(),
        used.as_micros() as f64 / objects as f64,
        took.as_secs_f64() / floor.as_secs_f64(),
    );
    let full = resident(&controller);
    let _ = controller.terminate().await;
    println!("writes that it took: {}", told(&since(&before, &writes(&world.client).await)));
    idle(&world, objects, empty, full).await
}

/// How long the bare writes of as many objects take, which nobody watches.
async fn floor(
    operator: &Client,
    world: &World,
    template: &Value,
    objects: usize,
    status: &Value,
) -> std::time::Duration {
    let namespace = control_plane().namespace("bare").await;
    let made = create(&world.client, &namespace.name, template, objects).await;
    let mut status = status.clone();
    status["external"]["id"] = json!(uuid::Uuid::now_v7());
    bare_writes(operator, &made, &status).await
}

/// A start compares every object, and so does each resync: nothing is written.
async fn idle(world: &World, objects: usize, empty: f64, full: f64) -> Result<(), String> {
    let before = writes(&world.client).await;
    let started = Instant::now();
    let controller = world.another("controller", &[&UNLIMITED[..], &RESYNC].concat());
    applied(world, &controller, objects).await?;
    let took = started.elapsed();
    let used = cpu(&controller);
    // The start's, and two resyncs of each.
    applied(world, &controller, objects * 3).await?;
    let rate = (cpu(&controller) - used).as_micros() as f64 / (objects as f64 * 2.0);
    let mut written = since(&before, &writes(&world.client).await);
    let leases: u64 = written.iter().filter(|(name, _)| name.ends_with(" leases")).map(|(_, n)| n).sum();
    written.retain(|name, _| !name.ends_with(" leases"));
    println!(
        "idle: after a start (all compared within {took:.1?}) and two resyncs of {objects} objects ({rate:.0} us of CPU each): {} writes (goal 0){}, and {leases} to Leases",
        written.values().sum::<u64>(),
        if written.is_empty() { String::new() } else { format!(" ({})", told(&written)) },
    );
    let now = resident(&controller);
    println!(
        "memory: {full:.0} MiB when all were ready, {now:.0} MiB when idle; {empty:.0} MiB with one object: {:.1} KiB an object",
        (now.max(full) - empty) * 1024.0 / objects as f64,
    );
    let _ = controller.terminate().await;
    Ok(())
}
