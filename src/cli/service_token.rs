//! Short-lived tokens of a ServiceAccount, which the API server issues for the worker's audience.

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use secrecy::SecretString;

use super::failure::{Failure, OrFail};
use super::kubeconfig::ApiServer;
use super::service::ServiceCluster;

/// The lifetime of a token: the shortest that the API server grants.
pub const TOKEN_SECONDS: i64 = 600;

/// Requests tokens of one ServiceAccount.
pub struct ServiceTokens {
    accounts: Api<ServiceAccount>,
    server: ApiServer,
    namespace: String,
    account: String,
    audience: String,
}

/// A token that was issued.
pub struct IssuedToken {
    pub token: SecretString,
    /// Unix time in seconds. The API server may grant another lifetime than the requested one.
    pub expires_at: i64,
}

impl ServiceTokens {
    pub fn new(cluster: &ServiceCluster, namespace: &str, account: &str, audience: &str) -> Self {
        ServiceTokens {
            accounts: Api::namespaced(cluster.client.clone(), namespace),
            server: cluster.server.clone(),
            namespace: namespace.to_owned(),
            account: account.to_owned(),
            audience: audience.to_owned(),
        }
    }

    /// Requests a token.
    pub async fn request(&self) -> Result<IssuedToken, Failure> {
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![self.audience.clone()],
                expiration_seconds: Some(TOKEN_SECONDS),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let action = || format!("requesting a token of ServiceAccount {}/{}", self.namespace, self.account);
        let response =
            self.accounts.create_token_request(&self.account, &PostParams::default(), &request).await;
        let describe = |error: kube::Error| match &error {
            kube::Error::Api(status) if status.code == 404 => {
                "it does not exist: create it, or name another with --service-account".to_owned()
            }
            _ => self.server.describe(&error),
        };
        let response = response.map_err(describe).or_fail(action)?;
        response
            .status
            .filter(|status| !status.token.is_empty())
            .map(|status| IssuedToken {
                token: SecretString::from(status.token),
                expires_at: status.expiration_timestamp.0.as_second(),
            })
            .ok_or_else(|| Failure::new(format!("{}: the API server returned none", action())))
    }
}
