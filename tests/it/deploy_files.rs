//! What stands in `deploy/` works as it is: the samples are accepted and carried out by this version, and the accounts
//! may do what they need and no more.

use std::path::{Path, PathBuf};

use hookstream::api::EventHook;
use hookstream::core::hook::validate;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

use crate::harness::control_plane;

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

fn manifests(folder: &str) -> Vec<(String, String)> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(deploy(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    assert!(!files.is_empty(), "{folder} is empty");
    files
        .into_iter()
        .map(|path| (path.display().to_string(), std::fs::read_to_string(&path).unwrap()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sample_is_accepted_and_carried_out() {
    for folder in ["samples", "samples/quickstart"] {
        let namespace = control_plane().namespace("samples").await;
        for (path, text) in manifests(folder) {
            namespace.apply(&text).await.unwrap_or_else(|refused| panic!("{path}: {refused}"));
            for document in serde_saphyr::from_multiple::<Value>(&text).unwrap() {
                if document["kind"] == "EventHook" {
                    let hook: EventHook = serde_json::from_value(document).unwrap();
                    validate(&hook).unwrap_or_else(|not_built| panic!("{path}: {not_built}"));
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_accounts_may_do_what_they_need_and_no_more() {
    const HOME: &str = "hookstream-system";
    let base = deploy("base");
    let apply = ["apply", "--validate=strict", "-k", base.to_str().unwrap()];
    control_plane().kubectl(apply, "").await.unwrap();
    let shop = control_plane().namespace("shop").await;
    let publisher = std::fs::read_to_string(base.join("publisher-role.yaml")).unwrap();
    let publisher = publisher.replace("namespace: shop", &format!("namespace: {}", shop.name));
    shop.apply(&publisher).await.unwrap();

    let reviews: Api<SubjectAccessReview> = Api::all(shop.client().await);
    let may = async |account: &str, namespace: &str, what: &str| {
        let (verb, what) = what.split_once(' ').unwrap();
        let (what, name) = what.split_once('#').unwrap_or((what, ""));
        let mut parts = what.split('/');
        let mut part = || parts.next().unwrap_or_default();
        let review = json!({"spec": {
            "user": format!("system:serviceaccount:{account}"),
            "resourceAttributes": {"namespace": namespace, "verb": verb, "name": name,
                "group": part(), "resource": part(), "subresource": part()},
        }});
        let review = serde_json::from_value(review).unwrap();
        reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap().allowed
    };
    // What is asked (verb, group/resource/subresource#name), where, and whether controller and worker may. `run` may what either of them may.
    let table = [
        ("watch hookstream.dev/eventhooks", "other", true, true),
        ("list hookstream.dev/connections", "other", true, true),
        ("patch hookstream.dev/eventhooks", "other", true, false),
        ("patch hookstream.dev/connections", "other", true, false),
        ("patch hookstream.dev/eventhooks/status", "other", true, false),
        ("patch hookstream.dev/connections/status", "other", true, false),
        ("delete hookstream.dev/eventhooks", "other", false, false),
        ("create hookstream.dev/eventhooks", "other", false, false),
        ("update hookstream.dev/eventhooks", "other", false, false),
        ("get /secrets", "other", true, true),
        ("watch /secrets", "other", true, true),
        ("create /secrets", "other", false, false),
        ("update /secrets#hookstream-keys", HOME, false, false),
        ("get /secrets#hookstream-keys", HOME, true, true),
        ("create /secrets", HOME, true, false),
        ("delete /secrets#hookstream-keys", HOME, false, false),
        ("create events.k8s.io/events", "other", true, false),
        ("create authentication.k8s.io/tokenreviews", "other", false, true),
        ("create authorization.k8s.io/subjectaccessreviews", "other", false, true),
        ("get /pods", "other", false, false),
        ("get /configmaps", "other", false, false),
        ("create hookstream.dev/events", "other", false, false),
    ];
    for (what, namespace, controller, worker) in table {
        for (account, want) in [
            ("hookstream-controller", controller),
            ("hookstream-worker", worker),
            ("hookstream", controller || worker),
        ] {
            let found = may(&format!("{HOME}:{account}"), namespace, what).await;
            assert_eq!(found, want, "{account}: {what} in {namespace}");
        }
    }
    let publisher = format!("{}:shop", shop.name);
    assert!(may(&publisher, &shop.name, "create hookstream.dev/events").await);
    assert!(!may(&publisher, "default", "create hookstream.dev/events").await);
    assert!(!may(&publisher, &shop.name, "list hookstream.dev/eventhooks").await);
}
