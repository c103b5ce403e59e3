//! Finds the cluster: by KUBECONFIG, or from inside a Pod.

use std::error::Error;
use std::path::PathBuf;

use futures::FutureExt;
use http::Uri;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

use super::failure::{Failure, OrFail};
use super::profiles::Profile;
use crate::cluster::kubernetes::ApiConfig;
use crate::net::describe_cause;

/// Flags of commands that people run on a cluster.
#[derive(Clone, Default, clap::Args)]
pub struct KubeconfigArgs {
    /// The kubeconfig file. Default: KUBECONFIG, otherwise the cluster in which this process runs.
    #[arg(long, value_name = "FILE", env = "HOOKSTREAM_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig. Default: its current one.
    #[arg(long, value_name = "NAME", env = "HOOKSTREAM_CONTEXT")]
    context: Option<String>,
}

impl KubeconfigArgs {
    /// Returns true if the flags name a cluster.
    pub fn is_given(&self) -> bool {
        self.kubeconfig.is_some() || self.context.is_some()
    }

    /// Returns true if the flags name a context.
    pub fn names_context(&self) -> bool {
        self.context.is_some()
    }

    /// Returns the flags, or the settings of a profile if none is given.
    pub fn or(&self, profile: &Profile) -> Self {
        if self.is_given() {
            return self.clone();
        }
        KubeconfigArgs { kubeconfig: profile.kubeconfig.clone(), context: profile.context.clone() }
    }

    /// Returns the API server of a configuration that `load` returned.
    pub fn server(&self, config: &Config) -> ApiServer {
        let context = self.context.clone().or_else(|| self.read().ok()?.current_context);
        ApiServer::new(config, context)
    }

    fn read(&self) -> Result<Kubeconfig, KubeconfigError> {
        match &self.kubeconfig {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        }
    }

    /// Loads the configuration of the cluster that the flags name.
    pub async fn load(&self) -> Result<Config, Failure> {
        if self.kubeconfig.is_none() && self.context.is_none() {
            return load_config().await;
        }
        let file = self
            .read()
            .map_err(|error| Failure::new(format!("--kubeconfig: {}", describe_kubeconfig(&error))))?;
        if let Some(context) = &self.context {
            let names: Vec<&str> = file.contexts.iter().map(|named| named.name.as_str()).collect();
            if !names.contains(&context.as_str()) {
                return Err(Failure::new(format!(
                    "--context {context}: the kubeconfig has no such context; it has {}",
                    names.join(", ")
                )));
            }
        }
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let config = Config::from_custom_kubeconfig(file, &options).await.or_fail(|| "--context".into())?;
        Ok(ignore_proxy(config))
    }
}

/// Loads the configuration of the cluster that KUBECONFIG names, otherwise of the cluster in which this process runs.
pub async fn load_config() -> Result<Config, Failure> {
    let config = Config::infer().await.map_err(|error| {
        // Outside of a Pod, only the problem with the kubeconfig file helps the user.
        let why = match (std::env::var_os("KUBERNETES_SERVICE_HOST"), error.source()) {
            (None, Some(kubeconfig)) => match kubeconfig.downcast_ref() {
                Some(kubeconfig) => describe_kubeconfig(kubeconfig),
                None => kubeconfig.to_string(),
            },
            _ => error.to_string(),
        };
        Failure::new(format!("no cluster: {why}: set KUBECONFIG, or run inside a cluster"))
    })?;
    Ok(ignore_proxy(config))
}

/// Describes why a kubeconfig cannot be used. The library's own text has the path as a `Debug` value.
fn describe_kubeconfig(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::ReadConfig(error, path) => format!("{}: {error}", path.display()),
        other => other.to_string(),
    }
}

/// Removes a proxy of the environment.
fn ignore_proxy(mut config: Config) -> Config {
    // Ignore the environment's proxy, which is meant for other programs: with it, the library fails to connect.
    let proxy_of = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<Uri>().ok());
    if ["HTTPS_PROXY", "https_proxy"]
        .into_iter()
        .filter_map(proxy_of)
        .any(|uri| Some(uri) == config.proxy_url)
    {
        config.proxy_url = None;
    }
    config
}

/// Returns a configuration that follows its files.
pub fn follow_config(config: Config) -> ApiConfig {
    ApiConfig::new(config, || load_config().map(|config| config.map_err(|failure| failure.message)).boxed())
}

/// The API server, as messages name it.
#[derive(Clone, Debug)]
pub struct ApiServer(String);

impl ApiServer {
    /// Returns the API server of a configuration that `load_config` returned.
    pub fn of(config: &Config) -> Self {
        ApiServer::new(config, Kubeconfig::read().ok().and_then(|file| file.current_context))
    }

    fn new(config: &Config, context: Option<String>) -> Self {
        let url = config.cluster_url.to_string();
        let url = url.trim_end_matches('/');
        ApiServer(match context {
            Some(context) => format!("{url} (context {context})"),
            None => url.to_owned(),
        })
    }

    /// Describes an error in one line. The library's own text repeats the API server's message as a `Debug` value, and
    /// hides why a connection failed.
    pub fn describe(&self, error: &kube::Error) -> String {
        match error {
            kube::Error::Api(status) if status.code == 403 => {
                format!("{} (403): ask for a Role with this right in the namespace", status.message)
            }
            kube::Error::Api(status) if status.code == 401 => {
                format!("the API server {} rejects the credentials of the kubeconfig (401)", self.0)
            }
            kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
            other => format!("the API server {} cannot be reached: {}", self.0, describe_cause(other)),
        }
    }
}

impl std::fmt::Display for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the cluster {}", self.0)
    }
}

/// Creates a client for a loaded configuration.
pub fn create_client(config: Config) -> Result<Client, Failure> {
    Client::try_from(config).or_fail(|| "reading the cluster's configuration".into())
}
