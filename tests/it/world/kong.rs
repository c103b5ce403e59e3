//! Kong, emulated by the program itself as a process of its own.

use serde_json::{Value, json};

use crate::harness::{DEADLINE, Process, eventually};
use crate::standalone::answer;

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

    /// With variables in its environment.
    pub async fn start_with(args: &[&str], env: &[(&str, &str)]) -> Kong {
        Kong::start_as("127.0.0.1:0", args, env).await
    }

    /// At a given address: a Kong that comes (back) where somebody already looks for it.
    pub async fn start_at(address: &str, args: &[&str]) -> Kong {
        Kong::start_as(address, args, &[]).await
    }

    async fn start_as(address: &str, args: &[&str], env: &[(&str, &str)]) -> Kong {
        let process =
            Process::spawn(["emulate", "kong", "--listen", address].iter().chain(args).copied(), env);
        let line = process.wait_for_line(|line| line.contains("emulator listening on "), DEADLINE).await;
        let url = line.rsplit(' ').next().unwrap().to_owned();
        let token = args.iter().position(|a| *a == "--token").map(|at| args[at + 1].to_owned());
        Kong { url, token, http: http(), process }
    }

    /// Kong goes away.
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

    async fn done(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.call(method.clone(), path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// The hooks of the default workspace.
    pub async fn hooks(&self) -> Vec<Value> {
        self.hooks_of("").await
    }

    /// The hooks of a workspace, given as `/name`.
    pub async fn hooks_of(&self, workspace: &str) -> Vec<Value> {
        let list = self.done(reqwest::Method::GET, &format!("{workspace}/event-hooks"), None).await;
        list["data"].as_array().unwrap().clone()
    }

    /// The only hook, once there is one.
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

    /// Somebody else makes a hook.
    pub async fn create(&self, body: Value) {
        self.done(reqwest::Method::POST, "/event-hooks", Some(body)).await;
    }

    /// Somebody else changes a hook.
    pub async fn patch(&self, id: &str, body: Value) {
        self.done(reqwest::Method::PATCH, &format!("/event-hooks/{id}"), Some(body)).await;
    }

    /// Somebody else deletes a hook.
    pub async fn delete(&self, id: &str) {
        self.done(reqwest::Method::DELETE, &format!("/event-hooks/{id}"), None).await;
    }

    /// Kong has an event; the number of hooks that it matched.
    pub async fn emit(&self, source: &str, event: &str, data: Value) -> u64 {
        let body = json!({"source": source, "event": event, "data": data});
        let answer = self.done(reqwest::Method::POST, "/__emulator/events", Some(body)).await;
        answer["matched"].as_u64().unwrap()
    }

    pub async fn fault(&self, fault: Value) {
        self.done(reqwest::Method::POST, "/__emulator/faults", Some(fault)).await;
    }

    pub async fn no_faults(&self) {
        self.done(reqwest::Method::DELETE, "/__emulator/faults", None).await;
    }

    /// How many requests the faults were asked about so far: a request that is held back is counted, too.
    pub async fn met_faults(&self) -> u64 {
        let list = self.done(reqwest::Method::GET, "/__emulator/faults", None).await;
        list["data"].as_array().unwrap().iter().map(|f| f["matched"].as_u64().unwrap()).sum()
    }

    /// The admin requests that came, other than those of `hooks_of`, which are the test's own: the operator's lists ask
    /// for a size.
    pub async fn requests(&self) -> Vec<Value> {
        let list = self.done(reqwest::Method::GET, "/__emulator/requests", None).await;
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

/// A client that goes to this machine only.
pub fn http() -> reqwest::Client {
    // Without a provider reqwest panics, even for plain HTTP.
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("a client")
}
