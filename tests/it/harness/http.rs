//! HTTP clients for the tests. They use no proxy, so requests stay on this machine.

use serde_json::Value;

use super::DEADLINE;

/// Sends a request. Returns the status and the answer's JSON; null if the body is not JSON.
pub async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.expect("an answer");
    let status = response.status().as_u16();
    (status, response.json().await.unwrap_or(Value::Null))
}

/// Returns a client with a timeout.
pub fn client() -> reqwest::Client {
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder().no_proxy().timeout(DEADLINE).build().expect("a client")
}

/// Returns a client without a timeout that opens a connection for each request.
pub fn http() -> reqwest::Client {
    // Without a provider reqwest panics, even for plain HTTP.
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("a client")
}
