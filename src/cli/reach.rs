//! Where a worker is: an address, or a Service of the cluster, reached through the API server with the user's kubeconfig.
//!
//! The API server's proxy drops the Authorization header of what it passes on, and does not say who asks. So the worker is
//! shown a token in a header of its own: one that the API server makes for a ServiceAccount of the namespace, for the
//! worker's audience and for ten minutes. What it may do is what that ServiceAccount may; who may ask for such a token is
//! the cluster's to say (`create serviceaccounts/token`).

use std::path::PathBuf;
use std::str::FromStr;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client};
use secrecy::SecretString;
use url::Url;

use super::http::Worker;
use super::{Failure, OrFail};

/// The shortest time that the API server grants.
const TOKEN_SECONDS: i64 = 600;

/// Where the worker's API port is, and on whose behalf it is asked.
#[derive(clap::Args)]
pub struct Reach {
    #[command(flatten)]
    pub caller: Caller,
    /// The address of the worker's API port.
    #[arg(long, default_value = "http://127.0.0.1:8082", env = "HOOKSTREAM_API_URL")]
    url: Url,
    /// Reach the worker in the cluster instead, through the API server and your kubeconfig. Takes the right to get and
    /// create services/proxy. Default: the chart's.
    #[arg(long, or_the_charts = "hookstream-system/hookstream-api:api", env = "HOOKSTREAM_API_SERVICE")]
    service: Option<Service>,
}

/// On whose behalf a worker is asked.
#[derive(clap::Args)]
pub struct Caller {
    /// The namespace.
    #[arg(short, long, value_name = "NAMESPACE", env = "HOOKSTREAM_NAMESPACE")]
    pub namespace: String,
    /// A file with the bearer token. Default: none is sent.
    #[arg(long, value_name = "FILE", env = "HOOKSTREAM_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// With --service, ask as this ServiceAccount of the namespace. Takes the right to create serviceaccounts/token.
    #[arg(long, value_name = "NAME", conflicts_with = "token_file", env = "HOOKSTREAM_SERVICE_ACCOUNT")]
    pub service_account: Option<String>,
    /// The audience that the worker wants (its --token-audience).
    #[arg(long, default_value = "hookstream", env = "HOOKSTREAM_TOKEN_AUDIENCE")]
    pub token_audience: String,
}

/// For flags that name a Service.
pub trait ServiceFlag {
    /// Given without a value, it means this one.
    fn or_the_charts(self, service: &'static str) -> Self;
}

impl ServiceFlag for clap::Arg {
    fn or_the_charts(self, service: &'static str) -> Self {
        // With an equals sign only: what follows the flag may be the next argument.
        self.value_name("NAMESPACE/NAME:PORT")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value(service)
    }
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    namespace: String,
    name: String,
    port: String,
}

impl FromStr for Service {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        let (namespace, rest) = text.split_once('/').unwrap_or_default();
        let (service, port) = rest.split_once(':').unwrap_or_default();
        if ![namespace, service, port].into_iter().all(name) {
            return Err("must be NAMESPACE/NAME:PORT, such as hookstream-system/hookstream-api:api");
        }
        Ok(Service { namespace: namespace.into(), name: service.into(), port: port.into() })
    }
}

impl Reach {
    /// The worker to call.
    pub async fn worker(&self) -> Result<Worker, Failure> {
        self.caller.worker(&self.url, self.service.as_ref()).await
    }
}

impl Caller {
    /// The worker at the Service, or else at the address.
    pub async fn worker(&self, url: &Url, service: Option<&Service>) -> Result<Worker, Failure> {
        let Some(service) = service else {
            return Worker::new(url, self.token_file.as_ref());
        };
        let mut config = super::cluster::config().await?;
        // Somebody waits: a Service without a worker behind it is said at once.
        config.default_retry = false;
        let client = Client::try_from(config).or_fail(|| "the cluster's configuration".into())?;
        let token = match &self.service_account {
            Some(account) => Some(self.token(&client, account).await?),
            None => None,
        };
        let Service { namespace, name, port } = service;
        let path = format!("/api/v1/namespaces/{namespace}/services/{name}:{port}/proxy");
        Worker::proxied(client, &path, token, self.token_file.as_ref())
    }

    async fn token(&self, client: &Client, account: &str) -> Result<SecretString, Failure> {
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &self.namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![self.token_audience.clone()],
                expiration_seconds: Some(TOKEN_SECONDS),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let asking = || format!("asking for a token of the ServiceAccount {account} in {}", self.namespace);
        let answer =
            accounts.create_token_request(account, &PostParams::default(), &request).await.or_fail(asking)?;
        let token = answer.status.map(|status| status.token).filter(|token| !token.is_empty());
        token.map(SecretString::from).ok_or_else(|| Failure::new(format!("{}: none came", asking())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services() {
        let parsed: Service = "a-b/c:api".parse().unwrap();
        assert_eq!(parsed, Service { namespace: "a-b".into(), name: "c".into(), port: "api".into() });
        for text in ["", "a", "a/b", "a:b", "/b:c", "a/:c", "a/b:", "a/../b:c", "a/b:c/d", "A/b:c"] {
            assert!(text.parse::<Service>().is_err(), "{text}");
        }
    }
}
