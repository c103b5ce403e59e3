//! `deploy/gitops`: Argo CD and Flux accept the objects, and Argo CD's health script agrees with the objects' status. The
//! script runs in Lua 5.1's dialect, as at Argo CD.

use mlua::Lua;
use serde_json::{Value, json};

use super::pages::root;
use crate::harness::auth0_objects::{connect, stream};
use crate::harness::world::World;
use crate::harness::{Auth0, control_plane, eventually, tool};

/// Applies deploy/gitops with the CRDs of Argo CD and Flux and with strict validation.
#[tokio::test(flavor = "multi_thread")]
async fn argo_cd_and_flux_accept_examples() {
    // kubectl does not follow links to other folders.
    let definitions = tool("gitops").canonicalize().unwrap();
    let apply = ["apply", "--server-side", "-f", definitions.to_str().unwrap()];
    control_plane().kubectl(apply, "").await.unwrap();
    for name in ["argocd", "flux-system"] {
        control_plane().kubectl(["create", "namespace", name], "").await.unwrap();
    }
    let folder = root().join("deploy/gitops");
    let apply = ["apply", "--server-side", "--validate=strict", "-R", "-f", folder.to_str().unwrap()];
    // The condition Established is set a moment before the API server serves the resource.
    let applied = async || control_plane().kubectl(apply, "").await;
    let output = eventually(crate::harness::DEADLINE, "the examples to be accepted", applied).await;
    for name in [
        "application.argoproj.io/shop-hooks",
        "gitrepository.source.toolkit.fluxcd.io/platform",
        "helmrelease.helm.toolkit.fluxcd.io/hookstream",
        "kustomization.kustomize.toolkit.fluxcd.io/shop-hooks",
        "configmap/argocd-cm",
    ] {
        assert!(output.contains(name), "{name} was not applied:\n{output}");
    }
}

/// Returns the health that Argo CD would show of an object.
fn health(data: &Value, object: &Value) -> (String, String) {
    let kind = object["kind"].as_str().unwrap();
    let script = data[format!("resource.customizations.health.hookstream.dev_{kind}")].as_str().unwrap();
    let lua = Lua::new();
    lua.globals().set("obj", table(&lua, object)).unwrap();
    let health: mlua::Table = lua.load(script).eval().unwrap();
    (health.get("status").unwrap(), health.get("message").unwrap())
}

/// Converts JSON as Argo CD does for a script.
fn table(lua: &Lua, value: &Value) -> mlua::Value {
    let text = |text: &str| mlua::Value::String(lua.create_string(text).unwrap());
    match value {
        Value::Null => mlua::Value::Nil,
        Value::Bool(is) => mlua::Value::Boolean(*is),
        Value::Number(number) => mlua::Value::Number(number.as_f64().unwrap()),
        Value::String(string) => text(string),
        Value::Array(items) => {
            mlua::Value::Table(lua.create_sequence_from(items.iter().map(|item| table(lua, item))).unwrap())
        }
        Value::Object(members) => {
            let members = members.iter().map(|(name, value)| (text(name), table(lua, value)));
            mlua::Value::Table(lua.create_table_from(members).unwrap())
        }
    }
}

/// Statuses of every kind and state, as the controller writes them.
#[tokio::test(flavor = "multi_thread")]
async fn argo_cd_health_of_real_objects() {
    let text = std::fs::read_to_string(root().join("deploy/gitops/argocd/argocd-cm.yaml")).unwrap();
    let data = serde_saphyr::from_str::<Value>(&text).unwrap()["data"].clone();
    let world = World::start("argo").await;
    let auth0 = Auth0::start(&[]).await;
    connect(&world, &auth0).await;
    world
        .apply(&[
            world.connection(),
            world.hook("synced"),
            world.hook_with("waits", json!({"connectionRef": {"name": "missing"}})),
            world.hook_with(
                "stalled",
                json!({"deliverBy": "Gateway", "handler": {"webhook": null,
                "lambda": {"functions": ["return function() return true end"]}}}),
            ),
            world.hook_with("suspended", json!({"suspend": true})),
            stream("users", json!({"worker": {}})),
            crate::harness::auth0_objects::hook("claims", json!({})),
        ])
        .await;
    for (path, expected_status, expected) in [
        ("connections/kong", "Healthy", ""),
        ("connections/auth0", "Healthy", ""),
        ("eventhooks/synced", "Healthy", ""),
        ("eventhooks/waits", "Progressing", "missing"),
        ("eventhooks/stalled", "Degraded", "gatewayHandlers"),
        ("eventhooks/suspended", "Suspended", "suspend"),
        ("eventstreams/users", "Healthy", ""),
        ("hooks/claims", "Healthy", ""),
    ] {
        eventually(crate::harness::DEADLINE, &format!("{path} to be {expected_status}"), async || {
            let object = world.get(path).await?;
            let (status, message) = health(&data, &object);
            if status == expected_status && message.contains(expected) && !message.is_empty() {
                Ok(())
            } else {
                Err(format!("{status}: {message}\n{object:#}"))
            }
        })
        .await;
    }
}

#[test]
fn argo_cd_health_of_statuses() {
    let text = std::fs::read_to_string(root().join("deploy/gitops/argocd/argocd-cm.yaml")).unwrap();
    let config: Value = serde_saphyr::from_str(&text).unwrap();
    let data = config["data"].as_object().unwrap();
    let ready = |status: &str, reason: &str| {
        format!("{{type = 'Ready', status = '{status}', reason = '{reason}', message = 'm'}}")
    };
    let stalled = |status: &str| format!("{{type = 'Stalled', status = '{status}', message = 'why'}}");
    let cases = [
        ("nil".to_owned(), "Progressing"),
        ("{observedGeneration = 1}".to_owned(), "Progressing"),
        (format!("{{observedGeneration = 1, conditions = {{{}}}}}", ready("True", "Synced")), "Progressing"),
        (
            format!(
                "{{observedGeneration = 2, conditions = {{{}, {}}}}}",
                ready("True", "Synced"),
                stalled("False")
            ),
            "Healthy",
        ),
        (
            format!(
                "{{observedGeneration = 2, conditions = {{{}, {}}}}}",
                ready("False", "Rejected"),
                stalled("True")
            ),
            "Degraded",
        ),
        (
            format!(
                "{{observedGeneration = 2, conditions = {{{}, {}}}}}",
                ready("False", "Unreachable"),
                stalled("False")
            ),
            "Progressing",
        ),
    ];
    for crd in hookstream::api::crds() {
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
        let script = data[&format!("resource.customizations.health.hookstream.dev_{kind}")].as_str().unwrap();
        assert!(
            data.contains_key(&format!(
                "resource.customizations.ignoreResourceUpdates.hookstream.dev_{kind}"
            )),
            "{kind}"
        );
        for (status, expected_status) in &cases {
            let lua = Lua::new();
            lua.load(format!("obj = {{metadata = {{generation = 2}}, status = {status}}}")).exec().unwrap();
            let health: mlua::Table = lua.load(script).eval().unwrap();
            assert_eq!(health.get::<String>("status").unwrap(), *expected_status, "{kind}: {status}");
        }
    }
}

/// The statuses that differ by the condition Delivering, and whether the hook is healthy if it counts.
fn delivering_cases() -> Vec<(Value, bool)> {
    let status = |delivering: Value| {
        json!({"observedGeneration": 2, "conditions": [
            {"type": "Ready", "status": "True", "reason": "Synced", "message": "m"},
            {"type": "Stalled", "status": "False", "reason": "Synced", "message": ""}, delivering]})
    };
    let condition = |status: &str, reason: &str| json!({"type": "Delivering", "status": status, "reason": reason, "message": "why"});
    vec![
        (status(json!({"type": "Other", "status": "False", "reason": "x", "message": ""})), true),
        (status(condition("True", "Delivering")), true),
        (status(condition("False", "Paused")), true),
        (status(condition("False", "ReceiverFailing")), false),
    ]
}

#[test]
fn argo_cd_can_count_deliveries() {
    let text = std::fs::read_to_string(root().join("deploy/gitops/argocd/argocd-cm.yaml")).unwrap();
    let counting = text.replace("local count_delivering = false", "local count_delivering = true");
    assert_ne!(text, counting);
    for (text, counts) in [(text, false), (counting, true)] {
        let data = serde_saphyr::from_str::<Value>(&text).unwrap()["data"].clone();
        for (status, is_healthy) in delivering_cases() {
            let object = json!({"kind": "EventHook", "metadata": {"generation": 2}, "status": status});
            let (health, message) = health(&data, &object);
            let expected = if is_healthy || !counts { "Healthy" } else { "Degraded" };
            assert_eq!(health, expected, "{counts}: {object}");
            assert!(health == "Healthy" || message == "ReceiverFailing: why", "{message}");
        }
    }
}

/// The expressions of docs/install.md, which Flux evaluates in this order.
#[test]
fn flux_can_count_deliveries() {
    let text = std::fs::read_to_string(root().join("docs/install.md")).unwrap();
    let snippet = text.split("```yaml\n").find(|part| part.starts_with("healthCheckExprs:")).unwrap();
    let spec: Value = serde_saphyr::from_str(snippet.split("```").next().unwrap()).unwrap();
    let expressions = &spec["healthCheckExprs"][0];
    let evaluate = |name: &str, object: &Value| -> bool {
        let program = cel::Program::compile(expressions[name].as_str().unwrap()).unwrap();
        let mut context = cel::Context::default();
        for variable in ["metadata", "status"] {
            context.add_variable(variable, &object[variable]).unwrap();
        }
        match program.execute(&context).unwrap() {
            cel::Value::Bool(result) => result,
            other => panic!("{name}: {other:?}"),
        }
    };
    let health = |object: &Value| {
        ["inProgress", "failed", "current"].into_iter().find(|name| evaluate(name, object)).unwrap_or("none")
    };
    for (status, is_healthy) in delivering_cases() {
        let object = json!({"metadata": {"generation": 2}, "status": status});
        assert_eq!(health(&object), if is_healthy { "current" } else { "failed" }, "{object}");
    }
    for (status, expected) in [
        (json!({}), "inProgress"),
        (json!({"observedGeneration": 1, "conditions": []}), "inProgress"),
        (json!({"observedGeneration": 2, "conditions": [{"type": "Ready", "status": "False"}]}), "none"),
        (
            json!({"observedGeneration": 2, "conditions": [{"type": "Ready", "status": "False"}, {"type": "Stalled", "status": "True"}]}),
            "failed",
        ),
    ] {
        let object = json!({"metadata": {"generation": 2}, "status": status});
        assert_eq!(health(&object), expected, "{object}");
    }
}
