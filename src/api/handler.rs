//! The handlers of an EventHook, and how requests are signed.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with_macros::skip_serializing_none;

use super::common::{told_by_the_field, *};

/// What is done with an event. Exactly one of webhook, webhookCustom, log, lambda.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.webhook), has(self.webhookCustom), has(self.log), has(self.lambda)].filter(x, x).size() == 1").message("exactly one of webhook, webhookCustom, log, lambda must be set (log is written log: {})"))]
pub struct Handler {
    /// Sends the event as JSON by POST.
    pub webhook: Option<Webhook>,
    /// Sends a request of your own making.
    pub webhook_custom: Option<Box<WebhookCustom>>,
    /// Writes the event to the worker's log. Written log: {}
    pub log: Option<Log>,
    /// Runs Lua functions on the event, in a sandbox.
    pub lambda: Option<Lambda>,
}

/// Sends the event as JSON by POST. Exactly one of url, urlSecretRef.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.url), has(self.urlSecretRef)].filter(x, x).size() == 1").message("exactly one of url, urlSecretRef must be set"))]
pub struct Webhook {
    /// Where to send.
    pub url: Option<UrlText>,
    /// Where the URL stands, if it is itself a secret.
    pub url_secret_ref: Option<Box<SecretKeyRef>>,
    /// Headers to send, up to 64. content-type is application/json unless named here.
    #[serde(default)]
    #[schemars(schema_with = "headers_schema")]
    pub headers: Option<BTreeMap<String, String>>,
    /// Headers whose values stand in Secrets, up to 16.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub headers_from: Option<Vec<HeaderFrom>>,
    /// Kong: the members of data with source and event. CloudEvents: a CloudEvents 1.0 structured event. Default: Kong.
    pub format: Option<Format>,
    /// How requests are signed. Default: not at all.
    pub signature: Option<Signature>,
    /// How TLS is spoken to the receiver.
    pub tls: Option<Box<Tls>>,
}

/// Sends a request of your own making. Exactly one of url, urlSecretRef; payload and body exclude each other.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.url), has(self.urlSecretRef)].filter(x, x).size() == 1").message("exactly one of url, urlSecretRef must be set"))]
#[x_kube(validation = Rule::new("!(has(self.payload) && has(self.body))").message("payload and body exclude each other"))]
pub struct WebhookCustom {
    /// Where to send.
    pub url: Option<UrlText>,
    /// Where the URL stands, if it is itself a secret.
    pub url_secret_ref: Option<Box<SecretKeyRef>>,
    /// The method. Default: POST.
    pub method: Option<Method>,
    /// Headers to send, up to 64.
    #[serde(default)]
    #[schemars(schema_with = "headers_schema")]
    pub headers: Option<BTreeMap<String, String>>,
    /// Headers whose values stand in Secrets, up to 16.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub headers_from: Option<Vec<HeaderFrom>>,
    /// Whether the values of headers are templates. Default: Raw.
    pub headers_format: Option<TextFormat>,
    /// The body as a map: sent as JSON, or as a form where the content type says so.
    #[serde(default)]
    #[schemars(schema_with = "payload_schema")]
    pub payload: Option<serde_json::Map<String, serde_json::Value>>,
    /// Whether the texts in payload are templates. Default: Template.
    pub payload_format: Option<TextFormat>,
    /// The body as a text of at most 64 KiB.
    #[schemars(length(max = 65536))]
    pub body: Option<String>,
    /// Whether body is a template. Default: Template.
    pub body_format: Option<TextFormat>,
    /// How requests are signed. Default: not at all.
    pub signature: Option<Signature>,
    /// How TLS is spoken to the receiver.
    pub tls: Option<Box<Tls>>,
}

/// The method of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

/// Whether a text is sent as it is or as a template (lua-resty-template).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
pub enum TextFormat {
    Raw,
    Template,
}

/// Writes the event to the worker's log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
pub struct Log {}

/// Runs Lua functions on the event, in a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
pub struct Lambda {
    /// Lua chunks, 1 to 16 of at most 64 KiB, each of which returns a function (data, event, source, pid). They run in
    /// order; each delivers by returning true.
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 65536)), extend("x-kubernetes-list-type" = "atomic"))]
    pub functions: Vec<String>,
}

/// A header whose value stands in a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "camelCase")]
pub struct HeaderFrom {
    /// Name of the header.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"))]
    #[x_kube(validation = Rule::new("!(self.lowerAscii() in ['host', 'content-length', 'connection', 'transfer-encoding', 'te', 'trailer', 'upgrade', 'keep-alive', 'proxy-connection'])").message("this header belongs to the connection and cannot be set"))]
    pub name: String,
    /// Where its value stands.
    pub secret_ref: SecretKeyRef,
}

/// What a webhook's body looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
pub enum Format {
    Kong,
    CloudEvents,
}

/// How requests are signed.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.scheme) && self.scheme == 'StandardWebhooks' && has(self.algorithm) && self.algorithm == 'SHA1')").message("scheme: StandardWebhooks signs with SHA256: remove algorithm: SHA1"))]
#[x_kube(validation = Rule::new("!(has(self.scheme) && self.scheme == 'StandardWebhooks' && has(self.encoding))").message("encoding would be ignored with scheme: StandardWebhooks"))]
pub struct Signature {
    /// Where the secret stands. It may hold several, a line each: the first signs Kong's header, all sign Standard
    /// Webhooks, so that receivers can be moved from one to the next.
    pub secret_ref: SecretKeyRef,
    /// Kong: the header x-kong-signature over the body. StandardWebhooks: webhook-id, webhook-timestamp and
    /// webhook-signature. Default: Kong.
    pub scheme: Option<SignatureScheme>,
    /// The hash of Kong's signature. Default: SHA256.
    pub algorithm: Option<SignatureAlgorithm>,
    /// PrefixedHex writes sha256=<hex>, Hex the hex alone. Default: PrefixedHex.
    pub encoding: Option<SignatureEncoding>,
}

/// Which headers sign a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
pub enum SignatureScheme {
    Kong,
    StandardWebhooks,
}

/// The hash of an HMAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
pub enum SignatureAlgorithm {
    SHA256,
    SHA1,
}

/// How a signature is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
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
             "message": "a header's name holds letters, digits and hyphens only, at most 128"},
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
