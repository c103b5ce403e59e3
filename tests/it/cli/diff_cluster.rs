//! `hookstream diff --cluster` on a real API server.

use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::Process;
use crate::harness::manifests::merged;
use crate::harness::world::World;

/// Runs the command with manifests on standard input. Returns the exit code, standard output and standard error.
async fn diff(world: &World, kubeconfig: &str, objects: &[Value], more: &[&str]) -> (i32, String, String) {
    let mut args = vec!["diff", "-", "--cluster", "--operator-namespace", &world.home.name];
    args.extend(["--ingest-url", &world.ingest]);
    args.extend(more);
    let mut command = Process::command(args, &[("KUBECONFIG", kubeconfig)]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let documents: Vec<String> = objects.iter().map(ToString::to_string).collect();
    let manifests = documents.join("\n---\n");
    tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(manifests.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let [out, error] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (output.status.code().unwrap(), out, error)
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn shows_create_change_delete_and_unchanged() {
    let world = World::start("diff-cluster").await;
    // As kubectl prints Lists with namespaces, and kustomize builds without one: the context's namespace applies.
    let without_namespace = |mut object: Value| {
        object["metadata"].as_object_mut().unwrap().remove("namespace");
        object
    };
    let direct = |name: &str, extra: Value| {
        let spec = json!({"deliverBy": "Gateway", "delivery": null});
        without_namespace(world.hook_with(name, merged(spec, extra)))
    };
    let connection = without_namespace(world.connection());
    let relay = without_namespace(world.hook("relay"));
    let all = [connection.clone(), relay.clone(), direct("direct", json!({})), direct("gone", json!({}))];
    world.apply(&all).await;
    for name in ["relay", "direct", "gone"] {
        world.ready(&format!("eventhooks/{name}")).await;
    }

    // The user may read objects and Secrets of the namespace, and neither the key ring nor the operator's workloads.
    let rules = "[{apiGroups: [hookstream.dev], resources: [eventhooks, eventstreams, hooks, connections], verbs: [list]},
        {apiGroups: [''], resources: [secrets], verbs: [get]}]";
    let user = world.namespace.service_account("reviewer", rules).await;
    let user = user.to_str().unwrap();
    let namespace = world.home.name.as_str();
    let uid = world.kubectl(&["get", "namespace", namespace, "-o", "jsonpath={.metadata.uid}"]).await;
    let id = ["--installation-id", uid.trim()];

    let (code, out, error) = diff(&world, user, &all, &id).await;
    assert_eq!(code, 0, "{out}{error}");
    let last = |out: &str| out.lines().last().unwrap().to_owned();
    assert_eq!(last(&out), "Plan: 0 to create, 0 to change, 0 to delete, 3 unchanged", "{out}{error}");
    assert!(out.contains("not comparable here: config.secret"), "the derived secret: {out}");

    // The Connection is the cluster's, and so is its Secret.
    let changed = [relay, direct("direct", json!({"event": "routes"})), direct("new", json!({}))];
    let writes = world.kong.count("PUT", "").await + world.kong.count("POST", "").await;
    let (code, out, error) =
        diff(&world, user, &changed, &[&id[..], &["--prune", "-o", "json"]].concat()).await;
    assert_eq!(code, 1, "{out}{error}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["formatVersion"], 1);
    let rows = report["data"].as_array().unwrap();
    let row = |name: &str| rows.iter().find(|row| row["name"] == name).unwrap_or(&Value::Null);
    for (name, change) in
        [("relay", "unchanged"), ("direct", "update"), ("new", "create"), ("gone", "delete")]
    {
        assert_eq!(row(name)["change"], change, "{report:#}");
        assert_eq!(row(name)["namespace"], world.namespace.name.as_str(), "{report:#}");
    }
    let values = json!([{"field": "event", "old": "consumers", "new": "routes", "secret": false}]);
    assert_eq!(row("direct")["values"], values, "{report:#}");
    let gone = world.get("eventhooks/gone").await.unwrap();
    assert_eq!(row("gone")["id"], gone["status"]["external"]["id"], "{report:#}");
    let plan = json!({"create": 1, "change": 1, "delete": 2, "unchanged": 1, "differs": 0, "unknown": 0});
    assert_eq!(report["plan"], plan, "the Connection is in no file: {report:#}");

    // Only objects with the labels are pruned.
    let selected = [&id[..], &["--prune", "-l", "app=none", "-o", "markdown"]].concat();
    let (code, out, _) = diff(&world, user, &changed, &selected).await;
    assert_eq!(last(&out), "**Plan: 1 to create, 1 to change, 0 to delete, 1 unchanged**", "{out}");
    assert!(code == 1 && out.contains("| update | event | consumers | routes |"), "{out}");
    let after = world.kong.count("PUT", "").await + world.kong.count("POST", "").await;
    assert_eq!(writes, after, "diff writes nothing");

    // Mistakes are one line.
    let (code, _, error) = diff(&world, user, &changed, &["--data", "/tmp"]).await;
    assert!(code == 2 && error.contains("cannot be used with") && error.lines().count() == 1, "{error}");
    let stranger = world.namespace.service_account("stranger", "[]").await;
    let (code, _, error) = diff(&world, stranger.to_str().unwrap(), &changed, &id).await;
    assert!(
        code == 2 && error.contains("listing objects of kind EventHook") && error.lines().count() == 1,
        "{error}"
    );
}
