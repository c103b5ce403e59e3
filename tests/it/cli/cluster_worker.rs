//! Commands with `--context`: they find the worker in the cluster and call it with a ServiceAccount's token. The API server is
//! a stand-in, which records the requests.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::IntoResponse;
use http::{HeaderMap, Method, StatusCode, Uri};
use serde_json::{Value, json};

use super::run_with;
use crate::harness::manifests::manifest;
use crate::harness::watchdog;

/// A request to the API server.
pub struct Recorded {
    pub line: String,
    headers: HeaderMap,
    body: Value,
}

/// A stand-in of the API server.
#[derive(Clone, Default)]
pub struct ApiServer {
    /// The answers to these paths, before all others.
    pub answers: Arc<Mutex<BTreeMap<String, (u16, Value)>>>,
    requests: Arc<Mutex<Vec<Recorded>>>,
    /// The names of the worker's Services; None: the user may not list them.
    pub services: Arc<Mutex<Option<Vec<&'static str>>>>,
}

impl ApiServer {
    pub async fn start(&self) -> PathBuf {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(handle).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let kubeconfig = json!({"apiVersion": "v1", "kind": "Config", "current-context": "other",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "u", "user": {"token": "of-the-user"}}],
            "contexts": [{"name": "prod", "context": {"cluster": "c", "user": "u", "namespace": "shop"}},
                {"name": "other", "context": {"cluster": "none", "user": "u"}}]});
        let path = watchdog::unique_path("kubeconfig");
        std::fs::write(&path, kubeconfig.to_string()).unwrap();
        path
    }

    pub fn lines(&self) -> Vec<String> {
        self.requests.lock().unwrap().drain(..).map(|request| request.line).collect()
    }
}

/// Returns an error of the API server.
pub fn failure(code: u16, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message, "reason": ""})
}

async fn handle(
    State(server): State<ApiServer>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> impl IntoResponse {
    let line = format!("{method} {uri}");
    let body = serde_json::from_slice(&body).unwrap_or_default();
    server.requests.lock().unwrap().push(Recorded { line, headers, body });
    let answer = server.answers.lock().unwrap().get(uri.path()).cloned();
    let (status, answer) = match uri.path() {
        _ if answer.is_some() => answer.unwrap(),
        "/api/v1/services" => match &*server.services.lock().unwrap() {
            None => (403, failure(403, "services is forbidden")),
            Some(names) => {
                let item = |name: &&str| {
                    json!({"metadata": {"namespace": "tools", "name": name},
                    "spec": {"ports": [{"name": "api", "port": 8082}]}})
                };
                let items: Vec<Value> = names.iter().map(item).collect();
                (200, json!({"kind": "ServiceList", "apiVersion": "v1", "metadata": {}, "items": items}))
            }
        },
        path if path.ends_with("/token") => {
            let status = json!({"token": "of-the-account", "expirationTimestamp": "2030-01-01T00:00:00Z"});
            (
                201,
                json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": {},
                "spec": {"audiences": ["hookstream"]}, "status": status}),
            )
        }
        path if path.ends_with("/deliveries") => (200, json!({"items": [], "continue": null})),
        _ => (404, failure(404, "not found")),
    };
    let content_type = [("content-type", "application/json")];
    (StatusCode::from_u16(status).unwrap(), content_type, answer.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn context_finds_worker_and_obtains_token() {
    let server = ApiServer::default();
    *server.services.lock().unwrap() = Some(vec!["hooks-api"]);
    let kubeconfig = server.start().await;
    let envs = [("KUBECONFIG", kubeconfig.to_str().unwrap())];
    let list = ["deliveries", "list", "--context", "prod"];
    let run = async |more: &[&str]| run_with(&[&list[..], more].concat(), &envs).await;

    let (code, out, error) = run(&["-o", "json"]).await;
    assert_eq!(code, 0, "{out}{error}");
    {
        let requests = server.requests.lock().unwrap();
        let [services, token, call] = &requests[..] else { panic!("{}", requests.len()) };
        assert!(services.line.starts_with("GET /api/v1/services?"), "{}", services.line);
        for label in ["app.kubernetes.io%2Fpart-of%3Dhookstream", "app.kubernetes.io%2Fcomponent%3Dapi"] {
            assert!(services.line.contains(label), "{}", services.line);
        }
        assert!(
            token.line.starts_with("POST /api/v1/namespaces/shop/serviceaccounts/hookstream-cli/token"),
            "{}",
            token.line
        );
        assert_eq!(token.body["spec"]["audiences"], json!(["hookstream"]));
        assert_eq!(token.body["spec"]["expirationSeconds"], 600);
        // The API server drops the Authorization header of the user and forwards the other one.
        let expected =
            "GET /api/v1/namespaces/tools/services/hooks-api:api/proxy/v1/namespaces/shop/deliveries";
        assert!(call.line.starts_with(expected), "{}", call.line);
        assert_eq!(call.headers["authorization"], "Bearer of-the-user");
        assert_eq!(call.headers["x-hookstream-token"], "of-the-account");
    }
    server.lines();

    let (code, _, error) = run(&["-n", "other", "--service-account", "support"]).await;
    assert_eq!(code, 0, "{error}");
    let lines = server.lines();
    assert!(lines[1].contains("/namespaces/other/serviceaccounts/support/token"), "{lines:?}");
    let token_file = watchdog::unique_path("token");
    std::fs::write(&token_file, "of-a-file").unwrap();
    let (code, _, error) = run(&["--token-file", token_file.to_str().unwrap()]).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(server.requests.lock().unwrap()[1].headers["x-hookstream-token"], "of-a-file");
    assert_eq!(server.lines().len(), 2, "no token is requested");

    // Without the right to list Services, the chart's default name is used.
    *server.services.lock().unwrap() = None;
    run(&[]).await;
    let lines = server.lines();
    assert!(
        lines[2].contains("/namespaces/hookstream-system/services/hookstream-api:api/proxy/"),
        "{lines:?}"
    );

    for (services, part) in [
        (vec![], "is Hookstream installed there? Name the Service with --service"),
        (
            vec!["a", "b"],
            "has several workers: name one with --service=NAMESPACE/NAME:PORT (tools/a:api, tools/b:api)",
        ),
    ] {
        *server.services.lock().unwrap() = Some(services);
        let (code, _, error) = run(&[]).await;
        assert!(code == 2 && error.contains(part) && error.contains("(context prod)"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    server.lines();

    // A kubeconfig alone changes nothing.
    let (code, _, error) = run_with(&["deliveries", "list", "-n", "shop"], &envs).await;
    assert!(code == 2 && error.contains("http://127.0.0.1:8082"), "{error}");
    assert!(server.lines().is_empty());
    let (code, _, error) = run_with(&["deliveries", "list", "--context", "dev"], &envs).await;
    assert!(code == 2 && error.contains("the kubeconfig has no such context; it has prod, other"), "{error}");
}

/// `test --event-id` reads the event from the worker of the context or of the profile, in the namespace of the hook.
#[tokio::test(flavor = "multi_thread")]
async fn stored_event_comes_from_the_chosen_worker() {
    let server = ApiServer::default();
    *server.services.lock().unwrap() = Some(vec!["hooks-api"]);
    let event = json!({"id": "e-1", "source": "s", "event": "e", "origin": "api", "time": "2026-11-22T06:43:22Z", "data": {"n": 2}});
    let path = "/api/v1/namespaces/tools/services/hooks-api:api/proxy/v1/namespaces/billing/events/e-1";
    server.answers.lock().unwrap().insert(path.to_owned(), (200, event));
    let kubeconfig = server.start().await;
    let folder = watchdog::unique_path("stored-event");
    std::fs::create_dir_all(&folder).unwrap();
    let spec = json!({"source": "s", "handler": {"log": {}}});
    let content = json!({"metadata": {"namespace": "billing"}, "spec": spec});
    let hook = folder.join("hook.yaml");
    std::fs::write(&hook, manifest("hookstream.dev/v1alpha1", "EventHook", "h", content)).unwrap();
    let envs = [("KUBECONFIG", kubeconfig.to_str().unwrap()), ("XDG_CONFIG_HOME", folder.to_str().unwrap())];
    let test = ["test", "-f", hook.to_str().unwrap(), "--event-id", "e-1", "--dry-run"];
    let profile = ["config", "set-profile", "prod", "--context", "prod", "--service-account", "support"];
    assert_eq!(run_with(&profile, &envs).await.0, 0);
    for (flags, account) in [(["--context", "prod"], "hookstream-cli"), (["--profile", "prod"], "support")] {
        let (code, out, error) = run_with(&[&test[..], &flags].concat(), &envs).await;
        assert!(code == 0 && out.contains("\"n\":2"), "{flags:?}: {out}{error}");
        let lines = server.lines();
        let token = format!("POST /api/v1/namespaces/billing/serviceaccounts/{account}/token");
        assert!(
            lines[1].starts_with(&token) && lines[2].starts_with(&format!("GET {path}?payload=true")),
            "{lines:?}"
        );
    }
    let (code, _, error) =
        run_with(&[&test[..], &["--context", "prod", "-n", "other"]].concat(), &envs).await;
    assert!(
        code == 2 && error.contains("/v1/namespaces/other/events/e-1") && error.lines().count() == 1,
        "{error}"
    );
}

/// A profile chooses the cluster of the commands that read objects, as of those that call the worker.
#[tokio::test(flavor = "multi_thread")]
async fn profile_chooses_the_cluster_of_objects() {
    let server = ApiServer::default();
    let kubeconfig = server.start().await;
    let home = watchdog::unique_path("profile");
    std::fs::create_dir_all(&home).unwrap();
    let envs = [("KUBECONFIG", kubeconfig.to_str().unwrap()), ("XDG_CONFIG_HOME", home.to_str().unwrap())];
    assert_eq!(run_with(&["config", "set-profile", "prod", "--context", "prod"], &envs).await.0, 0);
    assert_eq!(run_with(&["config", "use-profile", "prod"], &envs).await.0, 0);
    let hook = home.join("hook.yaml");
    let spec = json!({"spec": {"source": "s", "handler": {"log": {}}}});
    std::fs::write(&hook, manifest("hookstream.dev/v1alpha1", "EventHook", "h", spec)).unwrap();
    for (args, path) in [
        (&["orphans"][..], "/apis/hookstream.dev/v1alpha1/connections?"),
        // The namespace is that of the profile's context.
        (&["diff", hook.to_str().unwrap(), "--cluster"], "/apis/hookstream.dev/v1alpha1/namespaces/shop/"),
    ] {
        let (code, _, error) = run_with(args, &envs).await;
        assert!(code == 2 && error.lines().count() == 1, "{args:?}: {error}");
        let lines = server.lines();
        assert!(
            lines.iter().any(|line| line.starts_with(&format!("GET {path}"))),
            "{args:?}: {lines:?}{error}"
        );
    }
}
