//! The web console over HTTP, and `hookstream console`. The pages in a browser are tested in tests/browser.

mod cluster_proxy;
mod http;
mod http_changes;
mod http_rights;
mod leader;
mod partial;
mod proxy;
mod renewal;
