//! An Auth0 tenant, emulated by `hookstream emulate auth0` in a process.

use std::path::Path;

use serde_json::{Value, json};

use super::http::{answer, http};
use super::{DEADLINE, Process, eventually};

/// The credentials of a Connection. The emulator accepts no others.
pub const CLIENT_ID: &str = "the-client-id";
pub const CLIENT_SECRET: &str = "the-client-secret-of-auth0";

pub struct Auth0 {
    pub url: String,
    /// The tenant's address as a Connection spells it: host and port.
    pub domain: String,
    http: reqwest::Client,
    /// A token for the test's own calls.
    token: String,
    process: Process,
}

impl Auth0 {
    /// Starts a tenant that requires credentials and retries deliveries a hundred times as fast as Auth0.
    pub async fn start(args: &[&str]) -> Auth0 {
        Auth0::start_at("127.0.0.1:0", args).await
    }

    /// Starts a tenant at a given address, for example one that returns after an outage.
    pub async fn start_at(address: &str, args: &[&str]) -> Auth0 {
        Auth0::start_with_credential(address, ["--client-secret", CLIENT_SECRET], args).await
    }

    async fn start_with_credential(address: &str, credential: [&str; 2], args: &[&str]) -> Auth0 {
        let defaults = ["emulate", "auth0", "--listen", address, "--client-id", CLIENT_ID];
        let defaults = defaults.into_iter().chain(credential).chain(["--time-scale", "0.01"]);
        // A ready token, so that the test's own calls make no request to the token endpoint.
        let token = "the-token-of-the-test".to_owned();
        let defaults = defaults.chain(["--token", &token]);
        let process = Process::spawn(defaults.chain(args.iter().copied()), &[]);
        let line = process.wait_for_line(|line| line.contains("emulator listening on "), DEADLINE).await;
        let url = line.rsplit(' ').next().unwrap().to_owned();
        let domain = url.rsplit('/').next().unwrap().to_owned();
        Auth0 { url, domain, http: http(), token, process }
    }

    /// Starts a tenant whose client logs in with a private key; the file has the public one.
    pub async fn start_with_key(public_key: &str, args: &[&str]) -> Auth0 {
        let credential = ["--client-public-key", public_key];
        Auth0::start_with_credential("127.0.0.1:0", credential, args).await
    }

    /// Starts a tenant that speaks TLS, with a self-signed certificate and its key in files. The client of this struct does
    /// not trust the certificate, so the test can only read the tenant's log.
    pub async fn start_tls(certificate: &Path, key: &Path, args: &[&str]) -> Auth0 {
        let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
        let tls = ["--tls-cert", certificate, "--tls-key", key];
        let all: Vec<&str> = tls.into_iter().chain(args.iter().copied()).collect();
        Auth0::start(&all).await
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Calls the API. Returns the status and the answer's JSON.
    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let method = method.parse::<reqwest::Method>().unwrap();
        let mut request = self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        answer(request).await
    }

    /// Calls the API. Returns the answer, which must be a success.
    async fn call_ok(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.call(method, path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// Returns the stored streams with secrets and failed deliveries. Not recorded as an API request.
    pub async fn stored_streams(&self) -> Vec<Value> {
        self.call_ok("GET", "/__emulator/state", None).await["streams"].as_array().unwrap().clone()
    }

    /// Returns the stored hooks with their secrets. Not recorded as an API request.
    pub async fn stored_hooks(&self) -> Vec<Value> {
        self.call_ok("GET", "/__emulator/state", None).await["hooks"].as_array().unwrap().clone()
    }

    pub async fn until_streams(&self, what: &str, fits: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        eventually(DEADLINE, &format!("{what} at Auth0"), async || {
            let streams = self.stored_streams().await;
            if fits(&streams) { Ok(streams) } else { Err(format!("{streams:#?}")) }
        })
        .await
    }

    pub async fn until_hooks(&self, what: &str, fits: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        eventually(DEADLINE, &format!("{what} at Auth0"), async || {
            let hooks = self.stored_hooks().await;
            if fits(&hooks) { Ok(hooks) } else { Err(format!("{hooks:#?}")) }
        })
        .await
    }

    /// Creates a stream as another client of the tenant would.
    pub async fn create_stream(&self, body: Value) -> Value {
        self.call_ok("POST", "/api/v2/event-streams", Some(body)).await
    }

    pub async fn patch_stream(&self, id: &str, body: Value) -> Value {
        self.call_ok("PATCH", &format!("/api/v2/event-streams/{id}"), Some(body)).await
    }

    pub async fn delete_stream(&self, id: &str) {
        self.call_ok("DELETE", &format!("/api/v2/event-streams/{id}"), None).await;
    }

    pub async fn create_hook(&self, body: Value) -> Value {
        self.call_ok("POST", "/api/v2/hooks", Some(body)).await
    }

    pub async fn patch_hook(&self, id: &str, body: Value) -> Value {
        self.call_ok("PATCH", &format!("/api/v2/hooks/{id}"), Some(body)).await
    }

    pub async fn delete_hook(&self, id: &str) {
        self.call_ok("DELETE", &format!("/api/v2/hooks/{id}"), None).await;
    }

    /// Emits an event in the tenant. Returns its id and the number of matching streams.
    pub async fn emit(&self, kind: &str, data: Value) -> (String, u64) {
        let answer =
            self.call_ok("POST", "/__emulator/events", Some(json!({"type": kind, "data": data}))).await;
        (answer["id"].as_str().unwrap().to_owned(), answer["matched"].as_u64().unwrap())
    }

    /// Returns the outcomes of the deliveries so far: `outcome` is delivered or failed.
    pub async fn outcomes(&self) -> Vec<Value> {
        self.call_ok("GET", "/__emulator/deliveries", None).await["data"].as_array().unwrap().clone()
    }

    pub async fn fault(&self, fault: Value) {
        self.call_ok("POST", "/__emulator/faults", Some(fault)).await;
    }

    pub async fn clear_faults(&self) {
        self.call_ok("DELETE", "/__emulator/faults", None).await;
    }

    /// Returns the number of requests that matched a fault, requests that a fault still delays included.
    pub async fn count_faulted_requests(&self) -> u64 {
        let list = self.call_ok("GET", "/__emulator/faults", None).await;
        list["data"].as_array().unwrap().iter().map(|fault| fault["matched"].as_u64().unwrap()).sum()
    }

    /// Returns the recorded requests with their tokens, those of `create_stream` and the like included.
    pub async fn requests(&self) -> Vec<Value> {
        self.call_ok("GET", "/__emulator/requests", None).await["data"].as_array().unwrap().clone()
    }

    pub async fn forget_requests(&self) {
        self.call_ok("DELETE", "/__emulator/requests", None).await;
    }

    pub async fn count(&self, method: &str, path: &str) -> usize {
        let fits = |r: &&Value| r["method"] == method && r["path"].as_str().unwrap().starts_with(path);
        self.requests().await.iter().filter(fits).count()
    }
}
