//! The web console over HTTP.

mod http;
mod http_changes;
mod http_rights;
