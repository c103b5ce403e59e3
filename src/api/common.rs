//! Types that several kinds share.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with_macros::skip_serializing_none;

/// Removes a type's own description from the schema. Otherwise it would replace the description of the field, which
/// documents the default.
pub(super) fn use_field_description(schema: &mut schemars::Schema) {
    schema.remove("description");
}

/// A duration in the format of the Gateway API: one to four numbers with a unit (h, m, s, ms), for example 15s, 1h30m or
/// 500ms. Must be greater than zero.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DurationText(pub String);

/// A duration of at most 10m.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimeoutText(pub String);

/// The https URL of a token endpoint; http only for a loopback address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenUrlText(pub String);

/// An http or https URL without user information.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UrlText(pub String);

/// Implements a string schema with CEL rules, which have readable messages. The error of a `pattern` would show only the
/// regular expression.
macro_rules! text_schema {
    ($type:ty, min $min:literal, max $max:literal, $(($rule:literal, $message:literal)),+) => {
        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string", "minLength": $min, "maxLength": $max,
                    "x-kubernetes-validations": [$({"rule": $rule, "message": $message}),+]
                })
            }
        }
    };
}

text_schema!(
    DurationText, min 2, max 32,
    ("self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$')", "must be a duration such as 15s, 10m or 1h30m (units h, m, s, ms)"),
    ("!self.matches('^(0+(h|m|s|ms))+$')", "must be more than zero")
);

text_schema!(
    TimeoutText, min 2, max 32,
    ("self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$')", "must be a duration such as 15s, 10m or 1h30m (units h, m, s, ms)"),
    ("!self.matches('^(0+(h|m|s|ms))+$')", "must be more than zero"),
    // A longer text is no duration; the first rule reports it.
    ("!self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') || duration(self) <= duration('10m')", "must be at most 10m")
);

text_schema!(
    UrlText, min 8, max 2048,
    ("isURL(self) && self.matches('^https?://[^/?#]')", "must be an absolute http or https URL, for example https://example.com/hooks"),
    ("!self.matches('^[^/?#]*//[^/?#]*@')", "must not contain user information: put credentials into a Secret (headersFrom, urlSecretRef)")
);

text_schema!(
    TokenUrlText, min 8, max 2048,
    ("isURL(self) && self.matches('^(https://[^/?#]|http://(localhost|127[.]0[.]0[.]1|[[]::1[]])([:/?]|$))')", "must be an absolute https URL (http only to localhost), for example https://login.example.com/oauth/token"),
    ("!self.matches('^[^/?#]*//[^/?#]*@')", "must not contain user information: use clientId and clientSecretRef")
);

/// One key of a Secret in the object's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in the data of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// One key of a ConfigMap in the object's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
pub struct ConfigMapKeyRef {
    /// Name of the ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in the data of the object.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// A Secret in the object's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Another object in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
pub struct NameRef {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The kind of object that contains a CA bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
pub enum CaKind {
    Secret,
    ConfigMap,
}

/// One key of a Secret or ConfigMap that contains a CA bundle in PEM format.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
pub struct CaRef {
    /// Kind of the object: Secret or ConfigMap.
    pub kind: CaKind,
    /// Name of the Secret or ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in the data of the object.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// TLS settings for connections to a server. Default: the system's certificate authorities, no client certificate.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[schemars(transform = use_field_description)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.caRef) && has(self.insecureSkipVerify) && self.insecureSkipVerify)").message("caRef would be ignored with insecureSkipVerify: true: remove one of them"))]
pub struct Tls {
    /// The certificate authorities to trust. They replace the system's. Default: the system's.
    pub ca_ref: Option<CaRef>,
    /// A Secret of type kubernetes.io/tls (keys tls.crt and tls.key) with the client certificate. Default: none.
    pub cert_secret_ref: Option<SecretRef>,
    /// Accepts any server certificate, so an attacker on the network path can read and change all traffic. For tests
    /// only. Default: false.
    pub insecure_skip_verify: Option<bool>,
}

impl Tls {
    /// Returns true if the settings read the Secret or ConfigMap with this name.
    pub fn refers_to(&self, kind: CaKind, name: &str) -> bool {
        self.ca_ref.as_ref().is_some_and(|ca| ca.kind == kind && ca.name == name)
            || (kind == CaKind::Secret && self.cert_secret_ref.as_ref().is_some_and(|r| r.name == name))
    }
}

/// A rate limit (token bucket): `requests` per `interval`, with bursts of up to `burst`.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
pub struct RateLimit {
    /// Number of requests per interval, 1 to 100000.
    #[schemars(range(min = 1, max = 100_000))]
    pub requests: i32,
    /// Length of the interval. Default: 1s.
    pub interval: Option<DurationText>,
    /// Number of requests that may be sent at once after an idle period, 1 to 100000. Default: the value of requests.
    #[schemars(range(min = 1, max = 100_000))]
    pub burst: Option<i32>,
}

/// What happens to the object at the vendor when the Kubernetes object is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
pub enum DeletionPolicy {
    /// The object at the vendor is deleted too.
    Delete,
    /// The object at the vendor is kept.
    Orphan,
}

/// Which operations the operator performs on the object at the vendor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
pub enum ManagementPolicy {
    /// Create, update, repair drift and delete.
    Full,
    /// Compare and report differences; never write.
    ObserveOnly,
}

/// Adopts an object that already exists at the vendor.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
pub struct Adopt {
    /// The vendor's id of the object. Immutable.
    #[schemars(length(min = 1, max = 64))]
    pub id: String,
    /// Match adopts the object only if all its fields already equal the spec, and writes nothing. Override adopts it and
    /// writes the spec. Afterwards the object is managed like any other.
    pub mode: AdoptMode,
}

/// How an existing object is adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
pub enum AdoptMode {
    Match,
    Override,
}

/// The last error of a vendor's admin API. Never contains a secret.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
#[serde(rename_all = "camelCase")]
pub struct LastError {
    /// HTTP status of the response. Absent if there was no response.
    pub http_status: Option<i32>,
    /// The vendor's own error code or name.
    #[schemars(length(max = 256))]
    pub code: Option<String>,
    /// The vendor's error message, truncated to 1024 characters.
    #[schemars(length(max = 1024))]
    pub message: String,
    /// The vendor's request id, for support requests.
    #[schemars(length(max = 256))]
    pub request_id: Option<String>,
    /// Time of the error, RFC 3339.
    #[schemars(length(max = 64))]
    pub time: Option<String>,
}

/// Annotation commands that were executed, by the tokens in their values.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
#[serde(rename_all = "camelCase")]
pub struct Handled {
    /// The last value of the annotation hookstream.dev/reconcileRequestedAt that was executed.
    #[schemars(length(max = 256))]
    pub reconcile_requested_at: Option<String>,
    /// The last value of the annotation hookstream.dev/resume that was executed.
    #[schemars(length(max = 256))]
    pub resume: Option<String>,
}

/// The location of an object at the vendor.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
pub struct External {
    /// The vendor's id.
    #[schemars(length(max = 256))]
    pub id: String,
    /// Name of the Connection with which the object was created or adopted.
    #[schemars(length(max = 253))]
    pub connection: String,
    /// Address of the admin API that has the object.
    #[schemars(length(max = 2048))]
    pub endpoint: String,
    /// Kong workspace of the object.
    #[schemars(length(max = 128))]
    pub workspace: Option<String>,
}

/// A former location of an object at the vendor, from which the object still has to be deleted. The Connection has
/// another address now, and the object was created there.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
pub struct FormerLocation {
    /// The vendor's id.
    #[schemars(length(max = 256))]
    pub id: String,
    /// Name of the Connection with which the object was created or adopted.
    #[schemars(length(max = 253))]
    pub connection: String,
    /// Address of the admin API that has the object.
    #[schemars(length(max = 2048))]
    pub endpoint: String,
    /// Kong workspace of the object.
    #[schemars(length(max = 128))]
    pub workspace: Option<String>,
    /// When the operator began to move the object, RFC 3339. The wait for the former address counts from this time.
    #[schemars(length(max = 64))]
    pub since: String,
    /// The proof that this object owned the one at the former address. Without it, nothing is deleted there.
    #[schemars(length(max = 1024))]
    pub proof: Option<String>,
}

impl FormerLocation {
    /// Returns the location of an object that is left behind from this time (RFC 3339) on.
    pub fn new(external: External, since: String) -> Self {
        let External { id, connection, endpoint, workspace } = external;
        FormerLocation { id, connection, endpoint, workspace, since, proof: None }
    }

    /// Returns the reference to the object at this location.
    pub fn external(&self) -> External {
        External {
            id: self.id.clone(),
            connection: self.connection.clone(),
            endpoint: self.endpoint.clone(),
            workspace: self.workspace.clone(),
        }
    }
}

pub(super) fn hashes_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": { "type": "string", "maxLength": 128 }
    })
}
