//! A namespace for one test.

use std::path::{Path, PathBuf};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Client;
use kube::api::{Api, PostParams};

use super::control_plane;

pub struct Namespace {
    pub name: String,
}

impl Namespace {
    /// Runs `kubectl apply` with strict validation. Returns its output or the rejection.
    pub async fn apply(&self, yaml: &str) -> Result<String, String> {
        let args = ["-n", &self.name, "apply", "--validate=strict", "-f", "-"];
        control_plane().kubectl(args, yaml).await
    }

    /// Runs kubectl in this namespace.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        control_plane().kubectl(["-n", &self.name].iter().chain(args), "").await
    }

    /// Returns a client with all rights for the caller's runtime.
    pub async fn client(&self) -> Client {
        control_plane().client().await
    }

    /// Creates a ServiceAccount with exactly the rights of `rules` (a YAML list as in a Role). Returns a kubeconfig file with
    /// its token.
    pub async fn service_account(&self, name: &str, rules: &str) -> PathBuf {
        let rules: serde_json::Value = serde_saphyr::from_str(rules).expect("rules");
        let account =
            serde_json::json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
        let role = serde_json::json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name}, "rules": rules,
        });
        let binding = serde_json::json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": self.name}],
        });
        self.apply(&format!("{account}\n---\n{role}\n---\n{binding}\n"))
            .await
            .expect("the account's objects");
        self.kubeconfig_of(name).await
    }

    /// Applies a file with the account, roles and bindings, such as the output of `helm template`. Returns a kubeconfig file
    /// with the account's token.
    pub async fn service_account_from(&self, name: &str, manifests: &Path) -> PathBuf {
        let path = manifests.to_str().expect("a path in UTF-8");
        self.kubectl(&["apply", "--validate=strict", "-f", path]).await.expect("the account's objects");
        self.kubeconfig_of(name).await
    }

    /// Returns a kubeconfig file with a fresh token of an existing ServiceAccount.
    pub async fn kubeconfig_of(&self, account: &str) -> PathBuf {
        let token = self.token(account, &[]).await;
        control_plane().kubeconfig(&token, &self.name)
    }

    /// Returns a fresh token of a ServiceAccount for these audiences; none means the API server's own.
    pub async fn token(&self, account: &str, audiences: &[&str]) -> String {
        // Not by kubectl: every test needs several tokens, and a process for each would dominate the run time.
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await, &self.name);
        let spec = TokenRequestSpec {
            audiences: audiences.iter().map(ToString::to_string).collect(),
            expiration_seconds: Some(3600),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let token = accounts.create_token_request(account, &PostParams::default(), &request).await;
        token.expect("a token").status.expect("a token").token
    }
}
