//! Both charts: install, use, upgrade, rollback and uninstall, on an empty cluster.

use serde_json::{Value, json};

use super::installation::{HOME, Installed, SHOP, helm_test};
use crate::harness::helm::{RELEASE, token};
use crate::harness::{DEADLINE, Kong, Receiver, Reply, eventually, free_port};

#[tokio::test(flavor = "multi_thread")]
async fn install_use_upgrade_rollback_uninstall() {
    let it = Installed::start(json!({"controller": {"resyncInterval": "1s"}})).await;
    let [_, _, worker_ops, controller_ops] = it.ports;

    // Without the CRDs the pods run, are not ready, and name the missing CRDs.
    let worker = it.run("statefulset", "hookstream-worker", worker_ops).await;
    let controller = it.run("deployment", "hookstream-controller", controller_ops).await;
    for ops in [worker_ops, controller_ops] {
        eventually(DEADLINE, "readiness to name the missing CRDs", async || {
            let (status, text) = it.readiness(ops).await?;
            let missing = ["eventhooks.hookstream.dev", "connections.hookstream.dev"];
            let is_named = status == 503 && missing.iter().all(|name| text.contains(name));
            if is_named { Ok(()) } else { Err(text) }
        })
        .await;
    }
    it.definitions("install").await.unwrap();
    it.ready(worker_ops).await;
    it.ready(controller_ops).await;
    // The second replica is a standby.
    let standby_ops = free_port();
    let standby = it.run("deployment", "hookstream-controller", standby_ops).await;
    it.ready(standby_ops).await;

    // An applied hook becomes ready; events of Kong and of a client with the publisher's role are delivered.
    let kong = Kong::start(&[]).await;
    let receiver = Receiver::start(|_, _| Reply::status(200));
    it.apply_hooks(&kong, &receiver).await;
    assert_eq!(kong.emit("crud", "consumers", json!({"operation": "create"})).await, 1);
    receiver.wait_for(1, DEADLINE).await;
    let shop = token(&it.cluster, SHOP, "shop", Some("hookstream")).await;
    assert_eq!(it.publish(&shop).await, 403);
    let bind =
        ["create", "rolebinding", "shop", "--clusterrole=hookstream-publisher", "--serviceaccount=shop:shop"];
    it.shop(&bind).await;
    let shop = token(&it.cluster, SHOP, "shop", Some("hookstream")).await;
    assert_eq!(it.publish(&shop).await, 202);
    let paths: Vec<String> = receiver.wait_for(2, DEADLINE).await.into_iter().map(|r| r.path).collect();
    assert_eq!(paths, ["/relayed", "/published"]);
    helm_test(&it).await;

    // An upgrade without a change writes nothing.
    let versions_before = it.versions().await;
    assert!(versions_before.len() > 10, "{versions_before:#?}");
    it.helm("upgrade", &it.values).await.unwrap();
    it.definitions("upgrade").await.unwrap();
    assert_eq!(it.versions().await, versions_before);

    // An upgrade with a change and its rollback keep the objects.
    let hooks = it.shop(&["get", "evh,conn", "-o", "jsonpath={.items[*].metadata.uid}"]).await;
    let debug = crate::harness::manifests::merged(it.values.clone(), json!({"log": {"level": "debug"}}));
    it.helm("upgrade", &debug).await.unwrap();
    let args = async || {
        it.live("statefulset", "hookstream-worker").await["spec"]["template"]["spec"]["containers"][0]["args"]
            .to_string()
    };
    assert!(args().await.contains("--log-level=debug"));
    it.cluster.helm(["rollback", RELEASE, "-n", HOME]).await.unwrap();
    assert!(args().await.contains("--log-level=info"));
    assert_eq!(it.shop(&["get", "evh,conn", "-o", "jsonpath={.items[*].metadata.uid}"]).await, hooks);

    // The check rejects an uninstall while hooks exist at Kong, and names the command to run.
    let (result, log) = it.uninstall().await;
    assert!(result.is_err(), "{result:?}");
    assert!(log.contains("eventhook shop/relayed") && log.contains("hookstream release --all"), "{log}");
    assert!(!log.contains("shop/published"), "it has no external object: {log}");
    it.shop(&["delete", "evh/relayed", "conn/kong", "--timeout=30s"]).await;
    assert_eq!(kong.hooks().await, Vec::<Value>::new());
    let (result, log) = it.uninstall().await;
    result.unwrap_or_else(|e| panic!("{e}\n{log}"));
    for process in [controller, standby, worker] {
        assert!(process.terminate().await.success());
    }

    // The CRDs and the objects stay, even when the release of the CRDs is uninstalled.
    it.cluster.helm(["uninstall", "hookstream-crds", "-n", HOME]).await.unwrap();
    assert!(it.shop(&["get", "evh", "-o", "name"]).await.contains("published"));
    let remaining = it
        .cluster
        .kubectl(
            [
                "get",
                "all,sa,role,rolebinding,clusterrole,clusterrolebinding",
                "-A",
                "-o",
                "name",
                "-l",
                "app.kubernetes.io/managed-by=Helm",
            ],
            "",
        )
        .await
        .unwrap();
    assert_eq!(remaining, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn combined_role_is_limited_to_named_namespaces() {
    let it = Installed::start(
        json!({"mode": "combined", "scope": {"namespaces": [SHOP]}, "requireSecretLabel": true}),
    )
    .await;
    it.definitions("install").await.unwrap();
    let [_, _, ops, _] = it.ports;
    let both = it.run("statefulset", "hookstream-worker", ops).await;
    it.ready(ops).await;
    let kong = Kong::start(&[]).await;
    let receiver = Receiver::start(|_, _| Reply::status(200));
    it.apply_hooks(&kong, &receiver).await;
    assert_eq!(kong.emit("crud", "consumers", json!({"operation": "create"})).await, 1);
    receiver.wait_for(1, DEADLINE).await;

    // No other rights: not to Secrets and hooks of other namespaces, and no writes beyond its purpose.
    let is_allowed = async |verb: &str, resource: &str, namespace: &str| {
        let account_flag = format!("--as=system:serviceaccount:{HOME}:hookstream");
        // kubectl exits with 1 for the answer `no`.
        it.cluster
            .kubectl(["auth", "can-i", verb, resource, "-n", namespace, &account_flag], "")
            .await
            .is_ok()
    };
    for (verb, resource, namespace, expected) in [
        ("get", "secrets", SHOP, true),
        ("get", "secrets", "default", false),
        ("list", "secrets", "default", false),
        ("list", "eventhooks.hookstream.dev", "default", false),
        ("list", "eventhooks.hookstream.dev", SHOP, true),
        ("create", "secrets", SHOP, false),
        ("update", "secrets", SHOP, false),
        ("delete", "eventhooks.hookstream.dev", SHOP, false),
        ("get", "pods", SHOP, false),
        ("get", "secrets/hookstream-keys", HOME, true),
        ("get", "secrets/other", HOME, false),
        ("create", "tokenreviews.authentication.k8s.io", SHOP, true),
        ("get", "namespaces/shop", "default", true),
        ("get", "namespaces/default", "default", false),
    ] {
        assert_eq!(is_allowed(verb, resource, namespace).await, expected, "{verb} {resource} in {namespace}");
    }
    assert!(both.terminate().await.success());
}
