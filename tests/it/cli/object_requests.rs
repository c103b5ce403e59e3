//! `hookstream reconcile`, `suspend` and `resume` on a real API server.

use serde_json::{Value, json};

use super::run_with;
use crate::harness::objects::condition;
use crate::harness::world::World;

/// The rights that the help texts name.
const RULES: &str = "[{apiGroups: [hookstream.dev], resources: [eventhooks, eventstreams, hooks, connections], verbs: [get, patch]}]";

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_executed_and_awaited() {
    let world = World::start("requests").await;
    let labelled = |mut object: Value| {
        object["metadata"]["labels"] = json!({"kustomize.toolkit.fluxcd.io/name": "apps"});
        object
    };
    world.apply(&[world.connection(), world.hook("plain"), labelled(world.hook("managed"))]).await;
    let user = world.namespace.service_account("operator-user", RULES).await;
    let user = user.to_str().unwrap();
    let run = async |args: &[&str]| run_with(args, &[("KUBECONFIG", user)]).await;
    world.ready("eventhooks/plain").await;

    // The namespace is the one of the kubeconfig's context.
    let (code, out, error) = run(&["reconcile", "evh/plain", "--wait"]).await;
    let title = format!("EventHook {}/plain", world.namespace.name);
    assert_eq!(code, 0, "{out}{error}");
    assert!(
        out.starts_with(&format!("{title}: reconcile requested\n{title}: Ready is True (Synced): ")),
        "{out}"
    );
    assert!(
        error.starts_with("hookstream: target: the cluster https://") && error.lines().count() == 1,
        "{error}"
    );
    let object = world.get("eventhooks/plain").await.unwrap();
    let annotation = &object["metadata"]["annotations"]["hookstream.dev/reconcileRequestedAt"];
    assert_eq!(annotation, &object["status"]["handled"]["reconcileRequestedAt"], "{object:#}");

    let (code, out, error) = run(&["suspend", "eventhook/plain", "-n", &world.namespace.name]).await;
    assert_eq!((code, out), (0, format!("{title}: suspended\n")), "{error}");
    assert!(!error.contains("warning"), "{error}");
    world.until("eventhooks/plain", "suspended", |o| condition(o, "Suspended")["status"] == "True").await;
    let (code, out, _) = run(&["suspend", "evh/plain"]).await;
    assert_eq!((code, out), (0, format!("{title} is suspended already\n")));
    let (code, _, error) = run(&["reconcile", "evh/plain"]).await;
    assert!(code == 2 && error.contains("`hookstream resume eventhook/plain` first"), "{error}");

    let (code, out, error) = run(&["resume", "evh/plain", "--wait"]).await;
    assert_eq!(code, 0, "{out}{error}");
    let object = world.get("eventhooks/plain").await.unwrap();
    assert!(object["spec"].get("suspend").is_none(), "{object:#}");
    assert!(condition(&object, "Suspended").is_null(), "{object:#}");
    let (code, out, _) = run(&["resume", "evh/plain"]).await;
    assert!(code == 0 && out.starts_with(&format!("{title} is not suspended")), "{out}");

    let (code, _, error) = run(&["suspend", "evh/managed"]).await;
    assert!(code == 0 && error.contains("warning: Flux (Kustomization apps) manages EventHook"), "{error}");

    let (code, _, error) = run(&["resume", "evh/plain", "--after-failure"]).await;
    assert_eq!(code, 0, "{error}");
    let object = world.get("eventhooks/plain").await.unwrap();
    assert!(object["metadata"]["annotations"]["hookstream.dev/resume"].is_string(), "{object:#}");

    for (args, part) in [
        (&["reconcile", "evh/missing"][..], "/missing does not exist in the cluster https://"),
        (&["suspend", "conn/kong"], "a Connection cannot be suspended"),
        (&["suspend", "pod/x"], "there is no kind 'pod'"),
        (&["suspend", "evh/plain", "-n", "kube-system"], "cannot get resource"),
    ] {
        let (code, _, error) = run(args).await;
        assert!(code == 2 && error.contains(part) && error.lines().count() == 1, "{args:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_reports_an_object_that_is_not_ready() {
    let world = World::start("requests-stalled").await;
    let stalled = json!({"deliverBy": "Gateway", "handler": {"webhook": null,
        "lambda": {"functions": ["return function() return true end"]}}});
    world.apply(&[world.connection(), world.hook_with("stalled", stalled)]).await;
    world.stalled("eventhooks/stalled", "HandlerNotAllowed").await;
    let user = world.namespace.service_account("operator-user", RULES).await;
    let envs = [("KUBECONFIG", user.to_str().unwrap())];
    let (code, out, error) = run_with(&["reconcile", "evh/stalled", "--wait"], &envs).await;
    assert_eq!(code, 1, "{out}{error}");
    assert!(out.contains("Ready is False (") && out.contains("gatewayHandlers"), "{out}");
}
