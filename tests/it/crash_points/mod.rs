//! Whatever the moment at which the controller dies: it leaves nothing behind and makes nothing twice.
//!
//! Every scenario runs once undisturbed; then once for every write to the vendor or the API server and every fate of it:
//! the controller is stopped before it, stopped after it, or does not get its answer. Then a controller starts again, and
//! what it comes to must be the same.

mod auth0;
mod double;
mod kong;
mod scene;
mod tap;

use std::collections::BTreeMap;
use std::sync::Arc;

use hookstream::emulator::{KongOptions, ReadBack};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use scene::{End, Scene, Vendor};
use tap::{Fate, Tap};

const FATES: [Fate; 3] = [Fate::Before, Fate::After, Fate::LostAnswer];
/// Runs at once: most of a run is waiting.
const AT_ONCE: usize = 64;

/// One thing that users do.
#[derive(Clone, Copy)]
pub struct Scenario {
    name: &'static str,
    /// What somebody made at the vendor by hand: a path of its API, and the body.
    foreign: Option<fn() -> (&'static str, Value)>,
    /// What stands before, and what the user then does.
    before: fn(&Scene),
    after: fn(&Scene),
    /// What the user does when the object is gone.
    again: Option<fn(&Scene)>,
    /// Whether the object came to what was done, by how it was before and how it is: its generation does not tell of a
    /// Secret or a Connection.
    came: fn(&Value, &Value) -> bool,
    /// How many objects the vendor then has.
    left: usize,
}

/// One that makes one object out of none.
const CREATE: Scenario = Scenario {
    name: "",
    foreign: None,
    before: |_| {},
    after: |_| {},
    again: None,
    came: |_, _| true,
    left: 1,
};

/// Runs a scenario with this fate; the points it passed, and its end.
async fn play(vendor: &Vendor, scenario: Scenario, fate: Option<(usize, Fate)>) -> (Vec<String>, End) {
    let scene = Scene::new(vendor, scenario.foreign.map(|foreign| foreign())).await;
    scene.connect(0);
    (scenario.before)(&scene);
    scene.controller(Tap::default(), scene.connected()).await;
    let before = scene.object().unwrap_or_default();
    (scenario.after)(&scene);
    let came = |now: &Value| (scenario.came)(&before, now);
    let points = scene.controller(Tap::new(fate), scene.settled(scenario.again, came)).await;
    if fate.is_some() {
        let settled = scene.controller(Tap::default(), scene.settled(scenario.again, came));
        let settled = tokio::time::timeout(scene::DEADLINE, settled).await;
        assert!(settled.is_ok(), "{} {fate:?} does not settle: {:#?}", scenario.name, scene.object());
    }
    let end = scene.end().await;
    (points, end)
}

/// All scenarios, at every point, with these fates. Prints the points.
async fn enumerate(vendor: Vendor, scenarios: &[Scenario], fates: &[Fate]) {
    let (places, vendor) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::new(vendor));
    let mut undisturbed = JoinSet::new();
    for scenario in scenarios.iter().copied() {
        let vendor = vendor.clone();
        undisturbed.spawn(async move { (scenario, play(&vendor, scenario, None).await) });
    }
    let (mut runs, mut wanted) = (JoinSet::new(), BTreeMap::new());
    while let Some(run) = undisturbed.join_next().await {
        let (scenario, (points, want)) = run.unwrap();
        assert!(!points.is_empty(), "{}", scenario.name);
        assert_eq!(want.left.len(), scenario.left, "{}: {want:#?}", scenario.name);
        println!("{}: {}", scenario.name, points.join(" > "));
        for at in 1..=points.len() {
            for fate in fates.iter().copied() {
                let (vendor, places) = (vendor.clone(), places.clone());
                runs.spawn(async move {
                    let _place = places.acquire_owned().await.unwrap();
                    (scenario.name, at, fate, play(&vendor, scenario, Some((at, fate))).await)
                });
            }
        }
        wanted.insert(scenario.name, (points, want));
    }
    let count = runs.len();
    while let Some(run) = runs.join_next().await {
        let (name, at, fate, (_, end)) = run.unwrap();
        let (points, want) = &wanted[name];
        assert_eq!(&end, want, "{name}: {fate:?} {at} ({})", points[at - 1]);
    }
    println!("{count} runs");
}

fn gateway(put: bool, client_id: bool, patch: bool) -> Vendor {
    Vendor::kong(KongOptions { put, client_id, patch, ..KongOptions::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn with_put() {
    enumerate(gateway(true, true, true), &kong::SCENARIOS, &FATES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_ids_of_ours_in_post_only() {
    enumerate(gateway(false, true, false), &kong::SCENARIOS, &FATES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_ids_of_the_gateway_and_patch() {
    enumerate(gateway(false, false, true), &kong::SCENARIOS, &FATES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_ids_of_the_gateway_and_no_change_at_all() {
    enumerate(gateway(false, false, false), &kong::SCENARIOS, &FATES).await;
}

/// What is told by a hash is told once more where nobody knows whether it was: with the same end.
#[tokio::test(flavor = "multi_thread")]
async fn with_secrets_that_do_not_read_back() {
    let options = KongOptions { secrets: ReadBack::Masked, ..KongOptions::default() };
    let with = ["create", "rotate", "another secret", "worker to gateway", "gateway to worker", "adopt"];
    let here: Vec<Scenario> = kong::SCENARIOS.into_iter().filter(|s| with.contains(&s.name)).collect();
    enumerate(Vendor::kong(options), &here, &FATES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_streams_at_auth0() {
    enumerate(Vendor::auth0(), &auth0::STREAMS, &FATES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_hooks_at_auth0() {
    enumerate(Vendor::auth0(), &auth0::HOOKS, &FATES).await;
}

/// The whole product: every kind of gateway, and vendors that show late what was created.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make soak"]
async fn soak_every_vendor() {
    for secrets in [ReadBack::Plain, ReadBack::Masked, ReadBack::Omitted] {
        for bits in 0..8 {
            let [put, client_id, patch] = [1, 2, 4].map(|bit| bits & bit == 0);
            println!("put: {put}, ids of ours: {client_id}, patch: {patch}, secrets {secrets:?}");
            let options = KongOptions { put, client_id, patch, secrets, ..KongOptions::default() };
            enumerate(Vendor::kong(options.clone()), &kong::SCENARIOS, &FATES).await;
            enumerate(Vendor::kong(options).lagging(), &kong::SCENARIOS, &FATES).await;
        }
    }
    enumerate(Vendor::auth0().lagging(), &auth0::STREAMS, &FATES).await;
    enumerate(Vendor::auth0().lagging(), &auth0::HOOKS, &FATES).await;
}
