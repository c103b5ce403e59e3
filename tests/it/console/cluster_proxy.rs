//! `hookstream console` in front of a worker in a cluster: through the API server, with a token of a ServiceAccount, and with
//! changes of objects under the user's kubeconfig. A receiver stands for the worker, so that its requests can be read.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::proxy::{Console, redirect, text};
use crate::harness::manifests::hook;
use crate::harness::worker::{Service, own_address};
use crate::harness::{DEADLINE, Namespace, Process, Receiver, Reply, control_plane, eventually};

const PAGE: &str = "<a href=\"/console/events?id=a%2Fb\">a/b</a> &amp; <b>\u{e9}</b>";

/// A page as the console sends it behind the proxy.
fn page() -> Reply {
    Reply::status(200).header("content-type", "application/vnd.hookstream.console-page").body(PAGE)
}

/// A namespace with a Service that leads to the receiver, and with an account for the proxy's tokens.
async fn serve(hint: &str, ip: IpAddr, receiver: &Receiver) -> Namespace {
    let namespace = control_plane().namespace(hint).await;
    namespace.service_account("viewer", "[]").await;
    Service { name: "worker-api", ip, api: receiver.address().port(), ingest: None }.create(&namespace).await;
    namespace
}

/// The rights of a user of `hookstream console`.
fn rights(more: &Value) -> String {
    let mut rules = vec![
        json!({"apiGroups": [""], "resources": ["services/proxy"], "verbs": ["get", "create"]}),
        json!({"apiGroups": [""], "resources": ["serviceaccounts/token"], "resourceNames": ["viewer"], "verbs": ["create"]}),
    ];
    rules.extend(more.as_array().unwrap().iter().cloned());
    Value::from(rules).to_string()
}

/// Returns the value of a hidden field.
fn field(page: &str, name: &str) -> String {
    let start = page.split(&format!("name=\"{name}\" value=\"")).nth(1);
    start.unwrap_or_else(|| panic!("no field {name}: {page}")).split('"').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an address other than loopback: make test runs it where there is one"]
async fn console_through_the_api_server_needs_address() {
    let ip = own_address().expect("an address other than loopback");
    let receiver = Receiver::start_at((ip, 0).into(), |_, _| page());
    let namespace = serve("console", ip, &receiver).await;
    let name = namespace.name.clone();
    let edit =
        json!([{"apiGroups": ["hookstream.dev"], "resources": ["eventhooks"], "verbs": ["get", "patch"]}]);
    let user = namespace.service_account("user", &rights(&edit)).await;
    let service = format!("--service={name}/worker-api:api");
    let args = ["-n", &name, &service, "--service-account", "viewer"];
    let envs = [("KUBECONFIG", user.to_str().unwrap())];
    // Until the API server uses the endpoints, the command fails.
    eventually(DEADLINE, "the API server to use the endpoints", async || {
        let all = [&["deliveries", "list", "--output", "json"], &args[..]].concat();
        let process = Process::spawn(all, &envs);
        process.wait(DEADLINE).await;
        if receiver.requests().is_empty() { Err(process.log()) } else { Ok(()) }
    })
    .await;
    let console = Console::start(&args, &envs).await;
    let cookie = console.open().await;
    let start = console.get("/", &cookie).send().await.unwrap();
    assert_eq!(redirect(&start), (303, format!("/console/namespaces/{name}").as_str()));

    // Pages arrive as the worker sent them, although the API server rewrites HTML and redirects.
    let response = console.get("/console/hooks?q=%3Cscript%3E", &cookie).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8");
    assert_eq!(response.text().await.unwrap(), PAGE);
    receiver.script(|_, _| {
        let redirect = Reply::status(303).header("location", "/console/events?id=a%2Fb");
        redirect.header("hookstream-console-location", "/console/events?id=a%2Fb")
    });
    let response = console.post("/console/replay", &cookie).body("a=b").send().await.unwrap();
    assert_eq!(redirect(&response), (303, "/console/events?id=a%2Fb"));

    // The worker gets the ServiceAccount's token for its audience, and nothing of the kubeconfig.
    let forwarded = receiver.requests().pop().unwrap();
    assert_eq!(forwarded.path, "/console/replay");
    let token = forwarded.header("x-hookstream-token").to_owned();
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["sub"], format!("system:serviceaccount:{name}:viewer"));
    assert_eq!(claims["aud"], json!(["hookstream"]));
    assert!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap() <= 3607, "{claims}");
    for request in receiver.requests() {
        assert_eq!(request.header("authorization"), "");
        let user_token = std::fs::read_to_string(&user).unwrap();
        let sent = format!("{:?}", request.headers);
        let leaked =
            sent.split('"').any(|value| value.len() > 100 && value != token && user_token.contains(value));
        assert!(!leaked, "a credential of the kubeconfig reached the worker");
    }

    // A token that the worker rejects is replaced.
    let rejections = AtomicUsize::new(0);
    receiver.script(move |_, _| match rejections.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::status(401),
        _ => page(),
    });
    let before = receiver.requests().len();
    assert_eq!(text(console.get("/console/", &cookie)).await, (200, PAGE.to_owned()));
    assert_eq!(receiver.requests().len(), before + 2);

    // A page's form has the key that the proxy sent along.
    let key = receiver.requests().pop().unwrap().header("hookstream-console-proxy").to_owned();
    assert_eq!(key.len(), 43);
    namespace.apply(&hook("orders", "https://receiver.example/", json!({}))).await.expect("the hook");
    let paused = async || {
        namespace.kubectl(&["get", "evh", "orders", "-o", "jsonpath={.spec.delivery.paused}"]).await.unwrap()
    };
    let form = |action: &str, key: &str, more: &str| {
        let fields = format!(
            "proxy_token={key}&kind=EventHook&namespace={name}&name=orders&return=%2Fconsole%2Fhooks%3Fa%3Db{more}"
        );
        console.post(&format!("/console/-/{action}"), &cookie).body(fields)
    };
    let (status, body) = text(form("pause", "wrong", "&confirm=yes")).await;
    assert!(status == 403 && body.contains("load its page again"), "{status}: {body}");
    let (status, body) = text(form("pause", &key, "")).await;
    assert!(status == 200 && body.contains("If a GitOps tool applies this object"), "{status}: {body}");
    assert_eq!(paused().await, "", "a confirmation changes nothing");
    assert_eq!((field(&body, "proxy_token"), field(&body, "confirm")), (key.clone(), "yes".to_owned()));
    let response = form("pause", &key, "&confirm=yes").send().await.unwrap();
    assert_eq!(redirect(&response), (303, "/console/hooks?a=b&done=paused"));
    assert_eq!(paused().await, "true");
    let response = form("resume", &key, "&confirm=yes").send().await.unwrap();
    assert_eq!(response.status(), 303);
    assert_eq!(paused().await, "");

    let labels = ["label", "evh", "orders", "kustomize.toolkit.fluxcd.io/name=apps"];
    namespace.kubectl(&labels).await.expect("a label");
    let (_, body) = text(form("pause", &key, "")).await;
    assert!(body.contains("Flux (Kustomization apps) manages this object and may revert"), "{body}");
    let response = form("reconcile", &key, "&confirm=yes").send().await.unwrap();
    assert_eq!(response.status(), 303);
    let annotations = ["get", "evh", "orders", "-o", "jsonpath={.metadata.annotations}"];
    let annotations = namespace.kubectl(&annotations).await.unwrap();
    assert!(annotations.contains("hookstream.dev/reconcileRequestedAt"), "{annotations}");
    let requests = receiver.requests();
    assert!(requests.iter().all(|request| !request.path.contains("/-/")), "actions are not forwarded");

    // The worker ends: one sentence on a page.
    drop(receiver);
    let (status, body) = text(console.get("/console/", &cookie)).await;
    assert!(status == 502 && body.contains("cannot be reached"), "{status}: {body}");
    assert_eq!(console.process.terminate().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an address other than loopback: make test runs it where there is one"]
async fn console_without_rights_needs_address() {
    let ip = own_address().expect("an address other than loopback");
    let receiver = Receiver::start_at((ip, 0).into(), |_, _| page());
    let namespace = serve("norights", ip, &receiver).await;
    let name = namespace.name.clone();
    let stranger = namespace.service_account("stranger", "[]").await;
    let viewer = namespace.service_account("looks", &rights(&json!([]))).await;
    let service = format!("--service={name}/worker-api:api");
    let run = async |kubeconfig: &std::path::Path, args: &[&str]| {
        let all = [&["console", "--no-open", "--listen", "127.0.0.1:0", "-n", &name], args].concat();
        let process = Process::spawn(all, &[("KUBECONFIG", kubeconfig.to_str().unwrap())]);
        let status = process.wait(DEADLINE).await;
        let log = process.log();
        assert!(status.code() == Some(2) && log.lines().count() == 1, "{status}: {log}");
        log
    };
    let log = run(&stranger, &[&service, "--service-account", "viewer"]).await;
    assert!(log.contains("requesting a token of ServiceAccount") && log.contains("(403)"), "{log}");
    let log = run(&stranger, &[&service]).await;
    assert!(log.contains("cannot be reached") && log.contains("(403)"), "{log}");
    let missing = format!("--service={name}/nothing:api");
    let log = run(&viewer, &[&missing, "--service-account", "viewer"]).await;
    assert!(log.contains("nothing") && log.contains("(404)"), "{log}");

    // The right to read does not include the right to change.
    let args = ["-n", &name, &service, "--service-account", "viewer"];
    let envs = [("KUBECONFIG", viewer.to_str().unwrap())];
    eventually(DEADLINE, "the API server to use the endpoints", async || {
        let all = [&["deliveries", "list", "--output", "json"], &args[..]].concat();
        Process::spawn(all, &envs).wait(DEADLINE).await;
        if receiver.requests().is_empty() { Err("no request".to_owned()) } else { Ok(()) }
    })
    .await;
    let console = Console::start(&args, &envs).await;
    let cookie = console.open().await;
    let key = receiver.requests().pop().unwrap().header("hookstream-console-proxy").to_owned();
    let form = format!("proxy_token={key}&kind=EventHook&namespace={name}&name=orders&confirm=yes");
    let (status, body) = text(console.post("/console/-/pause", &cookie).body(form)).await;
    assert!(status == 502 && body.contains("(403)") && body.contains("ask for a Role"), "{status}: {body}");
}
