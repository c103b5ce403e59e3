//! `hookstream console`. The pages are tested in a browser: tests/browser.

mod cluster_proxy;
mod proxy;
mod renewal;
