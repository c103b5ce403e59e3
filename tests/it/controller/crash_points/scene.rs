//! A cluster, a vendor, and a gate between them that loses answers. They outlive the controllers.

use std::collections::BTreeSet;
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
    /// One gate, or three for Kong: the third is another address of the first gateway.
    gates: Vec<Arc<Gate>>,
    tap: Arc<Mutex<Arc<Tap>>>,
    egress: HttpClient,
    /// The vendor's id of the object that another client created.
    foreign: String,
    is_kong: bool,
    /// How long a controller waits for a created object to be visible.
    grace: Duration,
    /// How long a controller waits for usable credentials.
    pub credentials_deadline: Duration,
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
    /// The tokens that it received.
    tokens: Mutex<BTreeSet<String>>,
}

/// The token of every Kong, and the one that only the second Kong accepts.
pub const TOKEN: &str = "token-of-both";
const OTHER_TOKEN: &str = "token-of-the-other";

async fn forward(State(gate): State<Arc<Gate>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let token = parts.headers.get("kong-admin-token").and_then(|token| token.to_str().ok());
    gate.tokens.lock().extend(token.map(ToOwned::to_owned));
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
    /// The copy of the object, if there is one.
    copy: Option<Value>,
}

impl Scene {
    pub async fn new(vendor: &Vendor, foreign: Option<(&str, Value)>) -> Scene {
        let (mut serving, tap) = (JoinSet::new(), Arc::<Mutex<Arc<Tap>>>::default());
        let names: &[&'static str] = match vendor.api {
            Api::Kong(_) => &["Kong", "the other Kong", "Kong by another name"],
            Api::Auth0 => &["Auth0"],
        };
        let mut gates: Vec<Arc<Gate>> = Vec::new();
        for name in names {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut vendor_url = format!("http://{}", listener.local_addr().unwrap());
            match &vendor.api {
                Api::Kong(_) if gates.len() == 2 => vendor_url = gates[0].vendor_url.clone(),
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
            let (http, tap, tokens) = (vendor.http.clone(), tap.clone(), Mutex::default());
            let gate = Arc::new(Gate { name, vendor_url, url, http, tap, tokens });
            let router = axum::Router::new().fallback(forward).with_state(gate.clone());
            serving.spawn(serve(listener, router, std::future::pending::<()>()));
            gates.push(gate);
        }
        let is_kong = matches!(vendor.api, Api::Kong(_));
        let (double, egress, foreign_id) = (Double::new(), vendor.egress.clone(), String::new());
        let grace = if vendor.lags { GRACE_OF_LAGGING } else { GRACE };
        let credentials_deadline = Deadlines::default().credentials;
        let foreign_object = foreign;
        let foreign = foreign_id;
        let mut scene = Scene {
            double,
            gates,
            tap,
            egress,
            foreign,
            is_kong,
            grace,
            credentials_deadline,
            _serving: serving,
        };
        if let Some((path, body)) = foreign_object {
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

    /// Applies the Connection to an address of the scene.
    pub fn connect(&self, to: usize) {
        self.connect_with(to, TOKEN);
    }

    /// Applies the Connection to the second Kong, with a token that only that one accepts.
    pub fn connect_with_other_token(&self) {
        self.connect_with(1, OTHER_TOKEN);
    }

    fn connect_with(&self, to: usize, token: &str) {
        let url = &self.gates[to].url;
        let limit = json!({"requests": 1000, "interval": "1s", "burst": 1000});
        let spec = if self.is_kong {
            self.double.put_secret("kong", token);
            json!({"kong": {"adminUrl": url, "tokenSecretRef": {"name": "kong", "key": "secret"}}})
        } else {
            let token = json!({"name": "auth0", "key": "secret"});
            self.double.put_secret("auth0", "the-token");
            json!({"auth0": {"domain": url.trim_start_matches("http://"), "tokenSecretRef": token}, "rateLimit": limit})
        };
        self.double.apply(ResourceKind::Connection, "c", spec);
    }

    /// Returns the object of the scene.
    pub fn object(&self) -> Option<Value> {
        self.find("o")
    }

    fn find(&self, name: &str) -> Option<Value> {
        let kinds = [ResourceKind::EventHook, ResourceKind::EventStream, ResourceKind::Hook];
        kinds.into_iter().find_map(|kind| self.double.get(kind, name))
    }

    /// True if there is no copy of the object, or if a controller has handled it.
    fn is_copy_settled(&self) -> bool {
        self.find("copy").is_none_or(|copy| {
            copy["metadata"]["deletionTimestamp"].is_null()
                && copy["metadata"]["annotations"]["hookstream.dev/pending-create"].is_null()
                && copy["status"]["observedGeneration"] == copy["metadata"]["generation"]
                && (condition(&copy, "Ready")["status"] == "True"
                    || condition(&copy, "Stalled")["status"] == "True")
        })
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
            deadlines: Deadlines {
                creation: self.grace,
                credentials: self.credentials_deadline,
                ..Deadlines::default()
            },
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
        // The object is where the Connection leads, as far as the object names a place.
        let is_in_place = |object: &Value, double: &Double| {
            let connection = double.get(ResourceKind::Connection, "c").unwrap_or_default();
            let url = &connection["spec"]["kong"]["adminUrl"];
            let endpoint = &object["status"]["external"]["endpoint"];
            url.is_null() || (endpoint == url && object["status"]["formerLocations"].is_null())
        };
        let is_settled = |double: &Double| match self.object() {
            None => self.is_copy_settled(),
            Some(object) => {
                condition(&object, "Ready")["status"] == "True"
                    && object["status"]["observedGeneration"] == object["metadata"]["generation"]
                    && object["metadata"]["deletionTimestamp"].is_null()
                    && object["metadata"]["annotations"]["hookstream.dev/pending-create"].is_null()
                    && self.is_copy_settled()
                    && is_in_place(&object, double)
                    && is_done(&object)
            }
        };
        self.double.until(is_settled).await;
    }

    /// Returns the vendor's objects with their secrets: hooks of each Kong, or streams and hooks.
    async fn vendor_objects(&self) -> Vec<Value> {
        let mut objects = Vec::new();
        // The third gate leads to the first Kong.
        for gate in self.gates.iter().take(2) {
            let answer = gate.http.get(format!("{}/__emulator/state", gate.vendor_url)).send().await.unwrap();
            let mut answer = answer.json::<Value>().await.unwrap();
            for list in ["streams", "hooks"] {
                let Value::Array(items) = answer[list].take() else { continue };
                objects.extend(items.into_iter().map(|item| json!({"at": gate.name, "item": item})));
            }
        }
        objects
    }

    /// Fails if an object of ours is neither where a status says nor reported.
    fn assert_nothing_is_left_unreported(&self, what: &str, objects: &[Value], object: Option<&Value>) {
        let copy = self.find("copy");
        let externals: Vec<&Value> = [object, copy.as_ref()]
            .into_iter()
            .flatten()
            .filter_map(|object| object.pointer("/status/external"))
            .collect();
        for entry in objects.iter().filter(|entry| entry["item"]["id"] != self.foreign.as_str()) {
            let id = entry["item"]["id"].as_str().unwrap();
            let vendor = &self.gates.iter().find(|gate| entry["at"] == gate.name).unwrap().vendor_url;
            let addresses: Vec<&str> = self
                .gates
                .iter()
                .filter(|gate| gate.vendor_url == *vendor)
                .map(|gate| gate.url.as_str())
                .collect();
            let is_named = externals.iter().any(|external| {
                external["id"] == id && addresses.iter().any(|address| external["endpoint"] == *address)
            });
            let is_reported = addresses.iter().any(|address| self.double.is_reported(id, address));
            assert!(
                is_named || is_reported,
                "{what}: {id} at {} is left and not reported; events: {:#?}; object: {object:#?}",
                entry["at"],
                self.double.events()
            );
        }
    }

    /// Returns what remains. `what` names the run in messages.
    pub async fn end(&self, what: &str) -> End {
        let (mut objects, object) = (self.vendor_objects().await, self.object());
        if let Some(id) = object.as_ref().and_then(|object| object.pointer("/status/external/id")) {
            let exists = objects.iter().any(|object| object["item"]["id"] == *id);
            assert!(exists, "the status names {id}, and the vendor has {objects:#?}");
        }
        self.assert_nothing_is_left_unreported(what, &objects, object.as_ref());
        for gate in self.gates.iter().filter(|gate| gate.name != "the other Kong") {
            assert!(
                !gate.tokens.lock().contains(OTHER_TOKEN),
                "the token of the other Kong reached {}",
                gate.name
            );
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
                "is marked": is_marked(&object),
                "current": object["status"]["observedGeneration"] == object["metadata"]["generation"],
                "ready": [ready["status"], ready["reason"], ready["message"]], "at": at, "applied": applied,
                "shown": object["status"]["serverStatus"], "hashes": object["status"]["secretHashes"]})
        });
        let copy = self.find("copy").map(|copy| {
            let ready = condition(&copy, "Ready");
            // Not the message, which contains the vendor's id.
            json!({"finalizers": copy["metadata"]["finalizers"], "ready": [ready["status"], ready["reason"]]})
        });
        End { objects, object, copy }
    }
}

/// Returns the id of the external object that the ownership marker names.
fn marked_id(object: &Value) -> Option<Value> {
    let marker = object["metadata"]["annotations"]["hookstream.dev/owned-object"].as_str()?;
    let marker: Value = serde_json::from_str(marker).unwrap();
    assert_eq!(marker["uid"], object["metadata"]["uid"], "the marker of another object: {object:#}");
    Some(marker["id"].clone())
}

/// Returns true if the object has an ownership marker for the external object in its status.
pub fn is_marked(object: &Value) -> bool {
    marked_id(object).is_some_and(|id| object["status"]["external"]["id"] == id)
}
