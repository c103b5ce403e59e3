//! `Connection`: address, credentials and limits of an admin API.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with_macros::skip_serializing_none;

use super::common::{use_field_description, *};

/// Address, credentials and limits of an admin API. Exactly one of kong, auth0.
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
    doc = "A Connection defines how the operator reaches an admin API (Kong's or Auth0's): address, credentials and limits.",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].reason"}"#,
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".status.version"}"#,
    printcolumn = r#"{"name":"Admin URL","type":"string","priority":1,"jsonPath":".spec.kong.adminUrl"}"#,
    printcolumn = r#"{"name":"Domain","type":"string","priority":1,"jsonPath":".spec.auth0.domain"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.kong), has(self.auth0)].filter(x, x).size() == 1").message("exactly one of kong, auth0 must be set"))]
#[x_kube(validation = Rule::new("has(self.kong) == has(oldSelf.kong)").message("a Connection cannot change from one vendor to another: create a new Connection"))]
#[x_kube(validation = Rule::new("!has(self.kong) || !has(oldSelf.kong) || (has(self.kong.workspace) ? self.kong.workspace : 'default') == (has(oldSelf.kong.workspace) ? oldSelf.kong.workspace : 'default')").message("kong.workspace is immutable: create a new Connection"))]
#[x_kube(validation = Rule::new("!has(self.auth0) || !has(oldSelf.auth0) || self.auth0.domain == oldSelf.auth0.domain").message("auth0.domain is immutable: create a new Connection"))]
pub struct ConnectionSpec {
    /// A Kong Gateway Enterprise admin API.
    pub kong: Option<KongConnection>,
    /// The Management API of an Auth0 tenant.
    pub auth0: Option<Auth0Connection>,
    /// The base URL, without a path, at which the vendor reaches the worker. Default: the operator's flag --ingest-url
    /// (Kong) or --public-ingest-url (Auth0).
    pub ingest_url: Option<UrlText>,
    /// The maximum rate of requests to the admin API, at least one request in 30s. Default: 2 requests per second with
    /// bursts of 5 for Auth0; for Kong only the operator's limit per host.
    pub rate_limit: Option<RateLimit>,
    /// The interval at which objects are compared with the vendor and drift is repaired. Default: the operator's flag
    /// --resync-interval, 10m.
    pub resync_interval: Option<DurationText>,
    /// Delete or Orphan: what happens at the vendor when an object without its own deletionPolicy is deleted. Default:
    /// Delete.
    pub deletion_policy: Option<DeletionPolicy>,
}

/// A Kong Gateway Enterprise admin API.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[schemars(transform = use_field_description)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.tokenSecretRef) || (has(self.allowInsecureHttp) && self.allowInsecureHttp) || !self.adminUrl.startsWith('http://') || self.adminUrl.lowerAscii().matches('^http://(localhost|127([.][0-9]{1,3}){3}|[[]::1[]])(:[0-9]*)?([/?#]|$)')").message("the token would be sent unencrypted: use https in adminUrl, or set allowInsecureHttp: true if every network on the path is trusted"))]
pub struct KongConnection {
    /// URL of the admin API, for example https://kong-admin.kong.svc:8444. A token requires https, a loopback address, or
    /// allowInsecureHttp.
    pub admin_url: UrlText,
    /// Permits to send the token over plain http to a host that is not a loopback address. Anyone on the network path can
    /// then read the token. Default: false.
    pub allow_insecure_http: Option<bool>,
    /// The Kong workspace, which becomes the first segment of request paths. Immutable. Default: the workspace default,
    /// which has no path segment.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9._~-]+$"))]
    pub workspace: Option<String>,
    /// The Secret key that contains the RBAC token. Default: no token is sent, for gateways without RBAC.
    pub token_secret_ref: Option<SecretKeyRef>,
    /// The request header for the token. Must equal the gateway's setting rbac_auth_header. Default: Kong-Admin-Token.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9-]+$"))]
    pub token_header: Option<String>,
    /// TLS settings for the admin API. Default: the system's certificate authorities, no client certificate.
    pub tls: Option<Tls>,
    /// The handlers that EventHooks with deliverBy: Gateway may use, up to 4. WebhookCustom and Lambda run code inside
    /// the gateway, so they are rejected unless they are listed here. Default: Webhook and Log.
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "set"))]
    pub gateway_handlers: Option<Vec<HandlerKind>>,
}

/// The kinds of handlers.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::IntoStaticStr,
)]
#[schemars(transform = use_field_description)]
pub enum HandlerKind {
    Webhook,
    WebhookCustom,
    Log,
    Lambda,
}

/// The Management API of an Auth0 tenant. Exactly one of clientCredentials, tokenSecretRef.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[schemars(transform = use_field_description)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.clientCredentials), has(self.tokenSecretRef)].filter(x, x).size() == 1").message("exactly one of clientCredentials, tokenSecretRef must be set"))]
pub struct Auth0Connection {
    /// The tenant's canonical domain, for example acme.eu.auth0.com. Immutable.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([a-z0-9.:-]*[a-z0-9])?$"))]
    pub domain: String,
    /// The audience of the access token. Default: https://<domain>/api/v2/
    #[schemars(length(min = 1, max = 2048))]
    pub audience: Option<String>,
    /// The credentials of a machine-to-machine application. The operator obtains and renews access tokens with them.
    pub client_credentials: Option<ClientCredentials>,
    /// The Secret key that contains an access token. The operator does not renew this token.
    pub token_secret_ref: Option<SecretKeyRef>,
}

/// The credentials of a machine-to-machine application. Exactly one of clientSecretRef, privateKeyRef.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[schemars(transform = use_field_description)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.clientSecretRef), has(self.privateKeyRef)].filter(x, x).size() == 1").message("exactly one of clientSecretRef, privateKeyRef must be set"))]
#[x_kube(validation = Rule::new("has(self.privateKeyRef) || !has(self.signingAlgorithm)").message("signingAlgorithm requires privateKeyRef"))]
#[x_kube(validation = Rule::new("has(self.privateKeyRef) || !has(self.keyId)").message("keyId requires privateKeyRef"))]
pub struct ClientCredentials {
    /// The client id of the application.
    #[schemars(length(min = 1, max = 256))]
    pub client_id: String,
    /// The Secret key that contains the client secret.
    pub client_secret_ref: Option<SecretKeyRef>,
    /// The Secret key that contains an RSA private key of 2048 to 4096 bits in PEM format (PKCS#8 or PKCS#1, without a
    /// passphrase), for an application with the authentication method Private Key JWT. Auth0 has the public key.
    pub private_key_ref: Option<SecretKeyRef>,
    /// RS256, RS384 or PS256: the algorithm of the application's credential at Auth0. Default: RS256.
    pub signing_algorithm: Option<AssertionAlgorithm>,
    /// The key id (kid) of the application's credential at Auth0. Default: none is sent, and Auth0 tries each credential.
    #[schemars(length(min = 1, max = 128))]
    pub key_id: Option<String>,
}

/// The algorithms with which Auth0 accepts client assertions.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    strum::IntoStaticStr,
    strum::EnumString,
)]
#[schemars(transform = use_field_description)]
pub enum AssertionAlgorithm {
    #[default]
    RS256,
    RS384,
    PS256,
}

/// The observed state of the admin API.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionStatus {
    /// The generation of the spec that the conditions refer to.
    pub observed_generation: Option<i64>,
    /// The conditions Ready, Synced, Reconciling and Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The version that the admin API reports.
    #[schemars(length(max = 128))]
    pub version: Option<String>,
    /// The detected capabilities of the admin API. Reset when its version changes.
    pub capabilities: Option<Capabilities>,
    /// Annotation commands that were executed.
    pub handled: Option<Handled>,
    /// The last error of the admin API.
    pub last_error: Option<Box<LastError>>,
    /// The addresses that the Connection had, the current one first, up to 8. A former address receives only the
    /// credentials that were configured for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub addresses: Vec<ConfiguredAddress>,
}

/// An address of the admin API, and the credentials that were configured for it.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
#[serde(rename_all = "camelCase")]
pub struct ConfiguredAddress {
    /// The address.
    #[schemars(length(max = 2048))]
    pub endpoint: String,
    /// Keyed hash of the last credentials. Absent if the address had no credentials.
    #[schemars(length(max = 128))]
    pub credentials_hash: Option<String>,
    /// When another address replaced it, RFC 3339. Absent for the current address.
    #[schemars(length(max = 64))]
    pub replaced_at: Option<String>,
}

/// The detected capabilities of the admin API. An absent member is not known yet.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// Whether PUT with an id of the operator's choice creates an object.
    pub put: Option<bool>,
    /// Whether POST accepts an id of the operator's choice.
    pub client_id: Option<bool>,
    /// Whether PATCH updates an object.
    pub patch: Option<bool>,
}
