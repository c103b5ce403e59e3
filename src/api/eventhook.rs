//! `EventHook`: which events trigger which handler, and how they are delivered.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with_macros::skip_serializing_none;

use super::common::{told_by_the_field, *};
use super::handler::Handler;

/// Which events (source, event) trigger which handler, and how they are delivered.
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
    doc = "An EventHook tells which events (source, event) trigger which handler, and how they are delivered.",
    printcolumn = r#"{"name":"Source","type":"string","jsonPath":".spec.source"}"#,
    printcolumn = r#"{"name":"Event","type":"string","jsonPath":".spec.event"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].reason"}"#,
    printcolumn = r#"{"name":"Delivering","type":"string","jsonPath":".status.conditions[?(@.type=='Delivering')].status"}"#,
    printcolumn = r#"{"name":"Connection","type":"string","priority":1,"jsonPath":".spec.connectionRef.name"}"#,
    printcolumn = r#"{"name":"External ID","type":"string","priority":1,"jsonPath":".status.external.id"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.connectionRef) || !has(self.deliverBy)").message("deliverBy needs connectionRef: a hook without a connection is always delivered by the worker"))]
#[x_kube(validation = Rule::new("has(self.connectionRef) || !has(self.rotation)").message("rotation needs connectionRef: only a relay has a secret to rotate"))]
#[x_kube(validation = Rule::new("has(self.connectionRef) || !has(self.adopt)").message("adopt needs connectionRef"))]
#[x_kube(validation = Rule::new("has(self.connectionRef) || !has(self.managementPolicy) || self.managementPolicy != 'ObserveOnly'").message("managementPolicy: ObserveOnly needs connectionRef"))]
#[x_kube(validation = Rule::new("!(has(self.connectionRef) && has(self.from))").message("from and connectionRef exclude each other: a hook with a connection gets the events of its own relay only"))]
#[x_kube(validation = Rule::new("has(self.connectionRef) == has(oldSelf.connectionRef) && (!has(self.connectionRef) || self.connectionRef.name == oldSelf.connectionRef.name)").message("connectionRef is immutable: make a new EventHook"))]
#[x_kube(validation = Rule::new("has(self.adopt) == has(oldSelf.adopt) && (!has(self.adopt) || self.adopt.id == oldSelf.adopt.id)").message("adopt.id is immutable"))]
#[x_kube(validation = Rule::new("!has(self.managementPolicy) || self.managementPolicy != 'ObserveOnly' || has(self.adopt)").message("managementPolicy: ObserveOnly needs adopt.id: which object is to be observed"))]
#[x_kube(validation = Rule::new("!(has(self.managementPolicy) && self.managementPolicy == 'ObserveOnly') || (has(self.deliverBy) && self.deliverBy == 'Gateway')").message("managementPolicy: ObserveOnly needs deliverBy: Gateway: a relay's secret never equals what exists"))]
#[x_kube(validation = Rule::new("!(has(self.adopt) && self.adopt.mode == 'Match') || (has(self.deliverBy) && self.deliverBy == 'Gateway')").message("adopt.mode: Match needs deliverBy: Gateway: a relay's secret never equals what exists"))]
#[x_kube(validation = Rule::new("!(has(self.deliverBy) && self.deliverBy == 'Gateway' && has(self.delivery))").message("delivery would be ignored with deliverBy: Gateway: the gateway delivers by its own rules"))]
#[x_kube(validation = Rule::new("!(has(self.deliverBy) && self.deliverBy == 'Gateway' && has(self.groupBy))").message("groupBy would be ignored with deliverBy: Gateway"))]
#[x_kube(validation = Rule::new("!(has(self.deliverBy) && self.deliverBy == 'Gateway' && has(self.filter))").message("filter would be ignored with deliverBy: Gateway"))]
#[x_kube(validation = Rule::new("!(has(self.deliverBy) && self.deliverBy == 'Gateway' && has(self.from))").message("from would be ignored with deliverBy: Gateway"))]
#[x_kube(validation = Rule::new("!(has(self.deliverBy) && self.deliverBy == 'Gateway' && has(self.rotation))").message("rotation would be ignored with deliverBy: Gateway: there is no relay secret"))]
#[x_kube(validation = Rule::new("!(has(self.deliverBy) && self.deliverBy == 'Gateway' && has(self.onChange) && has(self.onChange.fields))").message("onChange.fields would be ignored with deliverBy: Gateway: say onChange: {}"))]
#[x_kube(validation = Rule::new("!(has(self.deliverBy) && self.deliverBy == 'Gateway' && has(self.snooze) && has(self.snooze.trailing))").message("snooze.trailing would be ignored with deliverBy: Gateway"))]
#[x_kube(validation = Rule::new("!(has(self.deliverBy) && self.deliverBy == 'Gateway' && has(self.snooze) && self.snooze.period.contains('ms'))").message("snooze.period must be whole seconds with deliverBy: Gateway"))]
#[x_kube(validation = Rule::new("!(has(self.deliverBy) && self.deliverBy == 'Gateway' && has(self.handler.webhook) && has(self.handler.webhook.format) && self.handler.webhook.format == 'CloudEvents')").message("handler.webhook.format: CloudEvents would be ignored with deliverBy: Gateway"))]
#[x_kube(validation = Rule::new("!(has(self.deliverBy) && self.deliverBy == 'Gateway') || (has(self.handler.webhook) && has(self.handler.webhook.signature) ? !has(self.handler.webhook.signature.scheme) && !has(self.handler.webhook.signature.algorithm) && !has(self.handler.webhook.signature.encoding) : true)").message("handler.webhook.signature: scheme, algorithm and encoding would be ignored with deliverBy: Gateway: give secretRef alone"))]
#[x_kube(validation = Rule::new("!(has(self.deliverBy) && self.deliverBy == 'Gateway') || (has(self.handler.webhookCustom) && has(self.handler.webhookCustom.signature) ? !has(self.handler.webhookCustom.signature.scheme) && !has(self.handler.webhookCustom.signature.algorithm) && !has(self.handler.webhookCustom.signature.encoding) : true)").message("handler.webhookCustom.signature: scheme, algorithm and encoding would be ignored with deliverBy: Gateway: give secretRef alone"))]
#[x_kube(validation = Rule::new("!(has(self.deliverBy) && self.deliverBy == 'Gateway') || (has(self.handler.webhook) && has(self.handler.webhook.tls) ? !has(self.handler.webhook.tls.caRef) && !has(self.handler.webhook.tls.certSecretRef) : true)").message("handler.webhook.tls: caRef and certSecretRef would be ignored with deliverBy: Gateway"))]
#[x_kube(validation = Rule::new("!(has(self.deliverBy) && self.deliverBy == 'Gateway') || (has(self.handler.webhookCustom) && has(self.handler.webhookCustom.tls) ? !has(self.handler.webhookCustom.tls.caRef) && !has(self.handler.webhookCustom.tls.certSecretRef) : true)").message("handler.webhookCustom.tls: caRef and certSecretRef would be ignored with deliverBy: Gateway"))]
pub struct EventHookSpec {
    /// Who emits the events, for example crud, dao:crud, balancer, rate-limiting-advanced, auth0 or any text of your own.
    #[schemars(length(min = 1, max = 253))]
    pub source: String,
    /// Which event of the source, for example consumers. Left out: every event of the source.
    #[schemars(length(min = 1, max = 253))]
    pub event: Option<String>,
    /// A CEL expression over source, event, data and attributes, for example data.operation == 'create'. Only events
    /// for which it is true are delivered. At most 4096 characters. Default: all.
    #[schemars(length(min = 1, max = 4096))]
    pub filter: Option<String>,
    /// Only events that came in by this EventStream. Default: events of the API and of every stream.
    pub from: Option<From>,
    /// Dotted paths into data, up to 16, whose values tell which events concern the same thing, for snooze and onChange.
    /// A path that is missing in an event counts as null. Default: for snooze the source's unique fields where it has
    /// some, else the whole data; for onChange all events of the hook are one group.
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 253)), extend("x-kubernetes-list-type" = "set"))]
    pub group_by: Option<Vec<String>>,
    /// After a delivery, further events of the same group are dropped for a while.
    pub snooze: Option<Snooze>,
    /// Events are delivered only when something changed. {} compares the default fields.
    pub on_change: Option<OnChange>,
    /// What is done with an event. Exactly one of webhook, webhookCustom, log, lambda.
    pub handler: Handler,
    /// The Connection to the Kong gateway whose events these are. Immutable. Left out: the hook lives in the worker
    /// alone and gets the events published to it and those of EventStreams.
    pub connection_ref: Option<NameRef>,
    /// Worker: the gateway relays its events to the worker, which delivers them durably. Gateway: the gateway runs the
    /// handler itself. Only with connectionRef. Default: Worker.
    pub deliver_by: Option<DeliverBy>,
    /// How the worker delivers.
    pub delivery: Option<Box<Delivery>>,
    /// Stops reconciling with the vendor; deliveries go on, deletion still cleans up. Default: false.
    pub suspend: Option<bool>,
    /// Full creates, updates, repairs and deletes at the vendor; ObserveOnly compares and reports. Default: Full.
    pub management_policy: Option<ManagementPolicy>,
    /// What happens at the vendor when this object is deleted. Default: what the Connection says, else Delete.
    pub deletion_policy: Option<DeletionPolicy>,
    /// Takes a hook that already exists at the vendor instead of creating one.
    pub adopt: Option<Adopt>,
    /// Any text. Another text makes a new relay secret; the gateway is told at once, and the worker takes the old secret
    /// for 10 minutes more.
    #[schemars(length(min = 1, max = 63))]
    pub rotation: Option<String>,
}

/// Where events must have come in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "camelCase")]
pub struct From {
    /// An EventStream of the same namespace.
    pub event_stream_ref: NameRef,
}

/// After a delivery, further events of the same group are dropped for a while.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
pub struct Snooze {
    /// For how long after a delivery.
    pub period: DurationText,
    /// Last: when the period ends, the newest dropped event is delivered. None: it is not. Default: None.
    pub trailing: Option<Trailing>,
}

/// What becomes of the newest event that a snooze dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
pub enum Trailing {
    None,
    Last,
}

/// Events are delivered only when something changed.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
pub struct OnChange {
    /// Dotted paths into data, up to 16, that are compared with the last event of the group that was accepted for
    /// delivery. Default: the source's unique fields where it has some, else the whole data.
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 253)), extend("x-kubernetes-list-type" = "set"))]
    pub fields: Option<Vec<String>>,
}

/// Who delivers the events of a hook with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
pub enum DeliverBy {
    Worker,
    Gateway,
}

/// How the worker delivers.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// Deliveries wait and nothing is lost. Default: false.
    pub paused: Option<bool>,
    /// How long one attempt may take, from resolving the name to the end of the answer. Default: 15s.
    pub timeout: Option<DurationText>,
    /// When a failed delivery is tried again.
    pub retry: Option<Retry>,
    /// How many requests may be under way at once, 1 to 1024. Default: 8. Not an order: 1 does not make one.
    #[schemars(range(min = 1, max = 1024))]
    pub concurrency: Option<i32>,
    /// How often is sent at most. Default: no limit.
    pub rate_limit: Option<RateLimit>,
}

/// When a failed delivery is tried again: after a time that doubles from initialBackoff to maxBackoff, with jitter
/// between half and full, or later where the receiver says so by Retry-After.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// The wait after the first failure. Default: 5s.
    pub initial_backoff: Option<DurationText>,
    /// The longest wait. Default: 6h.
    pub max_backoff: Option<DurationText>,
    /// How old a delivery may grow before it is dead; the time it was held does not count. Default: 72h.
    pub max_age: Option<DurationText>,
    /// After how many attempts a delivery is dead, 1 to 1000. Default: no limit but maxAge.
    #[schemars(range(min = 1, max = 1000))]
    pub max_attempts: Option<i32>,
    /// The answers after which a delivery is dead at once, up to 64 of 300 to 599. Default: 400, 405, 406, 413, 414, 415, 422, 431.
    #[schemars(length(max = 64), inner(range(min = 300, max = 599)), extend("x-kubernetes-list-type" = "set"))]
    pub terminal_statuses: Option<Vec<i32>>,
}

/// What the operator and the worker know of the hook.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventHookStatus {
    /// The generation that the conditions speak of.
    pub observed_generation: Option<i64>,
    /// Ready, Synced, Reconciling and Stalled are the controller's and speak of the spec and the vendor; Delivering is
    /// the worker's and speaks of the receiver.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Where the object really is at the vendor; cleanup goes by this, not by the spec.
    pub external: Option<Box<External>>,
    /// What the vendor was last told; incoming relays are judged by this.
    pub applied: Option<Box<Applied>>,
    /// Keyed hashes of secrets that cannot be read back from the vendor, by name.
    #[serde(default)]
    #[schemars(schema_with = "hashes_schema")]
    pub secret_hashes: Option<BTreeMap<String, String>>,
    /// Commands given by annotation that were carried out.
    pub handled: Option<Handled>,
    /// The last error of the admin API.
    pub last_error: Option<Box<LastError>>,
}

/// What the vendor was last told.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    #[serde(flatten)]
    pub terms: AppliedTerms,
    /// What it was told before, and until when that is still taken.
    pub previous: Option<PreviousTerms>,
}

/// What the vendor was told.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
#[serde(rename_all = "camelCase")]
pub struct AppliedTerms {
    /// Who delivers.
    pub deliver_by: DeliverBy,
    /// The source.
    #[schemars(length(max = 253))]
    pub source: String,
    /// The event, left out for every event of the source.
    #[schemars(length(max = 253))]
    pub event: Option<String>,
    /// The rotation text.
    #[schemars(length(max = 63))]
    pub rotation: Option<String>,
    /// The id of the key that the relay secret was derived from.
    #[schemars(length(max = 64))]
    pub key_id: Option<String>,
}

/// What the vendor was told before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = told_by_the_field)]
pub struct PreviousTerms {
    #[serde(flatten)]
    pub terms: AppliedTerms,
    /// Until when relays by these terms are still taken, RFC 3339.
    #[schemars(length(max = 64))]
    pub until: String,
}
