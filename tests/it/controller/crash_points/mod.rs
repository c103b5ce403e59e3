//! A controller that stops at any moment leaves nothing behind and creates nothing twice.
//!
//! Every scenario runs once undisturbed. Then it runs for every write to the vendor or the API server and every fate of
//! that write: the controller is stopped before it, is stopped after it, or does not get its answer. Then a controller
//! starts, and the result must be the same.

mod auth0;
mod double;
mod kong;
mod scene;
mod tap;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hookstream::emulator::{KongOptions, ReadBack};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use scene::{End, Scene, Vendor};
use tap::{Fate, Tap};

const FATES: [Fate; 3] = [Fate::Before, Fate::After, Fate::LostAnswer];
/// Concurrent runs; a run mostly waits.
const MAX_CONCURRENT_RUNS: usize = 64;

/// One sequence of user actions.
#[derive(Clone, Copy)]
pub struct Scenario {
    name: &'static str,
    /// An object that another client created at the vendor: a path of its API, and the body.
    foreign: Option<fn() -> (&'static str, Value)>,
    /// The state before, and the user's action.
    before: fn(&Scene),
    after: fn(&Scene),
    /// The user's action when the object is deleted.
    again: Option<fn(&Scene)>,
    /// A second action, while no controller runs after the one that was stopped.
    while_stopped: Option<fn(&Scene)>,
    /// How long a controller waits for usable credentials.
    credentials_deadline: Duration,
    /// Returns true if the object reflects the action, from its state before and now. Its generation does not change with a
    /// Secret or a Connection.
    is_done: fn(&Value, &Value) -> bool,
    /// The number of objects that the vendor then has.
    remaining: usize,
}

/// Creates one object.
const CREATE: Scenario = Scenario {
    name: "",
    foreign: None,
    before: |_| {},
    after: |_| {},
    again: None,
    while_stopped: None,
    credentials_deadline: Duration::from_secs(600),
    is_done: |_, _| true,
    remaining: 1,
};

/// Runs a scenario with this fate. Returns the points that it passed and its end.
async fn run_scenario(
    vendor: &Vendor,
    scenario: Scenario,
    fate: Option<(usize, Fate)>,
) -> (Vec<String>, End) {
    let mut scene = Scene::new(vendor, scenario.foreign.map(|foreign| foreign())).await;
    scene.credentials_deadline = scenario.credentials_deadline;
    scene.connect(0);
    (scenario.before)(&scene);
    scene.controller(Tap::default(), scene.connected()).await;
    let before = scene.object().unwrap_or_default();
    (scenario.after)(&scene);
    let is_done = |now: &Value| (scenario.is_done)(&before, now);
    let points = scene.controller(Tap::new(fate), scene.settled(scenario.again, is_done)).await;
    let before =
        if scenario.while_stopped.is_some() { scene.object().unwrap_or_default() } else { before.clone() };
    if let Some(action) = scenario.while_stopped {
        action(&scene);
    }
    let is_done = |now: &Value| (scenario.is_done)(&before, now);
    if fate.is_some() || scenario.while_stopped.is_some() {
        let settled = scene.controller(Tap::default(), scene.settled(scenario.again, is_done));
        let settled = tokio::time::timeout(scene::DEADLINE, settled).await;
        assert!(settled.is_ok(), "{} {fate:?} does not settle: {:#?}", scenario.name, scene.object());
    }
    let end = scene.end(&format!("{} {fate:?}", scenario.name)).await;
    (points, end)
}

/// Runs all scenarios at every point with these fates, and prints the points.
async fn run_at_every_point(vendor: Vendor, scenarios: &[Scenario], fates: &[Fate]) {
    let (permits, vendor) = (Arc::new(Semaphore::new(MAX_CONCURRENT_RUNS)), Arc::new(vendor));
    let mut undisturbed = JoinSet::new();
    for scenario in scenarios.iter().copied() {
        let vendor = vendor.clone();
        undisturbed.spawn(async move { (scenario, run_scenario(&vendor, scenario, None).await) });
    }
    let (mut runs, mut expected_ends) = (JoinSet::new(), BTreeMap::new());
    while let Some(run) = undisturbed.join_next().await {
        let (scenario, (points, expected)) = run.unwrap();
        assert!(!points.is_empty(), "{}", scenario.name);
        assert_eq!(expected.objects.len(), scenario.remaining, "{}: {expected:#?}", scenario.name);
        println!("{}: {}", scenario.name, points.join(" > "));
        for at in 1..=points.len() {
            for fate in fates.iter().copied() {
                let (vendor, permits) = (vendor.clone(), permits.clone());
                runs.spawn(async move {
                    let _permit = permits.acquire_owned().await.unwrap();
                    (scenario.name, at, fate, run_scenario(&vendor, scenario, Some((at, fate))).await)
                });
            }
        }
        expected_ends.insert(scenario.name, (points, expected));
    }
    let count = runs.len();
    while let Some(run) = runs.join_next().await {
        let (name, at, fate, (_, end)) = run.unwrap();
        let (points, expected) = &expected_ends[name];
        assert_eq!(&end, expected, "{name}: {fate:?} {at} ({})", points[at - 1]);
    }
    println!("{count} runs");
}

fn gateway(put: bool, client_id: bool, patch: bool) -> Vendor {
    Vendor::kong(KongOptions { put, client_id, patch, ..KongOptions::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn converges_with_put() {
    run_at_every_point(gateway(true, true, true), &kong::SCENARIOS, &FATES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn converges_with_client_ids_in_post() {
    run_at_every_point(gateway(false, true, false), &kong::SCENARIOS, &FATES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn converges_with_gateway_ids_and_patch() {
    run_at_every_point(gateway(false, false, true), &kong::SCENARIOS, &FATES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn converges_with_gateway_ids_without_updates() {
    run_at_every_point(gateway(false, false, false), &kong::SCENARIOS, &FATES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copied_and_restored_hooks_converge_with_put() {
    run_at_every_point(gateway(true, true, true), &kong::OWNERSHIP, &FATES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copied_and_restored_hooks_converge_with_gateway_ids() {
    run_at_every_point(gateway(false, false, true), &kong::OWNERSHIP, &FATES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copied_and_restored_streams_converge() {
    run_at_every_point(Vendor::auth0(), &auth0::STREAM_OWNERSHIP, &FATES).await;
    run_at_every_point(Vendor::auth0(), &auth0::HOOK_OWNERSHIP, &FATES).await;
}

/// A secret that is compared by hash is written again if its last write is uncertain, with the same end.
#[tokio::test(flavor = "multi_thread")]
async fn converges_with_hidden_secrets() {
    let options = KongOptions { secrets: ReadBack::Masked, ..KongOptions::default() };
    let names = ["create", "rotate", "another secret", "worker to gateway", "gateway to worker", "adopt"];
    let scenarios: Vec<Scenario> = kong::SCENARIOS.into_iter().filter(|s| names.contains(&s.name)).collect();
    run_at_every_point(Vendor::kong(options), &scenarios, &FATES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn converges_for_auth0_streams() {
    run_at_every_point(Vendor::auth0(), &auth0::STREAMS, &FATES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn converges_for_auth0_hooks() {
    run_at_every_point(Vendor::auth0(), &auth0::HOOKS, &FATES).await;
}

/// All combinations: every kind of gateway, and vendors that show new objects late.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make soak"]
async fn soak_converges_with_every_vendor() {
    for secrets in [ReadBack::Plain, ReadBack::Masked, ReadBack::Omitted] {
        for bits in 0..8 {
            let [put, client_id, patch] = [1, 2, 4].map(|bit| bits & bit == 0);
            println!("put: {put}, client ids: {client_id}, patch: {patch}, secrets {secrets:?}");
            let options = KongOptions { put, client_id, patch, secrets, ..KongOptions::default() };
            run_at_every_point(Vendor::kong(options.clone()), &kong::SCENARIOS, &FATES).await;
            run_at_every_point(Vendor::kong(options.clone()).lagging(), &kong::SCENARIOS, &FATES).await;
            run_at_every_point(Vendor::kong(options.clone()), &kong::OWNERSHIP, &FATES).await;
            run_at_every_point(Vendor::kong(options).lagging(), &kong::OWNERSHIP, &FATES).await;
        }
    }
    run_at_every_point(Vendor::auth0().lagging(), &auth0::STREAMS, &FATES).await;
    run_at_every_point(Vendor::auth0().lagging(), &auth0::HOOKS, &FATES).await;
    run_at_every_point(Vendor::auth0().lagging(), &auth0::STREAM_OWNERSHIP, &FATES).await;
    run_at_every_point(Vendor::auth0().lagging(), &auth0::HOOK_OWNERSHIP, &FATES).await;
}
