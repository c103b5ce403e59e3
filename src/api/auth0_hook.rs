//! `Hook`: an Auth0 extensibility Hook, a script at a trigger.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with_macros::skip_serializing_none;

use super::common::{use_field_description, *};

/// A script that runs at a trigger. Exactly one of script, scriptConfigMapRef.
#[skip_serializing_none]
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "hookstream.dev",
    version = "v1alpha1",
    kind = "Hook",
    namespaced,
    status = "HookStatus",
    category = "hookstream",
    doc = "A Hook is an Auth0 extensibility Hook: a script that runs at a trigger. Auth0 ended Hooks on 18 November 2026: migrate to Actions.",
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
#[x_kube(validation = Rule::new("self.connectionRef.name == oldSelf.connectionRef.name").message("connectionRef is immutable: create a new Hook"))]
#[x_kube(validation = Rule::new("self.triggerId == oldSelf.triggerId").message("triggerId is immutable: create a new Hook"))]
#[x_kube(validation = Rule::new("has(self.adopt) == has(oldSelf.adopt) && (!has(self.adopt) || self.adopt.id == oldSelf.adopt.id)").message("adopt.id is immutable, and adopt cannot be added or removed: create a new object"))]
pub struct HookSpec {
    /// The Connection to the Auth0 tenant. Immutable.
    pub connection_ref: NameRef,
    /// The name of the hook at Auth0, unique in the tenant. Up to 128 letters, digits, spaces and hyphens; the first and
    /// the last character must be a letter or digit.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[a-zA-Z0-9]([ a-zA-Z0-9-]*[a-zA-Z0-9])?$"))]
    pub name: String,
    /// The trigger that runs the script. Immutable.
    pub trigger_id: Trigger,
    /// The JavaScript source, at most 100 KiB.
    #[schemars(length(min = 1, max = 102_400))]
    pub script: Option<String>,
    /// The ConfigMap key that contains the script.
    pub script_config_map_ref: Option<ConfigMapKeyRef>,
    /// The npm packages that the script needs, as a map from name to version, up to 64.
    #[serde(default)]
    #[schemars(schema_with = "dependencies_schema")]
    pub dependencies: Option<BTreeMap<String, String>>,
    /// Whether Auth0 runs the hook. Auth0 enables only one hook per trigger. Default: true.
    pub enabled: Option<bool>,
    /// The secrets that the script reads as context.webtask.secrets.NAME, up to 20.
    #[schemars(length(min = 1, max = 20), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub secrets: Option<Vec<HookSecret>>,
    /// Suspends reconciliation with Auth0. The hook keeps running, and deleting this object still cleans up. Default:
    /// false.
    pub suspend: Option<bool>,
    /// Full: create, update, repair and delete the hook at Auth0. ObserveOnly: compare the hook with this name (or
    /// adopt.id) and report differences. Default: Full.
    pub management_policy: Option<ManagementPolicy>,
    /// Delete or Orphan: what happens to the hook at Auth0 when this object is deleted. Default: the deletionPolicy of
    /// the Connection, which defaults to Delete.
    pub deletion_policy: Option<DeletionPolicy>,
    /// Adopts a hook that already exists at Auth0 instead of creating one.
    pub adopt: Option<Adopt>,
}

/// The events of Auth0 at which a script can run.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::IntoStaticStr,
)]
#[schemars(transform = use_field_description)]
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
#[schemars(transform = use_field_description)]
#[serde(rename_all = "camelCase")]
pub struct HookSecret {
    /// The name that the script uses.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z_$][A-Za-z0-9_$-]*$"))]
    pub name: String,
    /// The Secret key that contains the value.
    pub secret_ref: SecretKeyRef,
}

/// The observed state of the hook.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HookStatus {
    /// The generation of the spec that the conditions refer to.
    pub observed_generation: Option<i64>,
    /// The conditions Ready, Synced, Reconciling and Stalled describe the synchronization with Auth0. Suspended is set
    /// while the object is suspended. EndOfLife warns that
    /// Auth0 ended Hooks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The location of the hook at Auth0. Cleanup uses this, not the spec.
    pub external: Option<Box<External>>,
    /// Former locations, up to 8, at addresses that the Connection no longer has. The object still has to be deleted there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub former_locations: Vec<FormerLocation>,
    /// Keyed hashes of the secrets that cannot be read back from Auth0, by name.
    #[serde(default)]
    #[schemars(schema_with = "hashes_schema")]
    pub secret_hashes: Option<BTreeMap<String, String>>,
    /// Annotation commands that were executed.
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
             "message": "a dependency's name must be an npm package, for example lodash or @auth0/node, at most 214 characters"}
        ]
    })
}
