//! Flags that select a worker and a caller. The worker is at a URL, or at a Service that is reached through the API
//! server with the user's kubeconfig.
//!
//! The API server's proxy drops the Authorization header and does not forward the user's identity: the worker never gets
//! credentials of the kubeconfig. The worker therefore accepts the token in a separate header too. The token is requested
//! from the API server: for a ServiceAccount of the namespace, for the worker's audience, and for ten minutes. The caller
//! then has the permissions of that ServiceAccount; RBAC decides who may request such a token (`create
//! serviceaccounts/token`).

use std::convert::Infallible;
use std::fmt;
use std::ops::Deref;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::OnceLock;

use url::Url;

use super::failure::Failure;
use super::flags::parse_url;
use super::profiles::Profile;
use super::service::ServiceCluster;
pub use super::service::{ServiceFlag, ServicePort, WorkerPort};
use super::service_token::ServiceTokens;
use super::target::{TargetArgs, WorkerPlace};
use super::worker_client::WorkerClient;

/// The ServiceAccount to call as if the worker was found in the cluster and the user names none.
const DEFAULT_ACCOUNT: &str = "hookstream-cli";
/// The worker's default of --token-audience.
const DEFAULT_AUDIENCE: &str = "hookstream";

/// Flags of commands that call the worker's API port.
#[derive(clap::Args)]
pub struct WorkerApiArgs {
    #[command(flatten)]
    pub caller: CallerArgs,
    #[command(flatten)]
    location: WorkerLocationArgs,
}

/// Flags of commands that list: the worker's API port, and one namespace or all.
#[derive(clap::Args)]
pub struct WorkerListArgs {
    #[command(flatten)]
    pub api: WorkerApiArgs,
    /// List those of all namespaces. Requires the permission in all of them (a ClusterRoleBinding).
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

/// Flags that locate the worker's API port.
#[derive(clap::Args)]
pub struct WorkerLocationArgs {
    /// The URL of the worker's API port. Default: http://127.0.0.1:8082.
    #[arg(long, value_name = "URL", value_parser = parse_url, env = "HOOKSTREAM_API_URL")]
    url: Option<Url>,
    /// Reach the worker at this Service, through the API server and your kubeconfig. Requires permission to get and create
    /// services/proxy. Without a value: the chart's Service. With --context, the Service is found by its labels.
    #[arg(long, default_service = "hookstream-system/hookstream-api:api", env = "HOOKSTREAM_API_SERVICE")]
    service: Option<ServicePort>,
}

/// Flags that identify the caller, the namespace and the cluster.
#[derive(Clone, Default, clap::Args)]
pub struct CallerArgs {
    /// The namespace of the events and hooks. Default: that of the profile or of the kubeconfig's context, if one is used.
    // Not HOOKSTREAM_NAMESPACE, the list of namespaces in which a role works.
    #[arg(
        short,
        long,
        value_name = "NAMESPACE",
        default_value = "",
        hide_default_value = true,
        env = "HOOKSTREAM_EVENT_NAMESPACE"
    )]
    pub namespace: NamespaceArg,
    /// A file with the bearer token to send. Default: no token.
    #[arg(long, value_name = "FILE", env = "HOOKSTREAM_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// In a cluster, call as this ServiceAccount of the namespace. Requires permission to create serviceaccounts/token.
    /// Default with --context: hookstream-cli.
    #[arg(long, value_name = "NAME", conflicts_with = "token_file", env = "HOOKSTREAM_SERVICE_ACCOUNT")]
    pub service_account: Option<String>,
    /// The audience that the worker requires (its --token-audience). Default: hookstream.
    #[arg(long, value_name = "AUDIENCE", env = "HOOKSTREAM_TOKEN_AUDIENCE")]
    pub token_audience: Option<String>,
    #[command(flatten)]
    pub target: TargetArgs,
}

/// The namespace of a command. Empty until it was given by a flag or `CallerArgs::connect` has found it.
#[derive(Clone, Debug, Default)]
pub struct NamespaceArg(OnceLock<String>);

impl FromStr for NamespaceArg {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.into())
    }
}

impl From<&str> for NamespaceArg {
    fn from(text: &str) -> Self {
        NamespaceArg(if text.is_empty() { OnceLock::new() } else { OnceLock::from(text.to_owned()) })
    }
}

impl fmt::Display for NamespaceArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl Deref for NamespaceArg {
    type Target = str;

    fn deref(&self) -> &str {
        self.0.get().map_or("", String::as_str)
    }
}

/// The route to a worker's port, and where the caller's tokens come from.
pub enum WorkerRoute {
    Url { url: Url, token_file: Option<PathBuf>, ca_file: Option<PathBuf> },
    Service { cluster: Box<ServiceCluster>, service: ServicePort, token: CallerToken },
}

/// The source of the tokens for a worker in a cluster.
pub enum CallerToken {
    None,
    File(PathBuf),
    Requested(ServiceTokens),
}

impl WorkerApiArgs {
    /// Finds the route to the worker without calling it.
    pub async fn route(&self) -> Result<WorkerRoute, Failure> {
        let WorkerLocationArgs { url, service } = &self.location;
        self.caller.route(url.as_ref(), service.as_ref(), WorkerPort::Api).await
    }

    /// Connects to the cluster of the worker, and finds the namespace. None: the worker is at a URL.
    pub async fn cluster(&self) -> Result<Option<ServiceCluster>, Failure> {
        let WorkerLocationArgs { url, service } = &self.location;
        let profile = self.caller.target.profile()?;
        let target = &self.caller.target;
        let cluster =
            target.worker_cluster(&profile, url.as_ref(), service.as_ref(), WorkerPort::Api).await?;
        if let Some(cluster) = &cluster {
            self.caller.resolve_namespace(&profile, Some(&cluster.namespace));
        }
        Ok(cluster)
    }

    /// Creates a client of the worker.
    pub async fn connect(&self) -> Result<WorkerClient, Failure> {
        let worker = self.connect_without_namespace().await?;
        self.caller.require_namespace()?;
        Ok(worker)
    }

    /// Creates a client of the worker for requests that may belong to no namespace.
    pub async fn connect_without_namespace(&self) -> Result<WorkerClient, Failure> {
        let WorkerLocationArgs { url, service } = &self.location;
        self.caller.connect_without_namespace(url.as_ref(), service.as_ref(), WorkerPort::Api).await
    }
}

impl WorkerListArgs {
    /// Creates a client of the worker.
    pub async fn connect(&self) -> Result<WorkerClient, Failure> {
        match self.all_namespaces {
            true => self.api.connect_without_namespace().await,
            false => self.api.connect().await,
        }
    }

    /// Returns the URL of a list.
    pub fn url(&self, worker: &WorkerClient, list: &str) -> Result<Url, Failure> {
        match self.all_namespaces {
            true => Ok(worker.root_url(&["v1", list])),
            false => worker.url(&self.api.caller.namespace, &[list]),
        }
    }

    /// Says on standard error that nothing was found, and where: a misspelt namespace looks like an idle one.
    pub fn report_none(&self, what: &str) {
        match self.all_namespaces {
            true => eprintln!("hookstream: no matching {what} in any namespace"),
            false => eprintln!("hookstream: no matching {what} in namespace {}", self.api.caller.namespace),
        }
    }
}

impl WorkerLocationArgs {
    /// Creates a client for requests that need no right.
    pub async fn connect_without_token(&self, target: &TargetArgs) -> Result<WorkerClient, Failure> {
        let profile = target.profile()?;
        let place = target.place(&profile, self.url.as_ref(), self.service.as_ref(), WorkerPort::Api).await?;
        match place {
            WorkerPlace::Url(url) => WorkerClient::new(&url, None, target.ca_file(&profile)),
            WorkerPlace::Service { cluster, service, .. } => {
                WorkerClient::proxied(cluster.client, cluster.server, &service, None, None)
            }
        }
    }
}

impl CallerArgs {
    /// Creates a client of the worker's port, and finds the namespace.
    pub async fn connect(
        &self,
        url: Option<&Url>,
        service: Option<&ServicePort>,
        port: WorkerPort,
    ) -> Result<WorkerClient, Failure> {
        let worker = self.connect_without_namespace(url, service, port).await?;
        self.require_namespace()?;
        Ok(worker)
    }

    async fn connect_without_namespace(
        &self,
        url: Option<&Url>,
        service: Option<&ServicePort>,
        port: WorkerPort,
    ) -> Result<WorkerClient, Failure> {
        match self.route(url, service, port).await? {
            WorkerRoute::Url { url, token_file, ca_file } => {
                WorkerClient::new(&url, token_file.as_ref(), ca_file.as_ref())
            }
            WorkerRoute::Service { cluster, service, token } => {
                let (token, token_file) = match token {
                    CallerToken::Requested(tokens) => (Some(tokens.request().await?.token), None),
                    CallerToken::File(path) => (None, Some(path)),
                    CallerToken::None => (None, None),
                };
                WorkerClient::proxied(cluster.client, cluster.server, &service, token, token_file.as_ref())
            }
        }
    }

    /// Finds the route to the worker's port, the source of the tokens, and the namespace.
    async fn route(
        &self,
        url: Option<&Url>,
        service: Option<&ServicePort>,
        port: WorkerPort,
    ) -> Result<WorkerRoute, Failure> {
        let profile = self.target.profile()?;
        match self.target.place(&profile, url, service, port).await? {
            WorkerPlace::Url(url) => {
                self.resolve_namespace(&profile, None);
                let token_file = self.token_file.as_ref().or(profile.token_file.as_ref()).cloned();
                let ca_file = self.target.ca_file(&profile).cloned();
                Ok(WorkerRoute::Url { url, token_file, ca_file })
            }
            WorkerPlace::Service { cluster, service, is_found } => {
                self.resolve_namespace(&profile, Some(&cluster.namespace));
                let token = self.service_token(&profile, &cluster, is_found);
                Ok(WorkerRoute::Service { cluster, service, token })
            }
        }
    }

    /// `is_found`: the Service was found by its labels, so that there is a default account.
    fn service_token(&self, profile: &Profile, cluster: &ServiceCluster, is_found: bool) -> CallerToken {
        // A flag takes precedence over either setting of the profile.
        let (mut token_file, mut account) = (self.token_file.as_ref(), self.service_account.as_deref());
        if token_file.is_none() && account.is_none() {
            (token_file, account) = (profile.token_file.as_ref(), profile.service_account.as_deref());
        }
        let default_account = (is_found && token_file.is_none()).then_some(DEFAULT_ACCOUNT);
        match (account.or(default_account), token_file) {
            (Some(account), _) => {
                let audience = self.token_audience.as_ref().or(profile.token_audience.as_ref());
                let audience = audience.map_or(DEFAULT_AUDIENCE, String::as_str);
                CallerToken::Requested(ServiceTokens::new(cluster, &self.namespace, account, audience))
            }
            (None, Some(path)) => CallerToken::File(path.clone()),
            (None, None) => CallerToken::None,
        }
    }

    /// Sets the namespace if no flag gave it: to that of the profile, otherwise to that of the kubeconfig's context.
    fn resolve_namespace(&self, profile: &Profile, of_context: Option<&str>) {
        let namespace = profile.namespace.as_deref().or(of_context).filter(|text| !text.is_empty());
        if let Some(namespace) = namespace.filter(|_| self.namespace.is_empty()) {
            // Cannot fail: the namespace is empty.
            self.namespace.0.set(namespace.to_owned()).ok();
        }
    }

    fn require_namespace(&self) -> Result<(), Failure> {
        if self.namespace.is_empty() {
            let message = "no namespace: give --namespace, or a profile or kubeconfig context that has one";
            return Err(Failure::new(message));
        }
        Ok(())
    }
}
