//! Kong's admin API, emulated by `hookstream emulate kong` in a process.

use serde_json::{Value, json};

use super::http::{answer, http};
use super::manifests::manifest;
use super::{DEADLINE, Process, eventually};

pub struct Kong {
    pub url: String,
    token: Option<String>,
    http: reqwest::Client,
    process: Process,
}

impl Kong {
    pub async fn start(args: &[&str]) -> Kong {
        Kong::start_at("127.0.0.1:0", args).await
    }

    /// Starts Kong with environment variables.
    pub async fn start_with(args: &[&str], env: &[(&str, &str)]) -> Kong {
        Kong::start_at_with("127.0.0.1:0", args, env).await
    }

    /// Starts Kong at a given address, for example one that returns after an outage.
    pub async fn start_at(address: &str, args: &[&str]) -> Kong {
        Kong::start_at_with(address, args, &[]).await
    }

    async fn start_at_with(address: &str, args: &[&str], env: &[(&str, &str)]) -> Kong {
        let process =
            Process::spawn(["emulate", "kong", "--listen", address].iter().chain(args).copied(), env);
        let line = process.wait_for_line(|line| line.contains("emulator listening on "), DEADLINE).await;
        let url = line.rsplit(' ').next().unwrap().to_owned();
        let token = args.iter().position(|a| *a == "--token").map(|at| args[at + 1].to_owned());
        Kong { url, token, http: http(), process }
    }

    /// Kills the emulator.
    pub fn stop(&self) {
        self.process.kill9();
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    async fn call(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.header("kong-admin-token", token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        answer(request).await
    }

    /// Calls the API. Returns the answer, which must be a success.
    async fn call_ok(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.call(method.clone(), path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// Returns the hooks of the default workspace.
    pub async fn hooks(&self) -> Vec<Value> {
        self.hooks_of("").await
    }

    /// Returns the manifest of a Connection to this Kong with the name `kong`.
    pub fn connection(&self) -> String {
        let spec = json!({"spec": {"kong": {"adminUrl": self.url}}});
        manifest("hookstream.dev/v1alpha1", "Connection", "kong", spec)
    }

    /// Returns the hooks of a workspace, given as `/name`.
    pub async fn hooks_of(&self, workspace: &str) -> Vec<Value> {
        let list = self.call_ok(reqwest::Method::GET, &format!("{workspace}/event-hooks"), None).await;
        list["data"].as_array().unwrap().clone()
    }

    /// Waits until there is one hook and returns it.
    pub async fn only_hook(&self) -> Value {
        self.until_hooks("one hook", |hooks| hooks.len() == 1).await.remove(0)
    }

    pub async fn until_hooks(&self, what: &str, fits: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        eventually(DEADLINE, &format!("{what} at Kong"), async || {
            let hooks = self.hooks().await;
            if fits(&hooks) { Ok(hooks) } else { Err(format!("{hooks:#?}")) }
        })
        .await
    }

    /// Waits until there are `n` hooks; returns them.
    pub async fn wait_for_hooks(&self, n: usize) -> Vec<Value> {
        self.until_hooks(&format!("{n} hooks"), |hooks| hooks.len() == n).await
    }

    /// Creates a hook as another client of Kong would. Returns it.
    pub async fn create(&self, body: Value) -> Value {
        self.call_ok(reqwest::Method::POST, "/event-hooks", Some(body)).await
    }

    /// Changes a hook as another client of Kong would.
    pub async fn patch(&self, id: &str, body: Value) {
        self.call_ok(reqwest::Method::PATCH, &format!("/event-hooks/{id}"), Some(body)).await;
    }

    /// Deletes a hook as another client of Kong would.
    pub async fn delete(&self, id: &str) {
        self.call_ok(reqwest::Method::DELETE, &format!("/event-hooks/{id}"), None).await;
    }

    /// Emits an event at Kong. Returns the number of matching hooks.
    pub async fn emit(&self, source: &str, event: &str, data: Value) -> u64 {
        let body = json!({"source": source, "event": event, "data": data});
        let answer = self.call_ok(reqwest::Method::POST, "/__emulator/events", Some(body)).await;
        answer["matched"].as_u64().unwrap()
    }

    pub async fn fault(&self, fault: Value) {
        self.call_ok(reqwest::Method::POST, "/__emulator/faults", Some(fault)).await;
    }

    pub async fn clear_faults(&self) {
        self.call_ok(reqwest::Method::DELETE, "/__emulator/faults", None).await;
    }

    /// Returns the number of requests that matched a fault, requests that a fault still delays included.
    pub async fn count_faulted_requests(&self) -> u64 {
        let list = self.call_ok(reqwest::Method::GET, "/__emulator/faults", None).await;
        list["data"].as_array().unwrap().iter().map(|f| f["matched"].as_u64().unwrap()).sum()
    }

    /// Returns the recorded admin requests without those of `hooks_of`: the operator's lists have a `size`, the test's do
    /// not.
    pub async fn requests(&self) -> Vec<Value> {
        let list = self.call_ok(reqwest::Method::GET, "/__emulator/requests", None).await;
        let mut requests = list["data"].as_array().unwrap().clone();
        requests.retain(|r| {
            let list = r["path"].as_str().is_some_and(|p| p.ends_with("/event-hooks"));
            !(r["method"] == "GET" && list && r["query"].is_null())
        });
        requests
    }

    pub async fn count(&self, method: &str, path: &str) -> usize {
        let fits = |r: &&Value| r["method"] == method && r["path"].as_str().unwrap().starts_with(path);
        self.requests().await.iter().filter(fits).count()
    }
}
