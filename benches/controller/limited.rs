//! Many hooks on a Connection with a rate limit.

use std::time::Instant;

use serde_json::json;

use crate::api::{create_hooks, wait_for_ready};
use crate::harness::world::World;

/// Goal for the elapsed time divided by the minimum that the rate limit allows.
const GOAL: f64 = 1.1;
/// Calls per second, and the burst after a pause.
const RATE: u32 = 50;
const BURST: u32 = 5;

pub async fn run(objects: usize) -> Result<(), String> {
    let mut world = World::start("limited").await;
    world.stop_operator().await;
    let limit = json!({"requests": RATE, "interval": "1s", "burst": BURST});
    world.apply(&[world.connection_with(json!({ "rateLimit": limit }))]).await;
    create_hooks(&world.client, &world.namespace.name, &world.hook("h"), objects).await;
    let started = Instant::now();
    let flags = ["--log-level", "warn", "--admin-rate-ceiling", "1000000/s"];
    let controller = world.another("controller", &flags);
    wait_for_ready(&world, &controller, objects).await?;
    let took = started.elapsed().as_secs_f64();
    let floor = (objects as f64 - f64::from(BURST)) / f64::from(RATE);
    let requests = world.kong.requests().await;
    let writes = requests.iter().filter(|r| r["method"] != "GET").count();
    println!(
        "{objects} hooks at {RATE} calls per second: {took:.1} s; minimum under the limit: {floor:.1} s; ratio {:.2} (goal under {GOAL}); {writes} writes to Kong, {} reads",
        took / floor,
        requests.len() - writes,
    );
    controller.terminate().await;
    Ok(())
}
