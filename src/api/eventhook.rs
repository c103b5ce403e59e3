//! `EventHook`: the events that trigger a handler, and their delivery.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with_macros::skip_serializing_none;

use super::common::{use_field_description, *};
use super::handler::Handler;

/// The events (source, event) that trigger a handler, and how they are delivered.
#[skip_serializing_none]
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "hookstream.dev",
    version = "v1alpha1",
    kind = "EventHook",
    namespaced,
    status = "EventHookStatus",
    shortname = "evh",
    category = "hookstream",
    doc = "An EventHook selects events (by source and event), the handler that they trigger, and how they are delivered.",
    printcolumn = r#"{"name":"Source","type":"string","jsonPath":".spec.source"}"#,
    printcolumn = r#"{"name":"Event","type":"string","jsonPath":".spec.event"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Delivering","type":"string","jsonPath":".status.conditions[?(@.type=='Delivering')].status"}"#,
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.delivery.summary"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","priority":1,"jsonPath":".status.conditions[?(@.type=='Ready')].reason"}"#,
    printcolumn = r#"{"name":"Host","type":"string","priority":1,"jsonPath":".status.delivery.host"}"#,
    printcolumn = r#"{"name":"Connection","type":"string","priority":1,"jsonPath":".spec.connectionRef.name"}"#,
    printcolumn = r#"{"name":"External ID","type":"string","priority":1,"jsonPath":".status.external.id"}"#,
    printcolumn = r#"{"name":"By","type":"string","priority":1,"jsonPath":".spec.deliverBy"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.connectionRef) || !has(self.deliverBy)").message("deliverBy needs connectionRef: without a Connection the worker always delivers"))]
#[x_kube(validation = Rule::new("has(self.connectionRef) || !has(self.rotation)").message("rotation needs connectionRef: only a relay has a secret to rotate"))]
#[x_kube(validation = Rule::new("has(self.connectionRef) || !has(self.adopt)").message("adopt needs connectionRef: it names the gateway that has the hook"))]
#[x_kube(validation = Rule::new("has(self.connectionRef) || !has(self.managementPolicy) || self.managementPolicy != 'ObserveOnly'").message("managementPolicy: ObserveOnly needs connectionRef: it names the gateway that has the hook"))]
#[x_kube(validation = Rule::new("!(has(self.connectionRef) && has(self.from))").message("from and connectionRef are mutually exclusive: a hook with a Connection receives only the events of its own relay"))]
#[x_kube(validation = Rule::new("has(self.connectionRef) == has(oldSelf.connectionRef) && (!has(self.connectionRef) || self.connectionRef.name == oldSelf.connectionRef.name)").message("connectionRef is immutable: create a new EventHook"))]
#[x_kube(validation = Rule::new("has(self.adopt) == has(oldSelf.adopt) && (!has(self.adopt) || self.adopt.id == oldSelf.adopt.id)").message("adopt.id is immutable, and adopt cannot be added or removed: create a new object"))]
#[x_kube(validation = Rule::new("!has(self.managementPolicy) || self.managementPolicy != 'ObserveOnly' || has(self.adopt)").message("managementPolicy: ObserveOnly needs adopt.id: it names the object to observe"))]
#[x_kube(validation = Rule::new("!(has(self.managementPolicy) && self.managementPolicy == 'ObserveOnly') || (has(self.deliverBy) && self.deliverBy == 'Gateway')").message("managementPolicy: ObserveOnly needs deliverBy: Gateway: the secret of a relay is generated, so the existing hook cannot match"))]
#[x_kube(validation = Rule::new("!(has(self.adopt) && self.adopt.mode == 'Match') || (has(self.deliverBy) && self.deliverBy == 'Gateway')").message("adopt.mode: Match needs deliverBy: Gateway: the secret of a relay is generated, so the existing hook cannot match"))]
#[x_kube(validation = Rule::new("!(has(self.deliverBy) && self.deliverBy == 'Gateway' && has(self.delivery))").message("delivery would be ignored with deliverBy: Gateway: remove it, because the gateway delivers by its own rules"))]
#[x_kube(validation = Rule::new("!(has(self.deliverBy) && self.deliverBy == 'Gateway' && has(self.groupBy))").message("groupBy would be ignored with deliverBy: Gateway: remove it"))]
#[x_kube(validation = Rule::new("!(has(self.deliverBy) && self.deliverBy == 'Gateway' && has(self.filter))").message("filter would be ignored with deliverBy: Gateway: remove it"))]
#[x_kube(validation = Rule::new("!(has(self.deliverBy) && self.deliverBy == 'Gateway' && has(self.from))").message("from would be ignored with deliverBy: Gateway: remove it"))]
#[x_kube(validation = Rule::new("!(has(self.deliverBy) && self.deliverBy == 'Gateway' && has(self.rotation))").message("rotation would be ignored with deliverBy: Gateway: remove it, because there is no relay secret"))]
#[x_kube(validation = Rule::new("!(has(self.deliverBy) && self.deliverBy == 'Gateway' && has(self.onChange) && has(self.onChange.fields))").message("onChange.fields would be ignored with deliverBy: Gateway: write onChange: {}"))]
#[x_kube(validation = Rule::new("!(has(self.deliverBy) && self.deliverBy == 'Gateway' && has(self.snooze) && has(self.snooze.trailing))").message("snooze.trailing would be ignored with deliverBy: Gateway: remove it"))]
#[x_kube(validation = Rule::new("!(has(self.deliverBy) && self.deliverBy == 'Gateway' && has(self.snooze) && self.snooze.period.contains('ms'))").message("snooze.period must be whole seconds with deliverBy: Gateway"))]
#[x_kube(validation = Rule::new("!(has(self.deliverBy) && self.deliverBy == 'Gateway' && has(self.handler.webhook) && has(self.handler.webhook.format) && self.handler.webhook.format != 'Kong')").message("handler.webhook.format: CloudEvents would be ignored with deliverBy: Gateway: remove it"))]
#[x_kube(validation = Rule::new("!(has(self.deliverBy) && self.deliverBy == 'Gateway' && has(self.handler.webhook) && has(self.handler.webhook.handshake))").message("handler.webhook.handshake would be ignored with deliverBy: Gateway: remove it"))]
#[x_kube(validation = Rule::new("!(has(self.deliverBy) && self.deliverBy == 'Gateway') || (has(self.handler.webhook) && has(self.handler.webhook.signature) ? !has(self.handler.webhook.signature.scheme) && !has(self.handler.webhook.signature.algorithm) && !has(self.handler.webhook.signature.encoding) : true)").message("handler.webhook.signature: scheme, algorithm and encoding would be ignored with deliverBy: Gateway: set secretRef only"))]
#[x_kube(validation = Rule::new("!(has(self.deliverBy) && self.deliverBy == 'Gateway') || (has(self.handler.webhookCustom) && has(self.handler.webhookCustom.signature) ? !has(self.handler.webhookCustom.signature.scheme) && !has(self.handler.webhookCustom.signature.algorithm) && !has(self.handler.webhookCustom.signature.encoding) : true)").message("handler.webhookCustom.signature: scheme, algorithm and encoding would be ignored with deliverBy: Gateway: set secretRef only"))]
#[x_kube(validation = Rule::new("!(has(self.deliverBy) && self.deliverBy == 'Gateway') || (has(self.handler.webhook) ? !has(self.handler.webhook.oauth2) : (has(self.handler.webhookCustom) ? !has(self.handler.webhookCustom.oauth2) : true))").message("handler: oauth2 would be ignored with deliverBy: Gateway: remove it"))]
#[x_kube(validation = Rule::new("!(has(self.deliverBy) && self.deliverBy == 'Gateway') || (has(self.handler.webhook) && has(self.handler.webhook.tls) ? !has(self.handler.webhook.tls.caRef) && !has(self.handler.webhook.tls.certSecretRef) : true)").message("handler.webhook.tls: caRef and certSecretRef would be ignored with deliverBy: Gateway: remove them"))]
#[x_kube(validation = Rule::new("!(has(self.deliverBy) && self.deliverBy == 'Gateway') || (has(self.handler.webhookCustom) && has(self.handler.webhookCustom.tls) ? !has(self.handler.webhookCustom.tls.caRef) && !has(self.handler.webhookCustom.tls.certSecretRef) : true)").message("handler.webhookCustom.tls: caRef and certSecretRef would be ignored with deliverBy: Gateway: remove them"))]
pub struct EventHookSpec {
    /// The source of the events, for example crud, dao:crud, balancer, rate-limiting-advanced, auth0 or a name of your own.
    #[schemars(length(min = 1, max = 253))]
    pub source: String,
    /// The event of the source, for example consumers. If absent, the hook receives every event of the source.
    #[schemars(length(min = 1, max = 253))]
    pub event: Option<String>,
    /// A CEL expression over source, event, data and attributes, for example data.operation == 'create'. The hook delivers
    /// only events for which it is true. At most 4096 characters. Default: all events.
    #[schemars(length(min = 1, max = 4096))]
    pub filter: Option<String>,
    /// Restricts the hook to events that were received through this EventStream. Default: events published to the API and
    /// events of all streams.
    pub from: Option<Box<From>>,
    /// Dotted paths into data, up to 16. Events with equal values at these paths form a group for snooze and onChange. A
    /// missing path counts as null. Default: for snooze, the source's unique fields or, without any, the whole data; for
    /// onChange, all events of the hook form one group.
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 253)), extend("x-kubernetes-list-type" = "set"))]
    pub group_by: Option<Vec<String>>,
    /// After a delivery, drops further events of the same group for a period. Default: no events are dropped.
    pub snooze: Option<Snooze>,
    /// Drops events whose compared values have not changed. {} compares the default fields. Default: no events are
    /// dropped.
    pub on_change: Option<OnChange>,
    /// The action for an event. Exactly one of webhook, webhookCustom, log, lambda.
    pub handler: Handler,
    /// The Connection to the Kong gateway that emits the events. Immutable. If absent, the hook exists in the worker only
    /// and receives events that are published to the worker and events of EventStreams.
    pub connection_ref: Option<NameRef>,
    /// Worker: the gateway relays its events to the worker, which delivers them durably. Gateway: the gateway runs the
    /// handler itself. Needs connectionRef. Default: Worker.
    pub deliver_by: Option<DeliverBy>,
    /// Delivery settings of the worker.
    pub delivery: Option<Box<Delivery>>,
    /// Suspends reconciliation with the vendor. Deliveries continue, and deleting this object still cleans up. Default:
    /// false.
    pub suspend: Option<bool>,
    /// Full: create, update, repair and delete the hook at the vendor. ObserveOnly: compare and report differences.
    /// Default: Full.
    pub management_policy: Option<ManagementPolicy>,
    /// Delete or Orphan: what happens to the hook at the vendor when this object is deleted. Default: the deletionPolicy of
    /// the Connection, which defaults to Delete.
    pub deletion_policy: Option<DeletionPolicy>,
    /// Adopts a hook that already exists at the vendor instead of creating one.
    pub adopt: Option<Adopt>,
    /// Any text. Changing it rotates the relay secret: the operator configures the new secret at the gateway immediately,
    /// and the worker accepts the old one for another 10 minutes.
    #[schemars(length(min = 1, max = 63))]
    pub rotation: Option<String>,
}

/// The channel through which events are received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
#[serde(rename_all = "camelCase")]
pub struct From {
    /// An EventStream in the same namespace.
    pub event_stream_ref: NameRef,
}

/// After a delivery, drops further events of the same group for a period.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
pub struct Snooze {
    /// How long events are dropped after a delivery.
    pub period: DurationText,
    /// Last: deliver the newest dropped event when the period ends. None: deliver no dropped event. Default: None.
    pub trailing: Option<Trailing>,
}

/// Whether the newest event that a snooze dropped is delivered when the period ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
pub enum Trailing {
    None,
    Last,
}

/// Drops events whose compared values have not changed.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
pub struct OnChange {
    /// Dotted paths into data, up to 16. Their values are compared with those of the last event of the group that was
    /// accepted for delivery. Default: the source's unique fields or, without any, the whole data.
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 253)), extend("x-kubernetes-list-type" = "set"))]
    pub fields: Option<Vec<String>>,
}

/// The component that delivers the events of a hook with a Connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
pub enum DeliverBy {
    Worker,
    Gateway,
}

/// Delivery settings of the worker.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// Pauses deliveries. Events are still accepted and stay pending, so nothing is lost. Default: false.
    pub paused: Option<bool>,
    /// The time limit of one attempt, from resolving the host name to the end of the response, at most 10m. Default: 15s.
    pub timeout: Option<TimeoutText>,
    /// When and how often a failed delivery is retried.
    pub retry: Option<Retry>,
    /// Number of concurrent requests, 1 to 1024. Does not define an order, not even with 1. Default: 8.
    #[schemars(range(min = 1, max = 1024))]
    pub concurrency: Option<i32>,
    /// The maximum rate of attempts. Default: no limit.
    pub rate_limit: Option<RateLimit>,
}

/// When and how often a failed delivery is retried. The delay doubles from initialBackoff to maxBackoff, with random
/// jitter between half and all of it. A longer Retry-After of the receiver takes precedence.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// The delay after the first failure. Default: 5s.
    pub initial_backoff: Option<DurationText>,
    /// The longest delay between two attempts. Default: 6h.
    pub max_backoff: Option<DurationText>,
    /// The age at which an undelivered delivery becomes dead, not counting the time it was held. Default: 72h.
    pub max_age: Option<DurationText>,
    /// The number of attempts after which a delivery becomes dead, 1 to 1000. Default: no limit except maxAge.
    #[schemars(range(min = 1, max = 1000))]
    pub max_attempts: Option<i32>,
    /// The response statuses after which a delivery becomes dead immediately, up to 64 of 300 to 599. Default: 400, 405,
    /// 406, 413, 414, 415, 422, 431.
    #[schemars(length(max = 64), inner(range(min = 300, max = 599)), extend("x-kubernetes-list-type" = "set"))]
    pub terminal_statuses: Option<Vec<i32>>,
}

/// The observed state of the hook.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventHookStatus {
    /// The generation of the spec that the conditions refer to.
    pub observed_generation: Option<i64>,
    /// The controller sets Ready, Synced, Reconciling and Stalled, which describe the synchronization with the vendor, and
    /// Suspended while the object is suspended. The worker sets Delivering, which describes the receiver.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The location of the hook at the vendor. Cleanup uses this, not the spec.
    pub external: Option<Box<External>>,
    /// Former locations, up to 8, at addresses that the Connection no longer has. The object still has to be deleted there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub former_locations: Vec<FormerLocation>,
    /// The relay settings that were last configured at the vendor. The worker checks incoming relays against them.
    pub applied: Option<Box<Applied>>,
    /// Keyed hashes of the secrets that cannot be read back from the vendor, by name.
    #[serde(default)]
    #[schemars(schema_with = "hashes_schema")]
    pub secret_hashes: Option<BTreeMap<String, String>>,
    /// The deliveries of the hook, as the worker last reported them. Absent before the first report, and with deliverBy:
    /// Gateway.
    pub delivery: Option<Box<DeliveryReport>>,
    /// Annotation commands that were executed.
    pub handled: Option<Handled>,
    /// The last error of the admin API.
    pub last_error: Option<Box<LastError>>,
}

/// The deliveries of a hook. The worker writes it when the condition Delivering changes, and at most once a minute while it is
/// False.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryReport {
    /// The state in one line, for example ReceiverFailing: 503 for 12m, 214 pending.
    #[schemars(length(max = 256))]
    pub summary: Option<String>,
    /// The receiver's host. Absent if the URL is in a Secret.
    #[schemars(length(max = 253))]
    pub host: Option<String>,
    /// Since when the condition Delivering is False, RFC 3339.
    #[schemars(length(max = 64))]
    pub failing_since: Option<String>,
    /// The last success before the report, RFC 3339. Absent if the worker has not seen one.
    #[schemars(length(max = 64))]
    pub last_success: Option<String>,
    /// Number of pending deliveries while the condition Delivering is False.
    pub pending: Option<i64>,
    /// When the oldest pending delivery was accepted, RFC 3339.
    #[schemars(length(max = 64))]
    pub oldest: Option<String>,
    /// When the circuit breaker sends the next probe, RFC 3339.
    #[schemars(length(max = 64))]
    pub next_probe: Option<String>,
}

/// The relay settings that were last configured at the vendor.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    #[serde(flatten)]
    pub settings: AppliedSettings,
    /// The settings before the last change, which the worker accepts for a limited time.
    pub previous: Option<PreviousSettings>,
}

/// Relay settings of a hook at the vendor.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
#[serde(rename_all = "camelCase")]
pub struct AppliedSettings {
    /// The component that delivers: Worker or Gateway.
    pub deliver_by: DeliverBy,
    /// The source.
    #[schemars(length(max = 253))]
    pub source: String,
    /// The event. Absent for every event of the source.
    #[schemars(length(max = 253))]
    pub event: Option<String>,
    /// The rotation text.
    #[schemars(length(max = 63))]
    pub rotation: Option<String>,
    /// The id of the key that the relay secret was derived from.
    #[schemars(length(max = 64))]
    pub key_id: Option<String>,
}

/// The settings before the last change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = use_field_description)]
pub struct PreviousSettings {
    #[serde(flatten)]
    pub settings: AppliedSettings,
    /// When the worker stops accepting relays with these settings, RFC 3339.
    #[schemars(length(max = 64))]
    pub until: String,
}
