//! `Connection`: how to reach one admin API.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with_macros::skip_serializing_none;

use super::common::{told_by_the_field, *};

/// How to reach one admin API: its address, credentials and limits. Exactly one of kong, auth0.
#[skip_serializing_none]
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "hookstream.dev",
    version = "v1alpha1",
    kind = "Connection",
    namespaced,
    status = "ConnectionStatus",
    shortname = "conn",
    category = "hookstream",
    doc = "A Connection tells how to reach one admin API (Kong's or Auth0's): address, credentials, limits.",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].reason"}"#,
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".status.version"}"#,
    printcolumn = r#"{"name":"Admin URL","type":"string","priority":1,"jsonPath":".spec.kong.adminUrl"}"#,
    printcolumn = r#"{"name":"Domain","type":"string","priority":1,"jsonPath":".spec.auth0.domain"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.kong), has(self.auth0)].filter(x, x).size() == 1").message("exactly one of kong, auth0 must be set"))]
#[x_kube(validation = Rule::new("has(self.kong) == has(oldSelf.kong)").message("a Connection cannot change from one vendor to another: make a new Connection"))]
#[x_kube(validation = Rule::new("!has(self.kong) || !has(oldSelf.kong) || (has(self.kong.workspace) ? self.kong.workspace : 'default') == (has(oldSelf.kong.workspace) ? oldSelf.kong.workspace : 'default')").message("kong.workspace is immutable: make a new Connection"))]
#[x_kube(validation = Rule::new("!has(self.auth0) || !has(oldSelf.auth0) || self.auth0.domain == oldSelf.auth0.domain").message("auth0.domain is immutable: make a new Connection"))]
pub struct ConnectionSpec {
    /// A Kong Gateway Enterprise admin API.
    pub kong: Option<KongConnection>,
    /// An Auth0 tenant's Management API.
    pub auth0: Option<Auth0Connection>,
    /// The address under which this vendor reaches the worker, without a path. Default: the operator's flag
    /// --ingest-url (Kong) or --public-ingest-url (Auth0).
    pub ingest_url: Option<UrlText>,
    /// How often the admin API is called at most. Default: 2 requests a second with bursts of 5 for Auth0, no limit
    /// but the operator's ceiling a host for Kong. At least one request in 30s.
    pub rate_limit: Option<RateLimit>,
    /// How often objects are compared with the vendor and repaired. Default: the operator's flag --resync-interval,
    /// 10m.
    pub resync_interval: Option<DurationText>,
    /// What happens at the vendor when an object is deleted that does not say so itself. Default: Delete.
    pub deletion_policy: Option<DeletionPolicy>,
}

/// A Kong Gateway Enterprise admin API.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "camelCase")]
pub struct KongConnection {
    /// Address of the admin API, for example https://kong-admin.kong.svc:8444.
    pub admin_url: UrlText,
    /// The workspace, a prefix of the address. Immutable. Default: default, which is addressed without a prefix.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9._~-]+$"))]
    pub workspace: Option<String>,
    /// The RBAC token. Left out: no token is sent, for gateways with RBAC off.
    pub token_secret_ref: Option<SecretKeyRef>,
    /// The header that carries the token, as rbac_auth_header of the gateway says. Default: Kong-Admin-Token.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9-]+$"))]
    pub token_header: Option<String>,
    /// How TLS is spoken to the admin API.
    pub tls: Option<Tls>,
    /// The handlers that objects with deliverBy: Gateway may use. Default: Webhook and Log. WebhookCustom and Lambda
    /// run code inside the gateway: they are refused unless named here.
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "set"))]
    pub gateway_handlers: Option<Vec<HandlerKind>>,
}

/// The four handlers, by name.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::IntoStaticStr,
)]
#[schemars(transform = told_by_the_field)]
pub enum HandlerKind {
    Webhook,
    WebhookCustom,
    Log,
    Lambda,
}

/// An Auth0 tenant's Management API. Exactly one of clientCredentials, tokenSecretRef.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.clientCredentials), has(self.tokenSecretRef)].filter(x, x).size() == 1").message("exactly one of clientCredentials, tokenSecretRef must be set"))]
pub struct Auth0Connection {
    /// The tenant's canonical domain, for example acme.eu.auth0.com. Immutable.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([a-z0-9.:-]*[a-z0-9])?$"))]
    pub domain: String,
    /// The audience of the access token. Default: https://<domain>/api/v2/
    #[schemars(length(min = 1, max = 2048))]
    pub audience: Option<String>,
    /// A machine-to-machine application; the operator gets and renews the tokens.
    pub client_credentials: Option<ClientCredentials>,
    /// A ready access token, renewed by somebody else.
    pub token_secret_ref: Option<SecretKeyRef>,
}

/// The credentials of a machine-to-machine application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "camelCase")]
pub struct ClientCredentials {
    /// The application's client id.
    #[schemars(length(min = 1, max = 256))]
    pub client_id: String,
    /// Where its client secret stands.
    pub client_secret_ref: SecretKeyRef,
}

/// What the operator knows of the admin API.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionStatus {
    /// The generation that the conditions speak of.
    pub observed_generation: Option<i64>,
    /// Ready, Synced, Reconciling, Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The version that the admin API tells of itself.
    #[schemars(length(max = 128))]
    pub version: Option<String>,
    /// What the admin API was found to be able to do, forgotten when its version changes.
    pub capabilities: Option<Capabilities>,
    /// Commands given by annotation that were carried out.
    pub handled: Option<Handled>,
    /// The last error of the admin API.
    pub last_error: Option<Box<LastError>>,
}

/// What the admin API was found to be able to do. What is absent is not yet known.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// PUT to an id that the operator chose creates an object.
    pub put: Option<bool>,
    /// POST takes an id that the operator chose.
    pub client_id: Option<bool>,
    /// PATCH changes an object.
    pub patch: Option<bool>,
}
