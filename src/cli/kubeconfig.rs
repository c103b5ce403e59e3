//! Finds the cluster: by KUBECONFIG, or from inside a Pod.

use std::error::Error;

use http::Uri;
use kube::{Client, Config};

use super::failure::{Failure, OrFail};

/// Loads the configuration of the cluster that KUBECONFIG names, otherwise of the cluster in which this process runs.
pub async fn load_config() -> Result<Config, Failure> {
    let mut config = Config::infer().await.map_err(|error| {
        // Outside of a Pod, only the problem with the kubeconfig file helps the user.
        let why = match (std::env::var_os("KUBERNETES_SERVICE_HOST"), error.source()) {
            (None, Some(kubeconfig)) => kubeconfig.to_string(),
            _ => error.to_string(),
        };
        Failure::new(format!("no cluster: {why}: set KUBECONFIG, or run inside a cluster"))
    })?;
    // Ignore the environment's proxy, which is meant for other programs: with it, the library fails to connect.
    let proxy_of = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<Uri>().ok());
    if ["HTTPS_PROXY", "https_proxy"]
        .into_iter()
        .filter_map(proxy_of)
        .any(|uri| Some(uri) == config.proxy_url)
    {
        config.proxy_url = None;
    }
    Ok(config)
}

/// Describes an error in one line. The library's own text repeats the API server's message as a `Debug` value.
pub fn describe_error(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        other => other.to_string(),
    }
}

/// Creates a client for a loaded configuration.
pub fn create_client(config: Config) -> Result<Client, Failure> {
    Client::try_from(config).or_fail(|| "reading the cluster's configuration".into())
}
