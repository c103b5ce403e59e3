//! Flags that select a worker and a caller. The worker is at a URL, or at a Service that is reached through the API
//! server with the user's kubeconfig.
//!
//! The API server's proxy drops the Authorization header and does not forward the user's identity. The worker therefore
//! accepts the token in a separate header too. `--service-account` requests a token from the API server: for a
//! ServiceAccount of the namespace, for the worker's audience, and for ten minutes. The caller then has the permissions
//! of that ServiceAccount; RBAC decides who may request such a token (`create serviceaccounts/token`).

use std::path::PathBuf;
use std::str::FromStr;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client};
use secrecy::SecretString;
use url::Url;

use super::failure::{Failure, OrFail};
use super::flags::parse_url;
use super::kubeconfig::{ApiServer, create_client, load_config};
use super::worker_client::WorkerClient;

/// The lifetime of a token: the shortest that the API server grants.
const TOKEN_SECONDS: i64 = 600;

/// Flags of commands that call the worker's API port.
#[derive(clap::Args)]
pub struct WorkerApiArgs {
    #[command(flatten)]
    pub caller: CallerArgs,
    #[command(flatten)]
    location: WorkerLocationArgs,
}

/// Flags that locate the worker's API port.
#[derive(clap::Args)]
pub struct WorkerLocationArgs {
    /// The URL of the worker's API port.
    #[arg(long, default_value = "http://127.0.0.1:8082", value_name = "URL", value_parser = parse_url, env = "HOOKSTREAM_API_URL")]
    url: Url,
    /// Reach the worker in the cluster instead, through the API server and your kubeconfig. Requires permission to get and
    /// create services/proxy. Without a value: the chart's Service.
    #[arg(long, default_service = "hookstream-system/hookstream-api:api", env = "HOOKSTREAM_API_SERVICE")]
    service: Option<ServicePort>,
}

/// Flags that identify the caller and the namespace.
#[derive(clap::Args)]
pub struct CallerArgs {
    /// The namespace of the events and hooks.
    // Not HOOKSTREAM_NAMESPACE, the list of namespaces in which a role works.
    #[arg(short, long, value_name = "NAMESPACE", env = "HOOKSTREAM_EVENT_NAMESPACE")]
    pub namespace: String,
    /// A file with the bearer token to send. Default: no token.
    #[arg(long, value_name = "FILE", env = "HOOKSTREAM_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// With --service, call as this ServiceAccount of the namespace. Requires permission to create serviceaccounts/token.
    #[arg(long, value_name = "NAME", conflicts_with = "token_file", env = "HOOKSTREAM_SERVICE_ACCOUNT")]
    pub service_account: Option<String>,
    /// The audience that the worker requires (its --token-audience).
    #[arg(long, default_value = "hookstream", value_name = "AUDIENCE", env = "HOOKSTREAM_TOKEN_AUDIENCE")]
    pub token_audience: String,
}

/// Defines flags that name a Service.
pub trait ServiceFlag {
    /// Makes the value optional; the flag without a value means `service`.
    fn default_service(self, service: &'static str) -> Self;
}

impl ServiceFlag for clap::Arg {
    fn default_service(self, service: &'static str) -> Self {
        // A value needs an equals sign, because the word after the flag may be the next argument.
        self.value_name("NAMESPACE/NAME:PORT")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value(service)
    }
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    namespace: String,
    name: String,
    port: String,
}

impl FromStr for ServicePort {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_name = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        let (namespace, rest) = text.split_once('/').unwrap_or_default();
        let (service, port) = rest.split_once(':').unwrap_or_default();
        if ![namespace, service, port].into_iter().all(is_name) {
            return Err("must be NAMESPACE/NAME:PORT, such as hookstream-system/hookstream-api:api");
        }
        Ok(ServicePort { namespace: namespace.into(), name: service.into(), port: port.into() })
    }
}

impl WorkerApiArgs {
    /// Creates a client of the worker.
    pub async fn connect(&self) -> Result<WorkerClient, Failure> {
        self.caller.connect(&self.location.url, self.location.service.as_ref()).await
    }
}

impl WorkerLocationArgs {
    /// Creates a client for requests that need no right.
    pub async fn connect_without_token(&self) -> Result<WorkerClient, Failure> {
        match &self.service {
            None => WorkerClient::new(&self.url, None),
            Some(service) => {
                let (client, server) = service_client().await?;
                WorkerClient::proxied(client, server, &service.proxy_path(), None, None)
            }
        }
    }
}

impl ServicePort {
    /// Returns the path of the API server that leads to the Service.
    fn proxy_path(&self) -> String {
        let ServicePort { namespace, name, port } = self;
        format!("/api/v1/namespaces/{namespace}/services/{name}:{port}/proxy")
    }
}

/// Creates a client of the API server for calls of a Service.
async fn service_client() -> Result<(Client, ApiServer), Failure> {
    let mut config = load_config().await?;
    // Do not retry: a user waits, and a call of a Service without endpoints should fail immediately.
    config.default_retry = false;
    let server = ApiServer::of(&config);
    Ok((create_client(config)?, server))
}

impl CallerArgs {
    /// Creates a client of the worker at the Service if one is given, otherwise at the URL.
    pub async fn connect(&self, url: &Url, service: Option<&ServicePort>) -> Result<WorkerClient, Failure> {
        let Some(service) = service else {
            return WorkerClient::new(url, self.token_file.as_ref());
        };
        let (client, server) = service_client().await?;
        let token = match &self.service_account {
            Some(account) => Some(self.request_token(&client, &server, account).await?),
            None => None,
        };
        WorkerClient::proxied(client, server, &service.proxy_path(), token, self.token_file.as_ref())
    }

    /// Requests a token of a ServiceAccount for the worker's audience.
    async fn request_token(
        &self,
        client: &Client,
        server: &ApiServer,
        account: &str,
    ) -> Result<SecretString, Failure> {
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &self.namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![self.token_audience.clone()],
                expiration_seconds: Some(TOKEN_SECONDS),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let action = || format!("requesting a token of ServiceAccount {}/{account}", self.namespace);
        let response = accounts.create_token_request(account, &PostParams::default(), &request).await;
        let describe = |error: kube::Error| match &error {
            kube::Error::Api(status) if status.code == 404 => {
                "it does not exist: create it, or name another with --service-account".to_owned()
            }
            _ => server.describe(&error),
        };
        let response = response.map_err(describe).or_fail(action)?;
        let token = response.status.map(|status| status.token).filter(|token| !token.is_empty());
        token
            .map(SecretString::from)
            .ok_or_else(|| Failure::new(format!("{}: the API server returned none", action())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_services() {
        let parsed: ServicePort = "a-b/c:api".parse().unwrap();
        assert_eq!(parsed, ServicePort { namespace: "a-b".into(), name: "c".into(), port: "api".into() });
        for text in ["", "a", "a/b", "a:b", "/b:c", "a/:c", "a/b:", "a/../b:c", "a/b:c/d", "A/b:c"] {
            assert!(text.parse::<ServicePort>().is_err(), "{text}");
        }
    }
}
