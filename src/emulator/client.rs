//! The HTTP client of what an emulator delivers.

use std::time::Duration;

const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// No proxy from the environment, for a test's receiver is on loopback; no redirects; a connection a request, so that
/// an idle one that was closed is never taken for an endpoint that failed.
pub(super) fn builder(answer_within: Duration) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(0)
        .connect_timeout(CONNECT_WITHIN)
        .timeout(answer_within)
}

/// An error with its causes, without its URL, which may carry a secret.
pub(super) fn chain(error: &reqwest::Error) -> String {
    let mut text = String::from("request failed");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
