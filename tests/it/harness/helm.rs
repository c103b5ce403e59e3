//! Renders and runs the Helm chart.
//!
//! No kubelet runs in the tests. They start a container's command with exactly the rendered arguments, environment and
//! account, and map what a kubelet and kube-proxy would map: mounts to folders, Services to ports.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{ControlPlane, DEADLINE, Process, eventually, watchdog};

pub const RELEASE: &str = "hookstream";

pub fn chart(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("charts").join(name)
}

/// Writes the values to a file for helm's `-f`.
pub fn values_file(values: &Value) -> String {
    let path = watchdog::unique_path("values.json");
    std::fs::write(&path, values.to_string()).unwrap();
    path.display().to_string()
}

/// Returns the output of `helm template` for the chart `hookstream` as text.
pub async fn template_text(helm: &ControlPlane, home: &str, values: &Value) -> Result<String, String> {
    let (chart, file) = (chart("hookstream"), values_file(values));
    let apis = ["--api-versions", "monitoring.coreos.com/v1", "--kube-version", "1.36.3"];
    let args = ["template", RELEASE, chart.to_str().unwrap(), "-n", home, "-f", &file];
    helm.helm(args.iter().chain(&apis)).await
}

/// Returns the output of `helm template` for the chart `hookstream` as objects.
pub async fn template(helm: &ControlPlane, home: &str, values: &Value) -> Vec<Value> {
    let text = template_text(helm, home, values).await.unwrap_or_else(|e| panic!("{values}: {e}"));
    objects(&text)
}

pub fn objects(text: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    documents.into_iter().filter(|object| !object.is_null()).collect()
}

pub fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let is_named = |o: &&Value| o["kind"] == kind && o["metadata"]["name"] == name;
    objects.iter().find(is_named).unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// Returns the pod templates of all workloads, each with the workload's kind and name.
pub fn pod_templates(objects: &[Value]) -> Vec<(String, Value)> {
    let templates = objects.iter().filter(|object| object["spec"]["template"]["spec"].is_object());
    templates
        .map(|o| (format!("{} {}", o["kind"], o["metadata"]["name"]), o["spec"]["template"].clone()))
        .collect()
}

/// A container that the test starts in the kubelet's place.
pub struct Container {
    pub args: Vec<String>,
    envs: Vec<(String, String)>,
    account: String,
}

impl Container {
    /// Returns the only container of a workload's pods. `map` replaces texts in arguments and environment by their local
    /// equivalents.
    pub fn of_workload(object: &Value, map: &[(&str, &str)]) -> Container {
        let spec = &object["spec"]["template"]["spec"];
        let home = object["metadata"]["namespace"].as_str().unwrap();
        let containers = spec["containers"].as_array().unwrap();
        assert_eq!(containers.len(), 1);
        let mapped = |text: &str| map.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
        let args = containers[0]["args"].as_array().unwrap().iter().map(|arg| mapped(arg.as_str().unwrap()));
        let envs = containers[0]["env"].as_array().into_iter().flatten().map(|env| {
            let value = match env["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                Some("metadata.namespace") => home,
                Some("metadata.name") => "pod-0",
                Some(other) => panic!("{other} is not supported by this helper"),
                None => env["value"].as_str().unwrap(),
            };
            (env["name"].as_str().unwrap().to_owned(), mapped(value))
        });
        let account = spec["serviceAccountName"].as_str().unwrap().to_owned();
        Container { args: args.collect(), envs: envs.collect(), account }
    }

    /// Starts the container's command with a fresh token of its account.
    pub async fn start(&self, cluster: &ControlPlane, home: &str) -> Process {
        let token = token(cluster, home, &self.account, None).await;
        let kubeconfig = cluster.kubeconfig(&token, home);
        let mut envs: Vec<(&str, &str)> = self.envs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        envs.push(("KUBECONFIG", kubeconfig.to_str().unwrap()));
        Process::spawn(&self.args, &envs)
    }
}

/// Does the work of a kubelet and the Job controller for the check of `helm uninstall`. Returns its log.
pub async fn complete_uninstall_check(cluster: &ControlPlane, home: &str) -> String {
    let name = "hookstream-uninstall-check";
    let job = eventually(DEADLINE, "the check's Job", async || {
        let get = ["-n", home, "get", "job", name, "-o", "json"];
        let job: Value = serde_json::from_str(&cluster.kubectl(get, "").await?).unwrap();
        // A Job of an earlier uninstall is replaced first.
        if job["status"]["conditions"].is_null() {
            Ok(job)
        } else {
            Err("the Job of an earlier uninstall".into())
        }
    })
    .await;
    let process = Container::of_workload(&job, &[]).start(cluster, home).await;
    let is_success = process.wait(DEADLINE).await.success();
    let now = "2026-01-01T00:00:00Z";
    let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "Test", "message": "", "lastTransitionTime": now});
    let status = if is_success {
        json!({"startTime": now, "completionTime": now, "succeeded": 1, "conditions": [condition("SuccessCriteriaMet"), condition("Complete")]})
    } else {
        json!({"startTime": now, "failed": 1, "conditions": [condition("FailureTarget"), condition("Failed")]})
    };
    let patch = json!({ "status": status }).to_string();
    let args = ["-n", home, "patch", "job", name, "--subresource=status", "--type=merge", "-p", &patch];
    cluster.kubectl(args, "").await.unwrap();
    process.log()
}

/// Returns a fresh token of a ServiceAccount for an audience; None means the API server's own.
pub async fn token(cluster: &ControlPlane, namespace: &str, account: &str, audience: Option<&str>) -> String {
    let mut args = vec!["-n", namespace, "create", "token", account, "--duration=1h"];
    args.extend(audience.iter().flat_map(|audience| ["--audience", audience]));
    cluster.kubectl(args, "").await.unwrap().trim().to_owned()
}

/// Returns chart values for processes on this machine: free ports, and loopback allowed as a destination.
pub fn local_values(ports: [u16; 3], ingest_url: &str) -> Value {
    let [ingest, api, ops] = ports;
    json!({
        "ports": {"ingest": ingest, "api": api, "ops": ops},
        "ingest": {"url": ingest_url},
        "egress": {"allow": ["127.0.0.0/8"]},
    })
}
