//! The HTTP client with which an emulator delivers events.

use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Returns a client builder whose requests fail after `timeout`.
///
/// The client ignores proxies of the environment, because a test's receiver is on loopback, and follows no redirects.
/// Each request uses a new connection: a reused one that the receiver has closed would look like a failed endpoint.
pub(super) fn builder(timeout: Duration) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(0)
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(timeout)
}

/// Formats an error with its causes. Omits the URL, which may contain a secret.
pub(super) fn error_chain(error: &reqwest::Error) -> String {
    let mut text = String::from("request failed");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
