//! `Hook`: an Auth0 extensibility Hook, a script at a trigger.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with_macros::skip_serializing_none;

use super::common::{told_by_the_field, *};

/// A script at a trigger. Exactly one of script, scriptConfigMapRef.
#[skip_serializing_none]
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "hookstream.dev",
    version = "v1alpha1",
    kind = "Hook",
    namespaced,
    status = "HookStatus",
    category = "hookstream",
    doc = "A Hook is an Auth0 extensibility Hook: a script at a trigger. Auth0 ended Hooks on 18 November 2026: move to Actions.",
    printcolumn = r#"{"name":"Trigger","type":"string","jsonPath":".spec.triggerId"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].reason"}"#,
    printcolumn = r#"{"name":"Hook","type":"string","priority":1,"jsonPath":".spec.name"}"#,
    printcolumn = r#"{"name":"Connection","type":"string","priority":1,"jsonPath":".spec.connectionRef.name"}"#,
    printcolumn = r#"{"name":"External ID","type":"string","priority":1,"jsonPath":".status.external.id"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.script), has(self.scriptConfigMapRef)].filter(x, x).size() == 1").message("exactly one of script, scriptConfigMapRef must be set"))]
#[x_kube(validation = Rule::new("self.connectionRef.name == oldSelf.connectionRef.name").message("connectionRef is immutable: make a new Hook"))]
#[x_kube(validation = Rule::new("self.triggerId == oldSelf.triggerId").message("triggerId is immutable: make a new Hook"))]
#[x_kube(validation = Rule::new("has(self.adopt) == has(oldSelf.adopt) && (!has(self.adopt) || self.adopt.id == oldSelf.adopt.id)").message("adopt.id is immutable"))]
pub struct HookSpec {
    /// The Connection to the Auth0 tenant. Immutable.
    pub connection_ref: NameRef,
    /// The hook's name at Auth0, unique in the tenant: letters, digits, spaces and hyphens, the first and last of them a
    /// letter or digit.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[a-zA-Z0-9]([ a-zA-Z0-9-]*[a-zA-Z0-9])?$"))]
    pub name: String,
    /// When the script runs. Immutable.
    pub trigger_id: Trigger,
    /// The script, JavaScript of at most 100 KiB.
    #[schemars(length(min = 1, max = 102_400))]
    pub script: Option<String>,
    /// Where the script stands, if it is kept in a ConfigMap.
    pub script_config_map_ref: Option<ConfigMapKeyRef>,
    /// The npm packages that the script needs, name to version, up to 64.
    #[serde(default)]
    #[schemars(schema_with = "dependencies_schema")]
    pub dependencies: Option<BTreeMap<String, String>>,
    /// Whether Auth0 runs the hook. Of one trigger Auth0 enables one hook only. Default: true.
    pub enabled: Option<bool>,
    /// What the script reads as context.webtask.secrets.NAME, up to 20.
    #[schemars(length(min = 1, max = 20), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub secrets: Option<Vec<HookSecret>>,
    /// Stops reconciling with Auth0; the hook goes on running, deletion still cleans up. Default: false.
    pub suspend: Option<bool>,
    /// Full creates, updates, repairs and deletes at Auth0; ObserveOnly compares the hook of this name (or of adopt.id)
    /// and reports. Default: Full.
    pub management_policy: Option<ManagementPolicy>,
    /// What happens at Auth0 when this object is deleted. Default: what the Connection says, else Delete.
    pub deletion_policy: Option<DeletionPolicy>,
    /// Takes a hook that already exists at Auth0 instead of creating one.
    pub adopt: Option<Adopt>,
}

/// When a script runs.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::IntoStaticStr,
)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Trigger {
    CredentialsExchange,
    PreUserRegistration,
    PostUserRegistration,
    PostChangePassword,
    SendPhoneMessage,
}

/// A secret of a hook.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "camelCase")]
pub struct HookSecret {
    /// The name by which the script reads it.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z_$][A-Za-z0-9_$-]*$"))]
    pub name: String,
    /// Where its value stands.
    pub secret_ref: SecretKeyRef,
}

/// What the operator knows of the hook.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HookStatus {
    /// The generation that the conditions speak of.
    pub observed_generation: Option<i64>,
    /// Ready, Synced, Reconciling and Stalled speak of the spec and Auth0; EndOfLife warns that Auth0 ended Hooks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Where the object really is at Auth0; cleanup goes by this, not by the spec.
    pub external: Option<Box<External>>,
    /// Keyed hashes of secrets that cannot be read back from Auth0, by name.
    #[serde(default)]
    #[schemars(schema_with = "hashes_schema")]
    pub secret_hashes: Option<BTreeMap<String, String>>,
    /// Commands given by annotation that were carried out.
    pub handled: Option<Handled>,
    /// The last error of the admin API.
    pub last_error: Option<Box<LastError>>,
}

fn dependencies_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": { "type": "string", "minLength": 1, "maxLength": 128 },
        "x-kubernetes-map-type": "granular",
        "x-kubernetes-validations": [
            {"rule": "self.all(name, name.size() <= 214 && name.matches('^(@[a-z0-9~_.-]+/)?[a-z0-9~_.-]+$'))",
             "message": "a dependency's name must be an npm package, for example lodash or @auth0/node, at most 214"}
        ]
    })
}
