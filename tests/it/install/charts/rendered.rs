//! The charts rendered with many values: accepted by the API server, deterministic, restricted, with valid flags.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::matrix::{database, matrix};
use crate::harness::helm::{chart, find, objects, pod_templates, template, template_text};
use crate::harness::objects::documents;
use crate::harness::{DEADLINE, Process, control_plane, eventually, tool};

/// Applies the CRDs of prometheus-operator and gateway-api and waits until they are served.
async fn foreign_definitions() {
    // kubectl does not follow links to other folders.
    let folder = tool("crds").canonicalize().unwrap();
    let apply = ["apply", "--server-side", "-f", folder.to_str().unwrap()];
    control_plane().kubectl(apply, "").await.unwrap();
    let crds = [
        "servicemonitors.monitoring.coreos.com",
        "prometheusrules.monitoring.coreos.com",
        "podmonitors.monitoring.coreos.com",
        "certificates.cert-manager.io",
        "httproutes.gateway.networking.k8s.io",
    ];
    let wait = ["wait", "--for=condition=Established", "--timeout=30s", "crd"];
    // kubectl fails on a CRD without conditions.
    let wait = async || control_plane().kubectl(wait.iter().chain(&crds), "").await;
    eventually(DEADLINE, "the CRDs of other projects", wait).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn helm_lint_passes() {
    for name in ["hookstream", "hookstream-crds"] {
        let chart = chart(name);
        control_plane()
            .helm(["lint", "--strict", chart.to_str().unwrap()])
            .await
            .unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn api_server_accepts_rendered_objects() {
    foreign_definitions().await;
    let home = control_plane().namespace("chart").await;
    let (a, b) = (control_plane().namespace("chart-a").await, control_plane().namespace("chart-b").await);
    let mut kinds = BTreeSet::new();
    for values in matrix() {
        // The namespaces of this test replace `a` and `b`.
        let text = values.to_string().replace(r#"["a","b"]"#, &json!([a.name, b.name]).to_string());
        let text = text.replace("elsewhere", &b.name);
        let text = text.replace(r#""namespaces":["a"]"#, &format!(r#""namespaces":["{}"]"#, a.name));
        let values: Value = serde_json::from_str(&text).unwrap();
        let manifest = template_text(control_plane(), &home.name, &values).await.unwrap();
        // GitOps tools render repeatedly and compare.
        assert_eq!(manifest, template_text(control_plane(), &home.name, &values).await.unwrap(), "{values}");
        let all = objects(&manifest);
        kinds.extend(all.iter().map(|object| object["kind"].as_str().unwrap().to_owned()));
        // Helm 4 applies on the server's side, which rejects a list with duplicate keys.
        let apply = [
            "apply",
            "--server-side",
            "--dry-run=server",
            "--validate=strict",
            "--force-conflicts",
            "-f",
            "-",
        ];
        control_plane().kubectl(apply, &documents(&all)).await.unwrap_or_else(|e| panic!("{values}: {e}"));
    }
    for kind in [
        "Ingress",
        "HTTPRoute",
        "NetworkPolicy",
        "ServiceMonitor",
        "PrometheusRule",
        "PodDisruptionBudget",
        "Role",
        "PodMonitor",
        "Certificate",
    ] {
        assert!(kinds.contains(kind), "no values render a {kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_meet_restricted_standard() {
    let home = control_plane().namespace("restricted").await;
    let enforce = "pod-security.kubernetes.io/enforce=restricted";
    home.kubectl(&["label", "namespace", &home.name, enforce]).await.unwrap();
    let create = async |template: &Value| {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "pod-", "namespace": home.name}});
        pod["spec"] = template["spec"].clone();
        // The StatefulSet controller adds these.
        let mounts = pod["spec"]["containers"][0]["volumeMounts"].to_string();
        if let Some(volumes) = pod["spec"]["volumes"].as_array_mut()
            && mounts.contains("/var/lib/hookstream")
            && !volumes.iter().any(|volume| volume["name"] == "data")
        {
            volumes.push(json!({"name": "data", "persistentVolumeClaim": {"claimName": "data"}}));
        }
        control_plane().kubectl(["create", "--dry-run=server", "-f", "-"], &pod.to_string()).await
    };
    let has_class =
        |v: &Value| ["controller", "worker"].iter().any(|role| !v[role]["priorityClassName"].is_null());
    for values in matrix().into_iter().filter(|values| !has_class(values)) {
        let templates = pod_templates(&template(control_plane(), &home.name, &values).await);
        assert!(templates.len() >= 3, "{values}");
        for (name, template) in templates {
            create(&template).await.unwrap_or_else(|error| panic!("{name} with {values}: {error}"));
        }
    }
    let loose = json!({"securityContext": {"allowPrivilegeEscalation": true}});
    let (_, template) = pod_templates(&template(control_plane(), &home.name, &loose).await).remove(0);
    let error = create(&template).await.unwrap_err();
    assert!(error.contains("violates PodSecurity"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flag_exists() {
    for values in matrix() {
        for (name, template) in pod_templates(&template(control_plane(), "home", &values).await) {
            let args = template["spec"]["containers"][0]["args"].as_array().unwrap();
            // With `--help` after the rendered arguments the program only parses its flags.
            let args = args.iter().map(|arg| arg.as_str().unwrap()).chain(["--help"]);
            let output = Process::command(args, &[]).output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{name} with {values}: {error}");
        }
    }
}

/// With egress rules of the user, only the worker may reach the collector too.
#[tokio::test(flavor = "multi_thread")]
async fn network_policy_permits_the_collector() {
    let peers = json!([{"namespaceSelector": {"matchLabels": {"name": "observability"}}}]);
    let rules = json!([{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]);
    let egress = async |endpoint: &str, to: &Value| {
        let values = json!({"networkPolicy": {"enabled": true, "egress": rules},
            "worker": {"traces": {"endpoint": endpoint, "networkPolicyTo": to}}});
        let all = template(control_plane(), "home", &values).await;
        ["worker", "controller"]
            .map(|role| find(&all, "NetworkPolicy", &format!("hookstream-{role}"))["spec"]["egress"].clone())
    };
    for (endpoint, port) in [
        ("http://otel.observability:4318", 4318),
        ("https://otel.example.com/otlp", 443),
        ("http://otel", 80),
    ] {
        let [worker, controller] = egress(endpoint, &peers).await;
        let rule = json!({"ports": [{"port": port, "protocol": "TCP"}], "to": peers});
        assert_eq!(worker, json!([rules[0], rule]), "{endpoint}");
        assert_eq!(controller, rules, "{endpoint}");
    }
    assert_eq!(egress("", &json!([])).await, [rules.clone(), rules.clone()]);
    let values = json!({"worker": {"traces": {"headersSecret": {"name": "otlp"}}}});
    let error = template_text(control_plane(), "home", &values).await.unwrap_err();
    assert!(error.contains("worker.traces.headersSecret needs worker.traces.endpoint"), "{error}");
}

/// Two releases in one namespace, each for other namespaces, use their own Leases and may not write the other's.
#[tokio::test(flavor = "multi_thread")]
async fn each_release_has_its_own_lease() {
    for (release, values, expected) in [
        ("hookstream", json!({}), "hookstream-controller"),
        ("second", json!({}), "second-hookstream-controller"),
        ("second", json!({"controller": {"lease": {"name": "mine"}}, "mode": "combined"}), "mine"),
    ] {
        let (chart, file) = (chart("hookstream"), crate::harness::helm::values_file(&values));
        let args = ["template", release, chart.to_str().unwrap(), "-n", "home", "-f", &file];
        let all = objects(&control_plane().helm(args).await.unwrap());
        let role = all
            .iter()
            .find(|o| o["kind"] == "Role" && o["metadata"]["name"].as_str().unwrap().ends_with("-lease"));
        assert_eq!(role.unwrap()["rules"][1]["resourceNames"], json!([expected]));
        // The worker reads it, to show the leader.
        let role = all.iter().find(|o| {
            o["kind"] == "Role" && o["metadata"]["name"].as_str().unwrap().ends_with("-lease-read")
        });
        let rule = &role.unwrap()["rules"][0];
        assert_eq!((&rule["resourceNames"], &rule["verbs"]), (&json!([expected]), &json!(["get"])));
        let flag = json!(format!("--lease-name={expected}"));
        for (name, template) in pod_templates(&all) {
            let args = template["spec"]["containers"][0]["args"].as_array().unwrap().clone();
            let is_role =
                args.iter().any(|arg| ["run", "controller", "worker"].iter().any(|role| arg == role));
            let count = args.iter().filter(|arg| **arg == flag).count();
            assert_eq!(count, usize::from(is_role), "{release} {name}: {args:?}");
        }
    }
}

/// A key ring that is managed elsewhere needs no right to create Secrets; renamed ServiceAccounts keep their rights.
#[tokio::test(flavor = "multi_thread")]
async fn names_of_accounts_and_key_ring_reach_the_roles() {
    let values = json!({"keyRing": {"existingSecret": "mine"}, "serviceAccounts": {"workerName": "deliver"}});
    let all = template(control_plane(), "home", &values).await;
    let named =
        |kind: &str, name: &str| all.iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == name);
    assert!(named("Role", "hookstream-keys-create").is_none());
    assert!(named("RoleBinding", "hookstream-keys-create").is_none());
    assert_eq!(named("Role", "hookstream-keys-read").unwrap()["rules"][0]["resourceNames"], json!(["mine"]));
    let subjects = &named("ClusterRoleBinding", "hookstream-worker").unwrap()["subjects"];
    assert_eq!(*subjects, json!([{"kind": "ServiceAccount", "name": "deliver", "namespace": "home"}]));
    let worker = &named("StatefulSet", "hookstream-worker").unwrap()["spec"]["template"]["spec"];
    assert_eq!(worker["serviceAccountName"], "deliver");
    assert!(worker["containers"][0]["args"].as_array().unwrap().contains(&json!("--key-ring-secret=mine")));
    assert_eq!(named("ServiceAccount", "deliver").unwrap()["automountServiceAccountToken"], false);
    assert_eq!(worker["automountServiceAccountToken"], true);
}

/// The defaults of the chart are those of the program.
#[tokio::test(flavor = "multi_thread")]
async fn defaults_match_program() {
    let text = std::fs::read_to_string(chart("hookstream").join("values.yaml")).unwrap();
    let values: Value = serde_saphyr::from_str(&text).unwrap();
    let output = Process::command(["run", "--help"], &[]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    for (name, value) in values["worker"]["settings"].as_object().unwrap() {
        let flag: String = name
            .chars()
            .flat_map(|c| if c.is_uppercase() { vec!['-', c.to_ascii_lowercase()] } else { vec![c] })
            .collect();
        // Empty: the program computes it.
        let value = value.as_str().filter(|value| !value.is_empty());
        let (_, after) =
            help.split_once(&format!("--{flag} ")).unwrap_or_else(|| panic!("--{flag} is no flag"));
        let (own, _) = after.split_once("\n      --").unwrap_or((after, ""));
        let default = own.split("[default: ").nth(1).and_then(|rest| rest.split(']').next());
        assert_eq!(default, value, "--{flag}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_on_a_database_roll_and_spread() {
    let objects = template(control_plane(), "home", &database()).await;
    let worker = find(&objects, "Deployment", "hookstream-worker");
    assert!(!objects.iter().any(|object| object["kind"] == "StatefulSet"));
    assert_eq!(worker["spec"]["replicas"], 3);
    assert_eq!(worker["spec"]["strategy"]["rollingUpdate"], json!({"maxSurge": 1, "maxUnavailable": 0}));
    let pod = &worker["spec"]["template"]["spec"];
    assert_eq!(pod["topologySpreadConstraints"].as_array().unwrap().len(), 2);
    let container = &pod["containers"][0];
    assert_eq!(container["lifecycle"]["preStop"]["sleep"]["seconds"], 5);
    let args: Vec<&str> =
        container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
    for arg in [
        "--store-url=postgres://events%20writer@one.db:6432,two.db:6432/hookstream?sslmode=verify-full",
        "--store-size=50GiB",
        "--store-password-file=/etc/hookstream/store-password/password",
        "--store-ca-file=/etc/hookstream/store-ca/ca.crt",
        "--store-certificate-file=/etc/hookstream/store-client/tls.crt",
        "--store-key-file=/etc/hookstream/store-client/tls.key",
    ] {
        assert!(args.contains(&arg), "{arg}: {args:?}");
    }
    assert!(!args.iter().any(|arg| arg.starts_with("--data")), "{args:?}");
    // Every file of a flag is one that a volume provides.
    for (volume, secret, file) in [
        ("store-password", "password", "password"),
        ("store-ca", "ca", "ca.crt"),
        ("store-client", "client", ""),
    ] {
        let named =
            |list: &Value| list.as_array().unwrap().iter().find(|v| v["name"] == volume).unwrap().clone();
        let mounted = named(&container["volumeMounts"]);
        assert_eq!(mounted["mountPath"], format!("/etc/hookstream/{volume}"));
        let volume = named(&pod["volumes"]);
        assert_eq!(volume["secret"]["secretName"], secret);
        assert_eq!(volume["secret"]["items"][0]["path"].as_str().unwrap_or_default(), file);
    }
    assert_eq!(find(&objects, "PodDisruptionBudget", "hookstream-worker")["spec"]["maxUnavailable"], 1);
    let egress = &find(&objects, "NetworkPolicy", "hookstream-worker")["spec"]["egress"];
    assert_eq!(egress[1]["ports"][0]["port"], 6432);
    assert_eq!(egress[1]["to"][0]["podSelector"]["matchLabels"]["app"], "postgresql");
    let egress = &find(&objects, "NetworkPolicy", "hookstream-controller")["spec"]["egress"];
    assert_eq!(egress.as_array().unwrap().len(), 1, "the controller needs no database");

    let values =
        json!({"worker": {"replicas": null, "store": {"postgresql": {"urlSecret": {"name": "app"}}}}});
    let objects = template(control_plane(), "home", &values).await;
    let worker = find(&objects, "Deployment", "hookstream-worker");
    assert!(worker["spec"].get("replicas").is_none(), "an autoscaler sets them");
    let url =
        json!({"name": "HOOKSTREAM_STORE_URL", "valueFrom": {"secretKeyRef": {"name": "app", "key": "uri"}}});
    let envs = worker["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap();
    assert!(envs.contains(&url), "{envs:?}");
    find(&objects, "PodDisruptionBudget", "hookstream-worker");
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_invalid_values_by_name() {
    let table = [
        (json!({"worker": {"replicas": 2}}), "worker.replicas must be 1 without worker.store.postgresql"),
        (json!({"worker": {"replicas": null}}), "worker.replicas must be 1 without worker.store.postgresql"),
        (json!({"worker": {"replicas": -1}}), "/worker/replicas"),
        (
            json!({"worker": {"store": {"postgresql": {"hosts": ["a"], "urlSecret": {"name": "a"}}}}}),
            "hosts and worker.store.postgresql.urlSecret exclude each other",
        ),
        (
            json!({"worker": {"store": {"postgresql": {"passwordSecret": {"name": "a"}}}}}),
            "passwordSecret needs worker.store.postgresql.hosts",
        ),
        (
            json!({"worker": {"store": {"postgresql": {"hosts": ["a:5432"]}}}}),
            "/worker/store/postgresql/hosts/0",
        ),
        (
            json!({"worker": {"store": {"postgresql": {"sslMode": "yes"}}}}),
            "/worker/store/postgresql/sslMode",
        ),
        (json!({"replicas": 2}), "'replicas' not allowed"),
        (json!({"worker": {"setings": {}}}), "'setings' not allowed"),
        (json!({"worker": {"settings": {"maxEventByte": "1"}}}), "'maxEventByte' not allowed"),
        (json!({"worker": {"settings": {"historyAge": "1 day"}}}), "/worker/settings/historyAge"),
        (json!({"worker": {"settings": {"historyAge": 24}}}), "worker.settings.historyAge: 24 is a number"),
        (json!({"worker": {"settings": {"dedupWindow": 0}}}), "worker.settings.dedupWindow: 0 is a number"),
        (
            json!({"controller": {"resyncInterval": 10}}),
            "controller.resyncInterval: the duration 10 has no unit",
        ),
        (
            json!({"controller": {"lease": {"duration": 15}}}),
            "controller.lease.duration: the duration 15 has no unit",
        ),
        (json!({"controller": {"podDisruptionBudget": true}}), "/controller/podDisruptionBudget"),
        (json!({"tls": {"certificate": {"enabled": true}}}), "needs tls.certificate.issuerRef.name"),
        (
            json!({"ingress": {"enabled": true, "tlsSecretName": "a"}}),
            "ingress.tlsSecretName needs ingress.host",
        ),
        (
            json!({"ingress": {"enabled": true, "host": "a", "tlsSecretName": "a", "tls": [{"secretName": "b"}]}}),
            "ingress.tls and ingress.tlsSecretName exclude each other",
        ),
        (
            json!({"serviceMonitor": {"enabled": true}, "podMonitor": {"enabled": true}}),
            "would scrape each pod twice",
        ),
        (json!({"controller": {"probes": {"ready": {}}}}), "invalid propertyName 'ready'"),
        (json!({"worker": {"settings": {"memoryBudget": "1GB"}}}), "/worker/settings/memoryBudget"),
        (json!({"mode": "both"}), "'split', 'combined'"),
        (json!({"image": {"digest": "latest"}}), "/image/digest"),
        (json!({"scope": {"namespaces": ["Shop"]}}), "/scope/namespaces/0"),
        (json!({"egress": {"allow": ["10.0.0.1"]}}), "/egress/allow/0"),
        (json!({"ingest": {"url": "hooks.example.com"}}), "/ingest/url"),
        (json!({"controller": {"replicas": -1}}), "/controller/replicas"),
        (json!({"expose": {"vendorsOnly": true}, "ingress": {"enabled": true}}), "set expose.namespaces"),
        (json!({"httpRoute": {"enabled": true}}), "httpRoute.parentRefs must name a Gateway"),
        (json!({"egress": {"proxy": {"url": "http://us:er@proxy:3128"}}}), "/egress/proxy/url"),
        (json!({"egress": {"proxy": {"authSecret": {"name": "a"}}}}), "authSecret needs egress.proxy.url"),
    ];
    for (values, expected) in table {
        let error = template_text(control_plane(), "home", &values).await;
        let error = error.map(|_| values.to_string()).unwrap_err();
        assert!(error.contains(expected), "{values}: {error}");
    }
}

/// The chart renders the CRDs as they are in `crds/`.
#[tokio::test(flavor = "multi_thread")]
async fn crds_are_rendered_unchanged() {
    let chart = chart("hookstream-crds");
    let args = ["template", "crds", chart.to_str().unwrap(), "--set", "labels.team=platform"];
    let rendered = objects(&control_plane().helm(args).await.unwrap());
    let mut plain = hookstream::api::crds();
    assert_eq!(rendered.len(), plain.len());
    for crd in &mut plain {
        let mut rendered_crd = crate::harness::helm::find(
            &rendered,
            "CustomResourceDefinition",
            crd["metadata"]["name"].as_str().unwrap(),
        )
        .clone();
        assert_eq!(rendered_crd["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
        assert_eq!(rendered_crd["metadata"]["labels"]["team"], "platform");
        rendered_crd["metadata"].as_object_mut().unwrap().retain(|name, _| name == "name");
        assert_eq!(rendered_crd["metadata"], json!({"name": crd["metadata"]["name"]}));
        assert_eq!(numbers(&rendered_crd["spec"]), numbers(&crd["spec"]));
    }
}

/// Normalizes numbers as helm writes them: 1.0 becomes 1.
fn numbers(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(items) => items.iter().map(numbers).collect(),
        Value::Object(map) => map.iter().map(|(name, value)| (name.clone(), numbers(value))).collect(),
        other => other.clone(),
    }
}
