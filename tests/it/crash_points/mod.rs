//! Whatever the moment at which the controller dies: it leaves nothing behind and makes nothing twice.
//!
//! Every scenario runs once undisturbed; then once for every write to the vendor or the API server and every fate of it:
//! the controller is stopped before it, stopped after it, or does not get its answer. Then a controller starts again, and
//! what it comes to must be the same.

mod double;
mod tap;

use std::sync::Arc;
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use hookstream::cluster::{Kind, Subscribers};
use hookstream::controller::{self, Context, Options, Patience};
use hookstream::core::bucket::Rate;
use hookstream::core::egress::Policy;
use hookstream::emulator::{KongOptions, serve_kong};
use hookstream::leadership::Leadership;
use hookstream::metrics::Metrics;
use hookstream::net::serve::{CloseWithoutAnswer, serve};
use hookstream::net::{Egress, HttpClient};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::world::{condition, http, merged};
use double::{Double, Tapped};
use tap::{Fate, Tap};

/// A controller that is stopped and starts again needs moments; a machine that is busy needs more.
const DEADLINE: Duration = Duration::from_secs(60);
const FATES: [Fate; 3] = [Fate::Before, Fate::After, Fate::LostAnswer];
/// The hook that somebody made at Kong by hand.
const FOREIGN: &str = "11111111-2222-4333-8444-555555555555";

/// A cluster, a gateway, and between them the place where answers are lost. They outlive the controllers.
struct Scene {
    double: Arc<Double>,
    kong: String,
    front: Arc<Front>,
    front_url: String,
    _serving: JoinSet<()>,
}

/// The way to Kong.
struct Front {
    kong: String,
    http: reqwest::Client,
    tap: Mutex<Arc<Tap>>,
}

async fn forward(State(front): State<Arc<Front>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let url = format!("{}{}", front.kong, parts.uri);
    let mut call = front.http.request(parts.method.clone(), url).body(body);
    if let Some(kind) = parts.headers.get("content-type") {
        call = call.header("content-type", kind);
    }
    let answer = async {
        let answer = call.send().await.unwrap();
        let (status, date) = (answer.status(), answer.headers().get("date").cloned().unwrap());
        (status, [("date", date)], answer.bytes().await.unwrap()).into_response()
    };
    if parts.method == http::Method::GET {
        return answer.await;
    }
    let lost = || {
        let mut response = Response::default();
        response.extensions_mut().insert(CloseWithoutAnswer);
        response
    };
    let tap = front.tap.lock().clone();
    tap.around(&format!("{} at Kong", parts.method), answer, lost).await
}

/// How a scene ends, without what differs from run to run.
#[derive(Clone, Debug, PartialEq)]
struct End {
    hooks: Vec<Value>,
    object: Option<Value>,
}

impl Scene {
    async fn new(options: KongOptions) -> Scene {
        let mut serving = JoinSet::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let kong = format!("http://{}", listener.local_addr().unwrap());
        serving.spawn(async move {
            serve_kong(listener, options, std::future::pending::<()>()).await.unwrap();
        });
        let front = Arc::new(Front { kong: kong.clone(), http: http(), tap: Mutex::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let front_url = format!("http://{}", listener.local_addr().unwrap());
        let router = axum::Router::new().fallback(forward).with_state(front.clone());
        serving.spawn(serve(listener, router, std::future::pending::<()>()));
        Scene { double: Double::new(), kong, front, front_url, _serving: serving }
    }

    /// A controller, from its start until the tap stops it or `until` is done.
    async fn controller(&self, tap: Tap, until: impl Future<Output = ()>) -> Vec<String> {
        let tap = Arc::new(tap);
        *self.front.tap.lock() = tap.clone();
        let mut subscribers = Subscribers::default();
        let changes = subscribers.subscribe();
        let (view, watch) = self.double.watch(subscribers);
        let policy = Policy { allow: vec!["127.0.0.0/8".parse().unwrap()], ..Policy::default() };
        let options = Options {
            ingest_url: Some("http://worker.test:8080".parse().unwrap()),
            admin_ceiling: Rate { requests: 10_000, interval: Duration::from_secs(1), burst: 10_000 },
            patience: Patience { creation: Duration::from_millis(50), ..Patience::default() },
            ..Options::default()
        };
        let cluster = Arc::new(Tapped { double: self.double.clone(), tap: tap.clone() });
        let http = HttpClient::new(Egress::new(policy)).unwrap();
        let metrics = Arc::new(Metrics::default());
        let context = Context::new(cluster, view, http, options, metrics, Leadership::always());
        tokio::select! {
            () = controller::run(Arc::new(context), changes, CancellationToken::new()) => {}
            () = watch => {}
            () = tap.stopped() => {}
            () = until => {}
        }
        tap.points()
    }

    async fn end(&self) -> End {
        let hooks = self.front.http.get(format!("{}/event-hooks", self.kong)).send().await.unwrap();
        let mut hooks = hooks.json::<Value>().await.unwrap()["data"].as_array().unwrap().clone();
        let object = self.double.get(Kind::EventHook, "h");
        if let Some(object) = &object
            && let Some(id) = object.pointer("/status/external/id")
        {
            assert!(hooks.iter().all(|hook| hook["id"] == *id) || hooks.len() > 1, "{hooks:#?} {object:#}");
        }
        for hook in &mut hooks {
            let own = hook["id"] != FOREIGN;
            for member in ["created_at", "updated_at"] {
                hook.as_object_mut().unwrap().remove(member);
            }
            if own {
                hook["id"] = json!("made");
            }
        }
        hooks.sort_by_key(ToString::to_string);
        let object = object.map(|object| {
            let ready = condition(&object, "Ready");
            let applied = &object["status"]["applied"];
            json!({"finalizers": object["metadata"]["finalizers"],
                "annotations": object["metadata"]["annotations"].as_object().filter(|all| !all.is_empty()),
                "current": object["status"]["observedGeneration"] == object["metadata"]["generation"],
                "ready": [ready["status"], ready["reason"], ready["message"]],
                "endpoint": object["status"]["external"]["endpoint"].as_str().map(|_| "told"),
                "applied": merged(applied.clone(), json!({"previous": null})),
                "previous": applied["previous"]["deliverBy"], "hashes": object["status"]["secretHashes"]})
        });
        End { hooks, object }
    }

    /// Waits until the scene has settled: ready and current, or gone.
    async fn settled(&self) {
        let quiet = |double: &Double| match double.get(Kind::EventHook, "h") {
            None => true,
            Some(object) => {
                condition(&object, "Ready")["status"] == "True"
                    && object["status"]["observedGeneration"] == object["metadata"]["generation"]
                    && object["metadata"]["deletionTimestamp"].is_null()
                    && object["metadata"]["annotations"].as_object().is_none_or(serde_json::Map::is_empty)
            }
        };
        self.double.until(quiet).await;
    }
}

/// One thing that users do.
#[derive(Clone, Copy)]
struct Scenario {
    name: &'static str,
    /// The hook's spec before, if there is one, and what becomes of it; None: deleted.
    before: Option<fn() -> Value>,
    after: Option<fn() -> Value>,
}

fn worker() -> Value {
    json!({"source": "crud", "event": "consumers", "connectionRef": {"name": "kong"},
           "handler": {"webhook": {"url": "http://receiver.test/"}}})
}

fn edited() -> Value {
    merged(worker(), json!({"event": "routes"}))
}

fn rotated() -> Value {
    merged(worker(), json!({"rotation": "2"}))
}

fn gateway() -> Value {
    merged(worker(), json!({"deliverBy": "Gateway", "snooze": {"period": "60s"}}))
}

fn adopted() -> Value {
    merged(worker(), json!({"adopt": {"id": FOREIGN, "mode": "Override"}}))
}

const SCENARIOS: [Scenario; 8] = [
    Scenario { name: "create", before: None, after: Some(worker) },
    Scenario { name: "create at the gateway", before: None, after: Some(gateway) },
    Scenario { name: "update", before: Some(worker), after: Some(edited) },
    Scenario { name: "rotate", before: Some(worker), after: Some(rotated) },
    Scenario { name: "worker to gateway", before: Some(worker), after: Some(gateway) },
    Scenario { name: "gateway to worker", before: Some(gateway), after: Some(worker) },
    Scenario { name: "adopt", before: None, after: Some(adopted) },
    Scenario { name: "delete", before: Some(worker), after: None },
];

/// Runs a scenario with this fate; the points it passed, and its end.
async fn play(kong: &KongOptions, scenario: Scenario, fate: Option<(usize, Fate)>) -> (Vec<String>, End) {
    let scene = Scene::new(kong.clone()).await;
    let foreign = json!({"id": FOREIGN, "source": "crud", "handler": "log", "config": {}});
    let adopts = scenario.name == "adopt";
    if adopts {
        let made = scene.front.http.post(format!("{}/event-hooks", scene.kong)).json(&foreign).send().await;
        assert_eq!(made.unwrap().status(), 201);
    }
    scene.double.apply(Kind::Connection, "kong", json!({"kong": {"adminUrl": scene.front_url}}));
    let connected = |double: &Double| {
        let connection = double.get(Kind::Connection, "kong").unwrap();
        condition(&connection, "Ready")["status"] == "True"
    };
    if let Some(before) = scenario.before {
        scene.double.apply(Kind::EventHook, "h", before());
    }
    let ready = async {
        scene.double.until(connected).await;
        scene.settled().await;
    };
    scene.controller(Tap::default(), ready).await;

    match scenario.after {
        Some(after) => scene.double.apply(Kind::EventHook, "h", after()),
        None => scene.double.delete(Kind::EventHook, "h"),
    }
    let points = scene.controller(Tap::new(fate), scene.settled()).await;
    if fate.is_some() {
        let what = format!("{} {fate:?}", scenario.name);
        let settle = tokio::time::timeout(DEADLINE, scene.controller(Tap::default(), scene.settled())).await;
        assert!(settle.is_ok(), "{what} does not settle: {:#?}", scene.double.get(Kind::EventHook, "h"));
    }
    let end = scene.end().await;
    (points, end)
}

/// All scenarios, at every point, with every fate.
async fn enumerate(kong: KongOptions, scenarios: &[Scenario]) {
    for scenario in scenarios.iter().copied() {
        let (points, want) = play(&kong, scenario, None).await;
        assert!(points.len() >= 2, "{}: {points:?}", scenario.name);
        assert_eq!(want.hooks.len(), usize::from(scenario.after.is_some()), "{want:#?}");
        println!("{}: {}", scenario.name, points.join(" > "));
        let mut runs = JoinSet::new();
        for at in 1..=points.len() {
            for fate in FATES {
                let kong = kong.clone();
                runs.spawn(async move { (at, fate, play(&kong, scenario, Some((at, fate))).await) });
            }
        }
        while let Some(run) = runs.join_next().await {
            let (at, fate, (_, end)) = run.unwrap();
            let point = &points[at - 1];
            assert_eq!(end, want, "{}: {fate:?} {at} ({point})", scenario.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_put() {
    enumerate(KongOptions::default(), &SCENARIOS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_ids_of_ours_in_post_only() {
    let kong = KongOptions { put: false, patch: false, ..KongOptions::default() };
    enumerate(kong, &SCENARIOS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_ids_of_the_gateway_and_patch() {
    let kong = KongOptions { put: false, client_id: false, ..KongOptions::default() };
    let here: Vec<Scenario> = SCENARIOS.into_iter().filter(|s| s.name != "adopt").collect();
    enumerate(kong, &here).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_ids_of_the_gateway_and_no_change_at_all() {
    let kong = KongOptions { put: false, client_id: false, patch: false, ..KongOptions::default() };
    let here: Vec<Scenario> = SCENARIOS.into_iter().filter(|s| s.name != "adopt").collect();
    enumerate(kong, &here).await;
}
