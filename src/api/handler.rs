//! Handlers of an EventHook and request signatures.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with_macros::skip_serializing_none;

use super::common::{use_field_description, *};

/// The action for an event. Exactly one of webhook, webhookCustom, log, lambda.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[schemars(transform = use_field_description)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.webhook), has(self.webhookCustom), has(self.log), has(self.lambda)].filter(x, x).size() == 1").message("exactly one of webhook, webhookCustom, log, lambda must be set (log is written log: {})"))]
pub struct Handler {
    /// Sends the event as a JSON POST request.
    pub webhook: Option<Webhook>,
    /// Sends a request with a method, headers and body of your choice.
    pub webhook_custom: Option<Box<WebhookCustom>>,
    /// Writes the event to the worker's log. Write it as log: {}
    pub log: Option<Log>,
    /// Runs Lua functions with the event in a sandbox.
    pub lambda: Option<Lambda>,
}

/// Sends the event as a JSON POST request. Exactly one of url, urlSecretRef.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[schemars(transform = use_field_description)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.url), has(self.urlSecretRef)].filter(x, x).size() == 1").message("exactly one of url, urlSecretRef must be set"))]
#[x_kube(validation = Rule::new("!has(self.oauth2) || ((!has(self.headers) || self.headers.all(name, name.lowerAscii() != 'authorization')) && (!has(self.headersFrom) || self.headersFrom.all(from, from.name.lowerAscii() != 'authorization')))").message("oauth2 sets the header authorization: remove it from headers and headersFrom"))]
pub struct Webhook {
    /// The URL of the receiver.
    pub url: Option<UrlText>,
    /// The Secret key that contains the URL, for URLs that are themselves secret.
    pub url_secret_ref: Option<Box<SecretKeyRef>>,
    /// Request headers, up to 64. content-type is set by format unless it is set here.
    #[serde(default)]
    #[schemars(schema_with = "headers_schema")]
    pub headers: Option<BTreeMap<String, String>>,
    /// Request headers whose values come from Secrets, up to 16.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub headers_from: Option<Vec<HeaderFrom>>,
    /// The format of the request. Kong: the members of data plus source and event. CloudEvents: a structured CloudEvents 1.0
    /// event. CloudEventsBinary: the data as the body, the attributes as ce- headers. Default: Kong.
    pub format: Option<Format>,
    /// Whether the worker requests the receiver's permission before the first delivery (OPTIONS, the handshake of CloudEvents
    /// webhooks), and then each hour. Deliveries obey the rate that the receiver grants. Default: false.
    pub handshake: Option<bool>,
    /// The signature of requests. Default: requests are not signed.
    pub signature: Option<Signature>,
    /// OAuth2 client credentials: requests carry an access token in the header authorization. Default: none.
    pub oauth2: Option<Box<OAuth2>>,
    /// TLS settings for the receiver. Default: the system's certificate authorities, no client certificate.
    pub tls: Option<Box<Tls>>,
}

/// Sends a request with a method, headers and body of your choice. Exactly one of url, urlSecretRef; at most one of
/// payload, body.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[schemars(transform = use_field_description)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.url), has(self.urlSecretRef)].filter(x, x).size() == 1").message("exactly one of url, urlSecretRef must be set"))]
#[x_kube(validation = Rule::new("!(has(self.payload) && has(self.body))").message("payload and body are mutually exclusive: remove one of them"))]
#[x_kube(validation = Rule::new("!has(self.oauth2) || ((!has(self.headers) || self.headers.all(name, name.lowerAscii() != 'authorization')) && (!has(self.headersFrom) || self.headersFrom.all(from, from.name.lowerAscii() != 'authorization')))").message("oauth2 sets the header authorization: remove it from headers and headersFrom"))]
pub struct WebhookCustom {
    /// The URL of the receiver.
    pub url: Option<UrlText>,
    /// The Secret key that contains the URL, for URLs that are themselves secret.
    pub url_secret_ref: Option<Box<SecretKeyRef>>,
    /// The HTTP method. Default: POST.
    pub method: Option<Method>,
    /// Request headers, up to 64.
    #[serde(default)]
    #[schemars(schema_with = "headers_schema")]
    pub headers: Option<BTreeMap<String, String>>,
    /// Request headers whose values come from Secrets, up to 16.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub headers_from: Option<Vec<HeaderFrom>>,
    /// Whether header values are sent literally (Raw) or rendered as templates (Template). Default: Raw.
    pub headers_format: Option<TextFormat>,
    /// The body as a map. It is sent as JSON, or as a form if the content type is application/x-www-form-urlencoded.
    #[serde(default)]
    #[schemars(schema_with = "payload_schema")]
    pub payload: Option<serde_json::Map<String, serde_json::Value>>,
    /// Whether strings in payload are sent literally (Raw) or rendered as templates (Template). Default: Template.
    pub payload_format: Option<TextFormat>,
    /// The body as a string, at most 64 KiB.
    #[schemars(length(max = 65536))]
    pub body: Option<String>,
    /// Whether body is sent literally (Raw) or rendered as a template (Template). Default: Template.
    pub body_format: Option<TextFormat>,
    /// The signature of requests. Default: requests are not signed.
    pub signature: Option<Signature>,
    /// OAuth2 client credentials: requests carry an access token in the header authorization. Default: none.
    pub oauth2: Option<Box<OAuth2>>,
    /// TLS settings for the receiver. Default: the system's certificate authorities, no client certificate.
    pub tls: Option<Box<Tls>>,
}

/// The HTTP method of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

/// Whether a text is literal (Raw) or a template in the language of lua-resty-template (Template).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
pub enum TextFormat {
    Raw,
    Template,
}

/// Writes the event to the worker's log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
pub struct Log {}

/// Runs Lua functions with the event in a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
pub struct Lambda {
    /// Lua chunks, 1 to 16 of at most 64 KiB each. Each chunk returns a function (data, event, source, pid). The functions
    /// run in order; a function that returns true has delivered the event.
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 65536)), extend("x-kubernetes-list-type" = "atomic"))]
    pub functions: Vec<String>,
}

/// A request header whose value comes from a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[schemars(transform = use_field_description)]
#[serde(rename_all = "camelCase")]
pub struct HeaderFrom {
    /// Name of the header.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"))]
    #[x_kube(validation = Rule::new("!(self.lowerAscii() in ['host', 'content-length', 'connection', 'transfer-encoding', 'te', 'trailer', 'upgrade', 'keep-alive', 'proxy-connection'])").message("this header belongs to the connection and cannot be set"))]
    pub name: String,
    /// The Secret key that contains the value.
    pub secret_ref: SecretKeyRef,
}

/// The format of a webhook's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
pub enum Format {
    Kong,
    CloudEvents,
    CloudEventsBinary,
}

/// The signature of requests.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[schemars(transform = use_field_description)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.scheme) && self.scheme == 'StandardWebhooks' && has(self.algorithm) && self.algorithm == 'SHA1')").message("scheme: StandardWebhooks signs with SHA256: remove algorithm: SHA1"))]
#[x_kube(validation = Rule::new("!(has(self.scheme) && self.scheme == 'StandardWebhooks' && has(self.encoding))").message("encoding would be ignored with scheme: StandardWebhooks: remove it"))]
pub struct Signature {
    /// The Secret key that contains the signing secret. The value may contain several secrets, one per line, for rotation:
    /// Kong signatures use the first one as it is written; StandardWebhooks signatures use all, each whsec_ and base64 (HMAC)
    /// or whsk_ and base64 (Ed25519).
    pub secret_ref: SecretKeyRef,
    /// The signature headers. Kong: x-kong-signature over the body. StandardWebhooks: webhook-id, webhook-timestamp and
    /// webhook-signature. Default: Kong.
    pub scheme: Option<SignatureScheme>,
    /// The hash algorithm of the Kong signature. Default: SHA256.
    pub algorithm: Option<SignatureAlgorithm>,
    /// The encoding of the Kong signature. PrefixedHex: sha256=<hex>. Hex: <hex>. Default: PrefixedHex.
    pub encoding: Option<SignatureEncoding>,
}

/// OAuth2 client credentials (RFC 6749, section 4.4). The worker requests one token for all deliveries of the hook, and renews
/// it before it expires and when the receiver answers 401, at most once a minute.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[schemars(transform = use_field_description)]
#[serde(rename_all = "camelCase")]
pub struct OAuth2 {
    /// The URL of the token endpoint.
    pub token_url: TokenUrlText,
    /// The client id.
    #[schemars(length(min = 1, max = 512))]
    pub client_id: String,
    /// The Secret key that contains the client secret.
    pub client_secret_ref: SecretKeyRef,
    /// The requested scopes, up to 32. Default: those that the server grants.
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 256), regex(pattern = r"^[!#-\[\]-~]+$")), extend("x-kubernetes-list-type" = "set"))]
    pub scopes: Option<Vec<String>>,
    /// The audience, for servers that require one, such as Auth0. Default: none.
    #[schemars(length(min = 1, max = 1024))]
    pub audience: Option<String>,
    /// TLS settings for the token endpoint. Default: the system's certificate authorities, no client certificate.
    pub tls: Option<Box<Tls>>,
}

/// The signature scheme of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
pub enum SignatureScheme {
    Kong,
    StandardWebhooks,
}

/// The hash algorithm of an HMAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
pub enum SignatureAlgorithm {
    SHA256,
    SHA1,
}

/// The encoding of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
pub enum SignatureEncoding {
    PrefixedHex,
    Hex,
}

fn headers_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": { "type": "string", "maxLength": 4096 },
        "x-kubernetes-map-type": "granular",
        "x-kubernetes-validations": [
            {"rule": "self.all(name, name.size() <= 128 && name.matches(\"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$\"))",
             "message": "a header name may contain only letters, digits, hyphens, dots, underscores and other characters of an HTTP token, at most 128 characters"},
            {"rule": "self.all(name, !self[name].matches('[\\\\x00\\\\r\\\\n]'))",
             "message": "a header's value must be one line"},
            {"rule": "self.all(name, !(name.lowerAscii() in ['host', 'content-length', 'connection', 'transfer-encoding', 'te', 'trailer', 'upgrade', 'keep-alive', 'proxy-connection']))",
             "message": "host, content-length, connection, transfer-encoding, te, trailer, upgrade, keep-alive and proxy-connection belong to the connection and cannot be set"}
        ]
    })
}

fn payload_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 256,
        "x-kubernetes-preserve-unknown-fields": true
    })
}
