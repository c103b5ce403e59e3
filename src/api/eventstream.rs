//! `EventStream`: which Auth0 events flow to which destination.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with_macros::skip_serializing_none;

use super::common::{told_by_the_field, *};

/// Which Auth0 events flow to which destination.
#[skip_serializing_none]
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "hookstream.dev",
    version = "v1alpha1",
    kind = "EventStream",
    namespaced,
    status = "EventStreamStatus",
    shortname = "evs",
    category = "hookstream",
    doc = "An EventStream tells which Auth0 events flow to which destination, for example into this operator's worker.",
    printcolumn = r#"{"name":"Stream","type":"string","jsonPath":".spec.name"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].reason"}"#,
    printcolumn = r#"{"name":"Server","type":"string","jsonPath":".status.serverStatus"}"#,
    printcolumn = r#"{"name":"Connection","type":"string","priority":1,"jsonPath":".spec.connectionRef.name"}"#,
    printcolumn = r#"{"name":"External ID","type":"string","priority":1,"jsonPath":".status.external.id"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.connectionRef.name == oldSelf.connectionRef.name").message("connectionRef is immutable: make a new EventStream"))]
#[x_kube(validation = Rule::new("has(self.adopt) == has(oldSelf.adopt) && (!has(self.adopt) || self.adopt.id == oldSelf.adopt.id)").message("adopt.id is immutable"))]
#[x_kube(validation = Rule::new("has(self.destination.eventBridge) == has(oldSelf.destination.eventBridge) && has(self.destination.action) == has(oldSelf.destination.action)").message("the destination's kind is immutable (webhook and worker are one kind): make a new EventStream"))]
#[x_kube(validation = Rule::new("!(has(self.managementPolicy) && self.managementPolicy == 'ObserveOnly') || !has(self.destination.worker)").message("managementPolicy: ObserveOnly excludes destination.worker: a derived token never equals what exists"))]
#[x_kube(validation = Rule::new("!(has(self.adopt) && self.adopt.mode == 'Match') || !has(self.destination.worker)").message("adopt.mode: Match excludes destination.worker: a derived token never equals what exists"))]
#[x_kube(validation = Rule::new("!has(self.rotation) || has(self.destination.worker)").message("rotation needs destination.worker: only its token is made by the operator"))]
pub struct EventStreamSpec {
    /// The Connection to the Auth0 tenant. Immutable.
    pub connection_ref: NameRef,
    /// The stream's name at Auth0, unique in the tenant.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// Which events flow, 1 to 64 types.
    #[schemars(length(min = 1, max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["eventType"]))]
    pub subscriptions: Vec<Subscription>,
    /// Where the events go. Exactly one of worker, webhook, eventBridge, action.
    pub destination: Destination,
    /// Whether Auth0 sends events. Default: true. A stream that Auth0 itself disabled is told by status.serverStatus.
    pub enabled: Option<bool>,
    /// Any text. Another text makes a new token for destination.worker; Auth0 is told at once, and the worker takes the
    /// old token for 10 minutes more.
    #[schemars(length(min = 1, max = 63))]
    pub rotation: Option<String>,
    /// Stops reconciling with Auth0; events still flow, deletion still cleans up. Default: false.
    pub suspend: Option<bool>,
    /// Full creates, updates, repairs and deletes at Auth0; ObserveOnly compares the stream of this name (or of adopt.id)
    /// and reports. Default: Full.
    pub management_policy: Option<ManagementPolicy>,
    /// What happens at Auth0 when this object is deleted. Default: what the Connection says, else Delete.
    pub deletion_policy: Option<DeletionPolicy>,
    /// Takes a stream that already exists at Auth0 instead of creating one.
    pub adopt: Option<Adopt>,
}

/// One type of event.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "camelCase")]
pub struct Subscription {
    /// The type, for example user.created or organization.member.added.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[a-zA-Z0-9._-]+$"))]
    pub event_type: String,
}

/// Where the events of a stream go. Exactly one of worker, webhook, eventBridge, action.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.worker), has(self.webhook), has(self.eventBridge), has(self.action)].filter(x, x).size() == 1").message("exactly one of worker, webhook, eventBridge, action must be set (worker is written worker: {})"))]
pub struct Destination {
    /// This operator's worker, which makes the events this namespace's own (source auth0). Address and token are made by
    /// the operator. Written worker: {}
    pub worker: Option<WorkerDestination>,
    /// Any other receiver of POST requests.
    pub webhook: Option<WebhookDestination>,
    /// A partner event source of AWS EventBridge. Auth0 cannot change it.
    pub event_bridge: Option<EventBridgeDestination>,
    /// An Auth0 Action with the trigger event-stream. Auth0 cannot change it.
    pub action: Option<ActionDestination>,
}

/// This operator's worker.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
pub struct WorkerDestination {
    /// What is done when Auth0 has disabled the stream after failures. Default: what its fields say.
    pub recovery: Option<Recovery>,
}

/// What is done when Auth0 has disabled a stream.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
pub struct Recovery {
    /// WhenHealthy: enabled again when the worker answers at its public address, at most once an hour. Never: only by the
    /// annotation hookstream.dev/resume. Default: WhenHealthy.
    pub reenable: Option<Reenable>,
    /// Failed: Auth0 is then asked to deliver again what failed. None: it is not. Default: Failed.
    pub redeliver: Option<Redeliver>,
}

/// When a stream that Auth0 disabled is enabled again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
pub enum Reenable {
    WhenHealthy,
    Never,
}

/// What is asked of Auth0 again once a stream is enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
pub enum Redeliver {
    Failed,
    None,
}

/// A receiver of POST requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[schemars(transform = told_by_the_field)]
pub struct WebhookDestination {
    /// Where Auth0 sends: an https URL that the internet reaches.
    #[x_kube(validation = Rule::new("self.startsWith('https://') || self.matches('^http://(localhost|127[.][0-9.]+|[[]::1[]])([:/?#]|$)')").message("must be an https URL: Auth0 sends to no other (http is for an emulator on a loopback address)"))]
    pub endpoint: UrlText,
    /// How Auth0 shows who it is.
    pub authorization: Authorization,
}

/// How Auth0 shows who it is. Exactly one of basic, bearer, customHeader.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.basic), has(self.bearer), has(self.customHeader)].filter(x, x).size() == 1").message("exactly one of basic, bearer, customHeader must be set"))]
pub struct Authorization {
    /// Authorization: Basic, with a user name and a password.
    pub basic: Option<BasicAuthorization>,
    /// Authorization: Bearer, with a token.
    pub bearer: Option<BearerAuthorization>,
    /// A header of your own.
    pub custom_header: Option<CustomHeader>,
}

/// A user name and a password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "camelCase")]
pub struct BasicAuthorization {
    /// The user name, without a colon.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[^:]+$"))]
    pub username: String,
    /// Where the password stands.
    pub password_secret_ref: SecretKeyRef,
}

/// A bearer token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "camelCase")]
pub struct BearerAuthorization {
    /// Where the token stands.
    pub token_secret_ref: SecretKeyRef,
}

/// A header whose value is secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "camelCase")]
pub struct CustomHeader {
    /// Name of the header.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"))]
    pub name: String,
    /// Where its value stands.
    pub value_secret_ref: SecretKeyRef,
}

/// A partner event source of AWS EventBridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.accountId == oldSelf.accountId && self.region == oldSelf.region").message("eventBridge is immutable, for Auth0 cannot change it: make a new EventStream"))]
pub struct EventBridgeDestination {
    /// The AWS account, 12 digits. Write it in quotes. Immutable.
    #[schemars(length(min = 12, max = 12), regex(pattern = r"^[0-9]{12}$"))]
    pub account_id: String,
    /// The AWS region, for example eu-central-1. Immutable.
    #[schemars(length(min = 1, max = 32), regex(pattern = r"^[a-z]{2}(-[a-z]+)+-[0-9]+$"))]
    pub region: String,
}

/// An Auth0 Action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.actionId == oldSelf.actionId").message("action is immutable, for Auth0 cannot change it: make a new EventStream"))]
pub struct ActionDestination {
    /// The id of a deployed Action with the trigger event-stream. Immutable.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9_-]+$"))]
    pub action_id: String,
}

/// What the operator knows of the stream.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventStreamStatus {
    /// The generation that the conditions speak of.
    pub observed_generation: Option<i64>,
    /// Ready, Synced, Reconciling and Stalled: they speak of the spec and Auth0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Where the object really is at Auth0; cleanup goes by this, not by the spec.
    pub external: Option<Box<External>>,
    /// What Auth0 was last told; incoming events are judged by this.
    pub applied: Option<StreamApplied>,
    /// Keyed hashes of secrets that cannot be read back from Auth0, by name.
    #[serde(default)]
    #[schemars(schema_with = "hashes_schema")]
    pub secret_hashes: Option<BTreeMap<String, String>>,
    /// Whether the stream is enabled at Auth0, which disables streams whose receiver keeps failing.
    pub server_status: Option<ServerStatus>,
    /// When a stream that Auth0 had disabled was last enabled again, RFC 3339.
    #[schemars(length(max = 64))]
    pub reenabled_at: Option<String>,
    /// The partner event source that Auth0 made in AWS; it is to be associated with an event bus there.
    #[schemars(length(max = 512))]
    pub partner_event_source: Option<String>,
    /// Commands given by annotation that were carried out.
    pub handled: Option<Handled>,
    /// The last error of the admin API.
    pub last_error: Option<Box<LastError>>,
}

/// Whether a stream is enabled at Auth0.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::IntoStaticStr,
)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum ServerStatus {
    Enabled,
    Disabled,
}

/// What Auth0 was last told of a stream.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "camelCase")]
pub struct StreamApplied {
    #[serde(flatten)]
    pub terms: StreamTerms,
    /// Whether the stream was to be enabled. One that is disabled all the same was disabled by somebody else.
    pub enabled: Option<bool>,
    /// What it was told before, and until when that is still taken.
    pub previous: Option<PreviousStreamTerms>,
}

/// What Auth0 was told of a stream.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "camelCase")]
pub struct StreamTerms {
    /// Where the events go.
    pub destination: DestinationKind,
    /// The rotation text.
    #[schemars(length(max = 63))]
    pub rotation: Option<String>,
    /// The id of the key that the worker's token was derived from.
    #[schemars(length(max = 64))]
    pub key_id: Option<String>,
}

/// What Auth0 was told before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
pub struct PreviousStreamTerms {
    #[serde(flatten)]
    pub terms: StreamTerms,
    /// Until when events by these terms are still taken, RFC 3339.
    #[schemars(length(max = 64))]
    pub until: String,
}

/// The kinds of destination.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::IntoStaticStr,
)]
#[schemars(transform = told_by_the_field)]
pub enum DestinationKind {
    Worker,
    Webhook,
    EventBridge,
    Action,
}
