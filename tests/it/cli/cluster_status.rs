//! `hookstream status` in a cluster whose worker cannot be reached. The API server is a stand-in.

use serde_json::{Value, json};

use super::cluster_worker::{ApiServer, failure};
use super::run_with;

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/tools/leases";
const STATUS: &str = "/api/v1/namespaces/tools/services/hooks-api:api/proxy/v1/namespaces/shop/status";

fn list(kind: &str, items: &[Value]) -> (u16, Value) {
    let kind = format!("{kind}List");
    (200, json!({"kind": kind, "apiVersion": "hookstream.dev/v1alpha1", "metadata": {}, "items": items}))
}

fn object(kind: &str, name: &str, conditions: &[(&str, &str, &str)], status: Value) -> Value {
    let condition = |(kind, value, reason): &(&str, &str, &str)| {
        json!({"type": kind, "status": value, "reason": reason, "message": format!("message of {reason}"),
            "observedGeneration": 1, "lastTransitionTime": "2026-11-22T06:43:22Z"})
    };
    let mut status = status;
    status["conditions"] = conditions.iter().map(condition).collect();
    json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": kind, "status": status, "spec": {},
        "metadata": {"name": name, "namespace": "shop", "generation": 1}})
}

fn lease(name: &str, holder: &str) -> Value {
    json!({"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": {"name": name, "namespace": "tools"},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": "2099-01-01T00:00:00.000000Z"}})
}

/// Answers lists of objects in this folder of the API.
fn serve_objects(server: &ApiServer, objects: &str) {
    let hooks = [
        object("EventHook", "broken", &[("Ready", "False", "ConnectionMissing")], json!({})),
        object(
            "EventHook",
            "failing",
            &[("Ready", "True", "Ready"), ("Delivering", "False", "ReceiverFailing")],
            json!({"delivery": {"pending": 7}}),
        ),
    ];
    let connections = [object("Connection", "kong", &[("Ready", "True", "Ready")], json!({}))];
    let mut answers = server.answers.lock().unwrap();
    answers.insert(format!("{objects}/connections"), list("Connection", &connections));
    answers.insert(format!("{objects}/eventhooks"), list("EventHook", &hooks));
    answers.insert(format!("{objects}/eventstreams"), list("EventStream", &[]));
    answers.insert(format!("{objects}/hooks"), (403, failure(403, "hooks is forbidden")));
}

#[tokio::test(flavor = "multi_thread")]
async fn shows_the_cluster_without_a_worker() {
    let server = ApiServer::default();
    *server.services.lock().unwrap() = Some(vec!["hooks-api"]);
    let unavailable = failure(503, "no endpoints available for service \"hooks-api\"");
    server.answers.lock().unwrap().insert(STATUS.to_owned(), (503, unavailable));
    let kubeconfig = server.start().await;
    let envs = [("KUBECONFIG", kubeconfig.to_str().unwrap())];
    let status = ["status", "--context", "prod"];
    let run = async |more: &[&str]| run_with(&[&status[..], more].concat(), &envs).await;

    // The API server has no object of ours: only the failure is left to report.
    let (code, out, error) = run(&[]).await;
    assert!(code == 2 && out.is_empty() && error.contains("no endpoints available"), "{out}{error}");
    assert_eq!(error.lines().count(), 1, "{error}");

    serve_objects(&server, "/apis/hookstream.dev/v1alpha1/namespaces/shop");
    // That of another release in the namespace, whose Lease has the same words, does not count.
    for (name, holder) in [("hooks-controller", "hookstream-0"), ("hookstream-controller", "another-0")] {
        let path = format!("{LEASES}/{name}");
        server.answers.lock().unwrap().insert(path, (200, lease(name, holder)));
    }
    let (code, out, error) = run(&[]).await;
    assert_eq!((code, error.as_str()), (1, ""), "{out}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "status   unwell (namespace shop)", "{out}");
    assert!(
        lines[2].starts_with("worker   cannot be reached: ") && lines[2].contains("no endpoints"),
        "{out}"
    );
    assert_eq!(lines[3], "leader   hookstream-0", "{out}");
    assert!(lines[4].starts_with("cluster  listing hooks: hooks is forbidden (403)"), "{out}");
    for part in [
        "Connection shop/kong",
        "EventHook shop/broken",
        "ConnectionMissing",
        "shop/failing",
        "ReceiverFailing",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }

    let (code, out, _) = run(&["-o", "json"]).await;
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["healthy"], &report["worker"]), (1, &json!(false), &json!(null)), "{report:#}");
    assert!(report["workerProblem"].as_str().is_some_and(|why| !why.contains('\n')), "{report:#}");
    assert_eq!(report["leader"]["holder"], "hookstream-0");
    let lists = &report["cluster"];
    assert_eq!(lists["connections"]["items"][0]["name"], "kong", "{report:#}");
    assert_eq!(lists["notReady"]["items"].as_array().unwrap().len(), 1, "{report:#}");
    assert_eq!(lists["notDelivering"]["items"][0]["pending"], 7, "{report:#}");

    // A wait ends at its time with the same screen.
    let (code, out, _) = run(&["--wait", "1ms"]).await;
    assert!(code == 1 && out.contains("cannot be reached"), "{out}");

    // Without the Lease of this release, that of another one is no answer.
    server.answers.lock().unwrap().remove(&format!("{LEASES}/hooks-controller"));
    let (_, out, _) = run(&[]).await;
    assert!(out.contains("leader   unknown: reading the Lease hooks-controller: "), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn shows_the_cluster_without_a_service() {
    let server = ApiServer::default();
    *server.services.lock().unwrap() = Some(Vec::new());
    let kubeconfig = server.start().await;
    let envs = [("KUBECONFIG", kubeconfig.to_str().unwrap())];
    serve_objects(&server, "/apis/hookstream.dev/v1alpha1");
    let leases = json!({"kind": "LeaseList", "apiVersion": "coordination.k8s.io/v1", "metadata": {},
        "items": [lease("hookstream-controller", "hookstream-0")]});
    let path = "/apis/coordination.k8s.io/v1/leases".to_owned();
    server.answers.lock().unwrap().insert(path, (200, leases));
    let (code, out, error) = run_with(&["status", "--context", "prod", "-A"], &envs).await;
    assert_eq!((code, error.as_str()), (1, ""), "{out}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "status   unwell (all namespaces)", "{out}");
    assert!(lines[2].starts_with("worker   cannot be reached: ") && lines[2].contains("no Service"), "{out}");
    assert_eq!(lines[3], "leader   hookstream-0", "{out}");
    assert!(out.contains("EventHook shop/broken"), "{out}");
}
