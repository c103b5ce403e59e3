//! The console on an API that answers in part: bounded searches, changes whose later parts fail.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hookstream::cluster::files::{FileCluster, FileClusterOptions};
use hookstream::console::{self, ConsoleOptions};
use hookstream::worker::{ApiPort, LocalAccess};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower_service::Service;
use tracing_subscriber::fmt::MakeWriter;

use super::http::csrf;
use crate::harness::manifests::hook;
use crate::harness::watchdog;

const NAMESPACE: &str = "/console/namespaces/default";

/// The console on these routes of an API.
fn console(api: Router) -> Router {
    let folder = watchdog::unique_path("console");
    std::fs::create_dir_all(folder.join("data")).unwrap();
    std::fs::write(folder.join("all.yaml"), hook("h", "http://127.0.0.1:9/", json!({}))).unwrap();
    let cluster = FileCluster::open(FileClusterOptions {
        manifests: vec![folder.join("all.yaml")],
        data: folder.join("data"),
        prune: false,
        token: None,
    });
    let rights = || get(|| async { Json(json!({"rights": []})) });
    let api = api.route("/v1/rights", rights()).route("/v1/namespaces/{namespace}/rights", rights());
    let port = ApiPort { router: api, ingest: Arc::default(), stop: CancellationToken::new() };
    let options = ConsoleOptions {
        cluster: Arc::new(cluster.unwrap()),
        local_access: Some(Arc::new(LocalAccess::default())),
        is_tls: false,
        trusted_proxies: Vec::new(),
    };
    console::router(port, options)
}

async fn send(console: &Router, request: http::request::Builder, body: String) -> (u16, String) {
    let request = request.header("host", "localhost").body(axum::body::Body::from(body)).unwrap();
    let response = console.clone().call(request).await.unwrap();
    let status = response.status().as_u16();
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

async fn show(console: &Router, path: &str) -> (u16, String) {
    send(console, http::Request::get(path), String::new()).await
}

async fn submit(console: &Router, path: &str, fields: &[(&str, &str)]) -> (u16, String) {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let request = http::Request::post(path).header("content-type", "application/x-www-form-urlencoded");
    send(console, request, body).await
}

fn busy() -> Response {
    (http::StatusCode::SERVICE_UNAVAILABLE, Json(json!({"reason": "Busy", "detail": "the store is busy"})))
        .into_response()
}

/// Collects the log of one thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Log;

    fn make_writer(&self) -> Log {
        self.clone()
    }
}

impl Log {
    /// Returns the lines of actions.
    fn actions(&self) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["fields"].clone());
        lines.filter(|fields| fields["message"] == "console action").collect()
    }

    fn start(&self) -> tracing::subscriber::DefaultGuard {
        let subscriber = tracing_subscriber::fmt().json().with_writer(self.clone()).finish();
        tracing::subscriber::set_default(subscriber)
    }
}

/// An API that cancels 500 of 1,200 deliveries, and then fails.
async fn cancel(
    State(requests): State<Arc<AtomicUsize>>,
    uri: http::Uri,
    Json(body): Json<Value>,
) -> Response {
    if uri.query().is_some_and(|query| query.contains("dryRun")) {
        return Json(json!({"matching": 1200, "isExact": true})).into_response();
    }
    match requests.fetch_add(1, Ordering::SeqCst) {
        0 => Json(json!({"cancelled": 500, "continue": "t"})).into_response(),
        1 => {
            assert_eq!(body["continue"], "t");
            busy()
        }
        _ => busy(),
    }
}

#[tokio::test]
async fn cancellation_that_fails_later_shows_and_records_its_finished_part() {
    let log = Log::default();
    let _guard = log.start();
    let route = post(cancel).with_state(Arc::default());
    let console = console(Router::new().route("/v1/namespaces/default/deliveries/cancel", route));
    let (status, page) =
        show(&console, &format!("{NAMESPACE}/deliveries/matching?action=cancel&hook=h")).await;
    assert_eq!(status, 200, "{page}");
    assert!(page.contains("Cancel 1,200 deliveries?"), "{page}");
    let (token, target) = (csrf(&page), format!("{NAMESPACE}/deliveries/matching/cancel"));
    let (status, page) = submit(&console, &target, &[("csrf", &token), ("hook", "h")]).await;
    assert_eq!(status, 200, "{page}");
    assert!(page.contains("500 deliveries cancelled") && page.contains("the store is busy"), "{page}");
    assert!(page.contains("Cancel the rest"), "{page}");
    let actions = log.actions();
    let [begin, end] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((&begin["action"], &begin["result"]), (&json!("cancel"), &json!("started")));
    assert!(begin["object"].as_str().unwrap().contains(r#""hook":"h""#), "{begin}");
    assert_eq!(
        (&end["result"], &end["changed"], &end["failed"], &end["user"]),
        (&json!("Busy"), &json!(500), &json!(1), &json!("local"))
    );
    // Nothing was cancelled: the problem itself.
    let (status, page) = submit(&console, &target, &[("csrf", &token), ("hook", "h")]).await;
    assert!(status == 503 && page.contains("the store is busy"), "{page}");
}

#[tokio::test]
async fn replay_of_several_states_shows_the_started_ones_when_one_fails() {
    let replay = |Json(body): Json<Value>| async move {
        match body["state"].as_str() {
            Some("dead") => Json(json!({"id": "r-1"})).into_response(),
            _ => busy(),
        }
    };
    let log = Log::default();
    let _guard = log.start();
    let console = console(Router::new().route("/v1/namespaces/default/deliveries/replay", post(replay)));
    let token = csrf(&show(&console, &format!("{NAMESPACE}/send")).await.1);
    let fields = [("csrf", token.as_str()), ("state", "dead"), ("state", "dropped")];
    let (status, page) = submit(&console, &format!("{NAMESPACE}/deliveries/matching/replay"), &fields).await;
    assert_eq!(status, 200, "{page}");
    assert!(
        page.contains("The replay of dead deliveries has started.") && page.contains("the store is busy"),
        "{page}"
    );
    let actions = log.actions();
    assert_eq!((actions.len(), &actions[1]["result"]), (2, &json!("Busy")), "{actions:?}");
    // How many deliveries a replay changes is known when that ends: its id leads there.
    let end = (&actions[1]["started"], &actions[1]["replays"], &actions[1]["changed"]);
    assert_eq!(end, (&json!(1), &json!("r-1"), &Value::Null), "{actions:?}");
}

#[tokio::test]
async fn search_that_ended_early_says_how_far_it_looked() {
    let events = |uri: http::Uri| async move {
        let is_search = uri.query().is_some_and(|query| query.contains("text="));
        let items = match is_search {
            true => json!([]),
            false => json!([{"id": "e", "namespace": "default", "source": "s", "event": "e", "origin": "api",
                "time": "2026-11-22T06:00:00Z", "acceptedTime": "2026-11-22T06:00:00Z"}]),
        };
        Json(json!({"items": items, "continue": "older"}))
    };
    let hooks = || get(|| async { Json(json!({"items": [], "counts": {}})) });
    let api = Router::new().route("/v1/events", get(events)).route("/v1/hooks", hooks());
    let console = console(api);
    let (status, page) = show(&console, "/console/search?q=lost").await;
    assert_eq!(status, 200, "{page}");
    assert!(page.contains("Nothing found so far") && page.contains("2026-11-22 06:00:00 UTC"), "{page}");
    assert!(page.contains("continue=older") && page.contains("Search older events"), "{page}");
    assert!(!page.contains("No event has this text"), "{page}");
}

#[tokio::test]
async fn count_that_ended_early_does_not_say_that_nothing_matches() {
    for (is_exact, says_nothing) in [(true, true), (false, false)] {
        let count = move || async move { Json(json!({"matching": 0, "isExact": is_exact})) };
        let console = console(Router::new().route("/v1/namespaces/default/deliveries/cancel", post(count)));
        let (status, page) =
            show(&console, &format!("{NAMESPACE}/deliveries/matching?action=cancel&hook=h")).await;
        assert_eq!(status, 200, "{page}");
        assert_eq!(page.contains("Nothing matches."), says_nothing, "{page}");
        assert_eq!(page.contains("Cancel all deliveries that match"), !says_nothing, "{page}");
    }
}

/// The items of a list of the API with one event.
fn found(id: &str) -> Value {
    json!([{"id": id, "namespace": "default", "source": "s", "event": "e", "origin": "api",
        "time": "2026-11-22T06:00:00Z", "acceptedTime": "2026-11-22T06:00:00Z"}])
}

/// Returns the text that a request searches for.
fn searched(uri: &http::Uri) -> String {
    let query = uri.query().unwrap_or_default();
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    pairs.find(|(name, _)| name == "text").map(|(_, value)| value.into_owned()).unwrap_or_default()
}

#[tokio::test]
async fn search_for_a_part_of_the_text_follows_that_for_the_whole() {
    let hooks = || get(|| async { Json(json!({"items": [], "counts": {}})) });
    let in_namespace = |name: &str| format!("/v1/namespaces/default/{name}");
    // The id of one event is the last word; the data of another has the whole text.
    let events = |uri: http::Uri| async move {
        match searched(&uri).as_str() {
            "order 4711" => Json(json!({"items": found("whole")})),
            _ => Json(json!({"items": []})),
        }
    };
    let event = |uri: http::Uri| async move {
        match uri.path().ends_with("/4711") {
            true => Json(found("4711")[0].clone()).into_response(),
            false => (http::StatusCode::NOT_FOUND, Json(json!({"reason": "NotFound"}))).into_response(),
        }
    };
    let api = Router::new()
        .route(&in_namespace("events"), get(events))
        .route(&in_namespace("events/{id}"), get(event))
        .route(&in_namespace("hooks"), hooks())
        .route(&in_namespace("hooks/{name}"), get(|| async { http::StatusCode::NOT_FOUND }));
    let console_of_all = console(api);
    for (text, event) in [("order+4711", "whole"), ("why+4711", "4711")] {
        let request = http::Request::get(format!("{NAMESPACE}/search?q={text}")).header("host", "localhost");
        let request = request.body(axum::body::Body::empty()).unwrap();
        let response = console_of_all.clone().call(request).await.unwrap();
        assert_eq!(response.headers()["location"], format!("{NAMESPACE}/event?id={event}"), "{text}");
    }

    // The search for the whole text ended early: what has a part of it is not all there is.
    let events = |uri: http::Uri| async move {
        match searched(&uri).as_str() {
            "order 4711" => Json(json!({"items": [], "continue": "older"})),
            "4711" => Json(json!({"items": found("part")})),
            _ => Json(json!({"items": []})),
        }
    };
    let console = console(Router::new().route("/v1/events", get(events)).route("/v1/hooks", hooks()));
    let (status, page) = show(&console, "/console/search?q=order+4711").await;
    assert_eq!(status, 200, "{page}");
    assert!(page.contains("Nothing with the whole text was found so far"), "{page}");
    // The first search ended, a later one did not: that one goes on.
    let (status, page) = show(&console, "/console/search?q=order+4711%3F").await;
    assert_eq!(status, 200, "{page}");
    assert!(page.contains("Nothing with the whole text was found so far"), "{page}");
}
