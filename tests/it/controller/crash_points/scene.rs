//! A cluster, a vendor, and a gate between them that loses answers. They outlive the controllers.

use std::sync::Arc;
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use hookstream::cluster::{ResourceKind, Subscribers};
use hookstream::controller::{self, Context, ControllerOptions, Deadlines};
use hookstream::core::bucket::Rate;
use hookstream::core::egress::EgressRules;
use hookstream::emulator::{Auth0Options, KongOptions, serve_auth0, serve_kong};
use hookstream::leadership::Leadership;
use hookstream::metrics::Metrics;
use hookstream::net::serve::{CloseWithoutResponse, serve};
use hookstream::net::{Egress, HttpClient};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::double::{Double, Tapped};
use super::tap::Tap;
use crate::harness::http::http;
use crate::harness::objects::condition;

/// Controllers stop and start within moments; a busy machine needs more.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The grace period for a created object to become visible.
const GRACE: Duration = Duration::from_millis(50);
/// The same with a vendor that hides a created object for `LAG_MS`. Much longer than that, because the grace period begins
/// before the create, and a slow machine may delay the create.
const GRACE_OF_LAGGING: Duration = Duration::from_secs(2);
const LAG_MS: u64 = 30;

/// A vendor and the state that its clients share.
pub struct Vendor {
    api: Api,
    /// If set, reads show created objects late.
    lags: bool,
    egress: HttpClient,
    http: reqwest::Client,
}

enum Api {
    Kong(KongOptions),
    Auth0,
}

impl Vendor {
    pub fn kong(options: KongOptions) -> Vendor {
        Vendor::new(Api::Kong(options))
    }

    pub fn auth0() -> Vendor {
        Vendor::new(Api::Auth0)
    }

    pub fn lagging(self) -> Vendor {
        Vendor { lags: true, ..self }
    }

    fn new(api: Api) -> Vendor {
        let http = http();
        let policy = EgressRules { allow: vec!["127.0.0.0/8".parse().unwrap()], ..EgressRules::default() };
        Vendor { api, lags: false, egress: HttpClient::new(Egress::new(policy)).unwrap(), http }
    }
}

pub struct Scene {
    pub double: Arc<Double>,
    /// One gate, or two for Kong, at two addresses.
    gates: Vec<Arc<Gate>>,
    tap: Arc<Mutex<Arc<Tap>>>,
    egress: HttpClient,
    /// The vendor's id of the object that another client created.
    foreign: String,
    is_kong: bool,
    /// How long a controller waits for a created object to be visible.
    grace: Duration,
    _serving: JoinSet<()>,
}

/// A proxy in front of a vendor.
struct Gate {
    name: &'static str,
    vendor_url: String,
    /// The address that the controller uses.
    url: String,
    http: reqwest::Client,
    tap: Arc<Mutex<Arc<Tap>>>,
}

async fn forward(State(gate): State<Arc<Gate>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let url = format!("{}{}", gate.vendor_url, parts.uri);
    let mut call = gate.http.request(parts.method.clone(), url).body(body);
    for name in ["content-type", "authorization"] {
        if let Some(value) = parts.headers.get(name) {
            call = call.header(name, value);
        }
    }
    let answer = async {
        let answer = call.send().await.unwrap();
        let (status, date) = (answer.status(), answer.headers().get("date").cloned().unwrap());
        (status, [("date", date)], answer.bytes().await.unwrap()).into_response()
    };
    if parts.method == http::Method::GET {
        return answer.await;
    }
    let lost_answer = || {
        let mut response = Response::default();
        response.extensions_mut().insert(CloseWithoutResponse);
        response
    };
    let tap = gate.tap.lock().clone();
    let resource =
        parts.uri.path().split('/').next_back().filter(|step| *step == "secrets").unwrap_or_default();
    let space = if resource.is_empty() { "" } else { " " };
    tap.around(&format!("{}{space}{resource} at {}", parts.method, gate.name), answer, lost_answer).await
}

/// The final state of a scene, without values that differ in each run.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    /// The vendor's objects.
    pub objects: Vec<Value>,
    object: Option<Value>,
}

impl Scene {
    pub async fn new(vendor: &Vendor, foreign: Option<(&str, Value)>) -> Scene {
        let (mut serving, tap) = (JoinSet::new(), Arc::<Mutex<Arc<Tap>>>::default());
        let names: &[&'static str] = match vendor.api {
            Api::Kong(_) => &["Kong", "the other Kong"],
            Api::Auth0 => &["Auth0"],
        };
        let mut gates = Vec::new();
        for name in names {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let vendor_url = format!("http://{}", listener.local_addr().unwrap());
            match &vendor.api {
                Api::Kong(options) => {
                    let options = options.clone();
                    serving.spawn(async move {
                        serve_kong(listener, options, std::future::pending::<()>()).await.unwrap();
                    });
                }
                Api::Auth0 => {
                    serving.spawn(async move {
                        let options = Auth0Options::default();
                        serve_auth0(listener, options, std::future::pending::<()>()).await.unwrap();
                    });
                }
            }
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let gate = Arc::new(Gate { name, vendor_url, url, http: vendor.http.clone(), tap: tap.clone() });
            let router = axum::Router::new().fallback(forward).with_state(gate.clone());
            serving.spawn(serve(listener, router, std::future::pending::<()>()));
            gates.push(gate);
        }
        let is_kong = matches!(vendor.api, Api::Kong(_));
        let (double, egress, foreign_id) = (Double::new(), vendor.egress.clone(), String::new());
        let grace = if vendor.lags { GRACE_OF_LAGGING } else { GRACE };
        let mut scene =
            Scene { double, gates, tap, egress, foreign: foreign_id, is_kong, grace, _serving: serving };
        if let Some((path, body)) = foreign {
            scene.foreign = scene.create_foreign(path, body).await;
        }
        if vendor.lags {
            for gate in &scene.gates {
                let fault = json!({"lagMs": LAG_MS});
                let response =
                    vendor.http.post(format!("{}/__emulator/faults", gate.vendor_url)).json(&fault).send();
                assert_eq!(response.await.unwrap().status(), 201);
            }
        }
        scene
    }

    /// Creates an object at the vendor as another client would. Returns its id.
    async fn create_foreign(&self, path: &str, body: Value) -> String {
        let gate = &self.gates[0];
        let response = gate.http.post(format!("{}{path}", gate.vendor_url)).bearer_auth("any").json(&body);
        let response = response.send().await.unwrap();
        assert_eq!(response.status(), 201);
        response.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned()
    }

    pub fn foreign(&self) -> &str {
        &self.foreign
    }

    /// Applies the Connection to the first or the second vendor of the scene.
    pub fn connect(&self, to: usize) {
        let url = &self.gates[to].url;
        let limit = json!({"requests": 1000, "interval": "1s", "burst": 1000});
        let spec = if self.is_kong {
            json!({"kong": {"adminUrl": url}})
        } else {
            let token = json!({"name": "auth0", "key": "secret"});
            self.double.put_secret("auth0", "the-token");
            json!({"auth0": {"domain": url.trim_start_matches("http://"), "tokenSecretRef": token}, "rateLimit": limit})
        };
        self.double.apply(ResourceKind::Connection, "c", spec);
    }

    /// Returns the one object of the scene.
    pub fn object(&self) -> Option<Value> {
        let kinds = [ResourceKind::EventHook, ResourceKind::EventStream, ResourceKind::Hook];
        kinds.into_iter().find_map(|kind| self.double.get(kind, "o"))
    }

    /// Runs a controller until the tap stops it or `until` is done. Returns the points that it passed.
    pub async fn controller(&self, tap: Tap, until: impl Future<Output = ()>) -> Vec<String> {
        let tap = Arc::new(tap);
        *self.tap.lock() = tap.clone();
        let mut subscribers = Subscribers::default();
        let changes = subscribers.subscribe();
        let (view, watch) = self.double.watch(subscribers);
        let options = ControllerOptions {
            ingest_url: Some("http://worker.test:8080".parse().unwrap()),
            public_ingest_url: Some("https://worker.test/".parse().unwrap()),
            admin_ceiling: Rate { requests: 10_000, interval: Duration::from_secs(1), burst: 10_000 },
            deadlines: Deadlines { creation: self.grace, ..Deadlines::default() },
            ..ControllerOptions::default()
        };
        let cluster = Arc::new(Tapped { double: self.double.clone(), tap: tap.clone() });
        let metrics = Arc::new(Metrics::default());
        let http = self.egress.clone();
        let context = Context::new(cluster, view, http, options, metrics, Leadership::always());
        tokio::select! {
            () = controller::run(Arc::new(context), changes, CancellationToken::new()) => {}
            () = watch => {}
            () = tap.stopped() => {}
            () = until => {}
        }
        tap.points()
    }

    /// Waits until the Connection and the objects are ready.
    pub async fn connected(&self) {
        let is_ready = |double: &Double| {
            let connection = double.get(ResourceKind::Connection, "c").unwrap();
            condition(&connection, "Ready")["status"] == "True"
        };
        self.double.until(is_ready).await;
        self.settled(None, |_| true).await;
    }

    /// Waits until the scene has settled: the object is ready and current, or gone.
    pub async fn settled(&self, again: Option<fn(&Scene)>, is_done: impl Fn(&Value) -> bool) {
        if let Some(again) = again {
            let is_deleted = |double: &Double| {
                let kinds = [
                    ResourceKind::EventHook,
                    ResourceKind::EventStream,
                    ResourceKind::Hook,
                    ResourceKind::Connection,
                ];
                let objects = |kind| [double.get(kind, "o"), double.get(kind, "c")];
                kinds
                    .into_iter()
                    .flat_map(objects)
                    .flatten()
                    .all(|o| o["metadata"]["deletionTimestamp"].is_null())
            };
            self.double.until(is_deleted).await;
            // An earlier controller may have finished the action.
            if self.object().is_none() {
                again(self);
            }
        }
        let is_settled = |_: &Double| match self.object() {
            None => true,
            Some(object) => {
                condition(&object, "Ready")["status"] == "True"
                    && object["status"]["observedGeneration"] == object["metadata"]["generation"]
                    && object["metadata"]["deletionTimestamp"].is_null()
                    && object["metadata"]["annotations"].as_object().is_none_or(serde_json::Map::is_empty)
                    && is_done(&object)
            }
        };
        self.double.until(is_settled).await;
    }

    /// Returns the vendor's objects with their secrets: hooks of each Kong, or streams and hooks.
    async fn vendor_objects(&self) -> Vec<Value> {
        let mut objects = Vec::new();
        for gate in &self.gates {
            let answer = gate.http.get(format!("{}/__emulator/state", gate.vendor_url)).send().await.unwrap();
            let mut answer = answer.json::<Value>().await.unwrap();
            for list in ["streams", "hooks"] {
                let Value::Array(items) = answer[list].take() else { continue };
                objects.extend(items.into_iter().map(|item| json!({"at": gate.name, "item": item})));
            }
        }
        objects
    }

    pub async fn end(&self) -> End {
        let (mut objects, object) = (self.vendor_objects().await, self.object());
        if let Some(id) = object.as_ref().and_then(|object| object.pointer("/status/external/id")) {
            let exists = objects.iter().any(|object| object["item"]["id"] == *id);
            assert!(exists, "the status names {id}, and the vendor has {objects:#?}");
        }
        for entry in &mut objects {
            let item = entry["item"].as_object_mut().unwrap();
            let is_ours = item["id"] != self.foreign.as_str();
            for member in ["created_at", "updated_at", "history"] {
                item.remove(member);
            }
            item.insert("id".into(), json!(if is_ours { "ours" } else { "foreign" }));
        }
        objects.sort_by_key(ToString::to_string);
        let object = object.map(|object| {
            let (ready, mut applied) = (condition(&object, "Ready"), object["status"]["applied"].clone());
            if let Some(previous) = applied.get_mut("previous").and_then(Value::as_object_mut) {
                previous.remove("until");
            }
            let endpoint = object["status"]["external"]["endpoint"].as_str();
            let at = self.gates.iter().position(|gate| Some(gate.url.as_str()) == endpoint);
            json!({"finalizers": object["metadata"]["finalizers"],
                "annotations": object["metadata"]["annotations"].as_object().filter(|all| !all.is_empty()),
                "current": object["status"]["observedGeneration"] == object["metadata"]["generation"],
                "ready": [ready["status"], ready["reason"], ready["message"]], "at": at, "applied": applied,
                "shown": object["status"]["serverStatus"], "hashes": object["status"]["secretHashes"]})
        });
        End { objects, object }
    }
}
