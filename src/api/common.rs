//! Members that several kinds share.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with_macros::skip_serializing_none;

/// Without this, a type's own comment would hide the comment of the field that uses it, which tells the default.
pub(super) fn told_by_the_field(schema: &mut schemars::Schema) {
    schema.remove("description");
}

/// A duration as the Gateway API writes it: one to four numbers with a unit (h, m, s, ms), for example 15s, 1h30m,
/// 500ms. More than zero.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DurationText(pub String);

/// An http or https URL without user information.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UrlText(pub String);

/// A text whose schema is CEL rules with readable messages: a `pattern` would answer with the bare expression.
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
    UrlText, min 8, max 2048,
    ("isURL(self) && self.matches('^https?://[^/?#]')", "must be an absolute http or https URL, for example https://example.com/hooks"),
    ("!self.matches('^[^/?#]*//[^/?#]*@')", "must not carry user information: put credentials into a Secret (headersFrom, urlSecretRef)")
);

/// One key of a Secret in the object's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in the Secret's data.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// One key of a ConfigMap in the object's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
pub struct ConfigMapKeyRef {
    /// Name of the ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in its data.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// A whole Secret in the object's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Another object of the same namespace, by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
pub struct NameRef {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Where a CA bundle stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
pub enum CaKind {
    Secret,
    ConfigMap,
}

/// One key of a Secret or ConfigMap that holds a CA bundle in PEM.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
pub struct CaRef {
    /// Secret or ConfigMap.
    pub kind: CaKind,
    /// Name of the Secret or ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in its data.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// How TLS is spoken to a server. Without it: the system's certificate authorities, no client certificate.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.caRef) && has(self.insecureSkipVerify) && self.insecureSkipVerify)").message("caRef would be ignored with insecureSkipVerify: true: remove one of them"))]
pub struct Tls {
    /// The certificate authorities to trust instead of the system's.
    pub ca_ref: Option<CaRef>,
    /// A Secret of type kubernetes.io/tls (keys tls.crt and tls.key) with the client certificate.
    pub cert_secret_ref: Option<SecretRef>,
    /// Accept any server certificate. Default: false. Whoever stands between can then read and change everything.
    pub insecure_skip_verify: Option<bool>,
}

impl Tls {
    /// True where it reads the Secret or ConfigMap of this name.
    pub fn refers_to(&self, kind: CaKind, name: &str) -> bool {
        self.ca_ref.as_ref().is_some_and(|ca| ca.kind == kind && ca.name == name)
            || (kind == CaKind::Secret && self.cert_secret_ref.as_ref().is_some_and(|r| r.name == name))
    }
}

/// A token bucket: `requests` an `interval`, with bursts of up to `burst`.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
pub struct RateLimit {
    /// How many requests an interval, 1 to 100000.
    #[schemars(range(min = 1, max = 100_000))]
    pub requests: i32,
    /// The interval. Default: 1s.
    pub interval: Option<DurationText>,
    /// How many requests may go at once after a pause, 1 to 100000. Default: the value of requests.
    #[schemars(range(min = 1, max = 100_000))]
    pub burst: Option<i32>,
}

/// What happens to the vendor's object when the Kubernetes object is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
pub enum DeletionPolicy {
    /// The vendor's object is deleted too.
    Delete,
    /// The vendor's object stays.
    Orphan,
}

/// How much of the vendor's object is managed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
pub enum ManagementPolicy {
    /// Create, update, repair and delete.
    Full,
    /// Compare and report only; never write.
    ObserveOnly,
}

/// Takes an object that already exists at the vendor.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
pub struct Adopt {
    /// The vendor's id of the object. Immutable.
    #[schemars(length(min = 1, max = 64))]
    pub id: String,
    /// Match takes it only if every field already agrees, and writes nothing by that; Override takes it and writes the
    /// spec. What was taken is then managed like any other.
    pub mode: AdoptMode,
}

/// How an existing object is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
pub enum AdoptMode {
    Match,
    Override,
}

/// The last error that a vendor's admin API answered with. Never holds a secret.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "camelCase")]
pub struct LastError {
    /// HTTP status, left out where there was no answer.
    pub http_status: Option<i32>,
    /// The vendor's own error code or name.
    #[schemars(length(max = 256))]
    pub code: Option<String>,
    /// What the vendor said, shortened.
    #[schemars(length(max = 1024))]
    pub message: String,
    /// The vendor's id of the request, to quote to its support.
    #[schemars(length(max = 256))]
    pub request_id: Option<String>,
    /// When, RFC 3339.
    #[schemars(length(max = 64))]
    pub time: Option<String>,
}

/// Commands given by annotation that were carried out: the tokens they carried.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "camelCase")]
pub struct Handled {
    /// The last value of hookstream.dev/reconcileRequestedAt that was acted on.
    #[schemars(length(max = 256))]
    pub reconcile_requested_at: Option<String>,
    /// The last value of hookstream.dev/resume that was acted on.
    #[schemars(length(max = 256))]
    pub resume: Option<String>,
}

/// Where an object really is at the vendor.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
pub struct External {
    /// The vendor's id.
    #[schemars(length(max = 128))]
    pub id: String,
    /// The Connection it was made by.
    #[schemars(length(max = 253))]
    pub connection: String,
    /// The address it was made at.
    #[schemars(length(max = 2048))]
    pub endpoint: String,
    /// The workspace it was made in.
    #[schemars(length(max = 128))]
    pub workspace: Option<String>,
}

pub(super) fn hashes_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": { "type": "string", "maxLength": 128 }
    })
}
