//! An EventHook, understood: what the worker runs and the controller syncs.
//!
//! One reading for both roles, so that an object which the controller calls Stalled is not delivered by other rules.

use std::sync::Arc;
use std::time::Duration;

use url::Url;

use super::bucket::Rate;
use super::duration;
use super::filter::{Filter, FilterError};
use super::gate::{Gates, OnChange, Snooze};
use super::retry::Policy;
use crate::api::{
    AdoptMode, CaKind, DeliverBy, DurationText, EventHook, EventHookSpec, Format, HandlerKind, HeaderFrom,
    ManagementPolicy, RateLimit, SecretKeyRef, SignatureAlgorithm, SignatureEncoding, SignatureScheme, Tls,
    Trailing,
};

/// A valid hook.
#[derive(Clone, Debug, PartialEq)]
pub struct Hook {
    pub uid: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub source: String,
    /// None: every event of the source.
    pub event: Option<String>,
    /// None: all of them.
    pub filter: Option<Filter>,
    /// With `deliverBy: Gateway` they are the gateway's to keep.
    pub gates: Gates,
    pub handler: Handler,
    /// The name of the Connection, where there is one: then the hook gets its own relay's events and no others.
    pub connection: Option<String>,
    pub deliver_by: DeliverBy,
    pub delivery: Delivery,
}

/// What is done with an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Handler {
    Webhook(Webhook),
}

impl Handler {
    pub fn kind(&self) -> HandlerKind {
        match self {
            Handler::Webhook(_) => HandlerKind::Webhook,
        }
    }

    /// True where it reads the Secret or ConfigMap of this name.
    pub fn refers_to(&self, kind: CaKind, name: &str) -> bool {
        let Handler::Webhook(webhook) = self;
        let target = match &webhook.target {
            Target::Secret(reference) => Some(reference),
            Target::Url(_) => None,
        };
        let signature = webhook.signature.as_ref().map(|s| &s.secret_ref);
        let headers = webhook.headers_from.iter().map(|from| &from.secret_ref);
        let mut secrets = target.into_iter().chain(signature).chain(headers);
        (kind == CaKind::Secret && secrets.any(|reference| reference.name == name))
            || webhook.tls.as_ref().is_some_and(|tls| tls.refers_to(kind, name))
    }
}

/// A JSON POST.
#[derive(Clone, Debug, PartialEq)]
pub struct Webhook {
    pub target: Target,
    pub headers: Vec<(String, String)>,
    pub headers_from: Vec<HeaderFrom>,
    pub format: Format,
    pub signature: Option<Signature>,
    pub tls: Option<Tls>,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    Url(Url),
    Secret(SecretKeyRef),
}

/// How a request is signed.
#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    pub secret_ref: SecretKeyRef,
    pub scheme: SignatureScheme,
    pub algorithm: SignatureAlgorithm,
    pub encoding: SignatureEncoding,
}

/// How the worker delivers, defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    pub paused: bool,
    pub timeout: Duration,
    pub concurrency: usize,
    /// None: no limit.
    pub rate: Option<Rate>,
    pub retry: Policy,
}

/// Why a hook's spec cannot be carried out. The message says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
pub enum InvalidSpec {
    #[error("{} not built yet: remove {} or wait for a later version", list(.0), if .0.len() == 1 { "it" } else { "them" })]
    NotImplemented(Vec<&'static str>),
    #[error("filter: {0}")]
    InvalidFilter(FilterError),
    #[error("{field}: {problem}")]
    InvalidSpec { field: &'static str, problem: String },
}

fn list(fields: &[&str]) -> String {
    format!("{} {}", fields.join(", "), if fields.len() == 1 { "is" } else { "are" })
}

fn invalid(field: &'static str, problem: impl Into<String>) -> InvalidSpec {
    InvalidSpec::InvalidSpec { field, problem: problem.into() }
}

/// Understands a hook. What the API server refuses is refused again here, for standalone has no API server.
pub fn validate(hook: &EventHook) -> Result<Hook, InvalidSpec> {
    let spec = &hook.spec;
    let not_built = not_built(spec);
    if !not_built.is_empty() {
        return Err(InvalidSpec::NotImplemented(not_built));
    }
    if spec.connection_ref.is_none() && spec.deliver_by.is_some() {
        return Err(invalid("deliverBy", "needs connectionRef"));
    }
    if spec.connection_ref.is_none() && spec.rotation.is_some() {
        return Err(invalid("rotation", "needs connectionRef"));
    }
    let deliver_by = spec.deliver_by.unwrap_or(DeliverBy::Worker);
    if deliver_by == DeliverBy::Gateway {
        gateway_takes(spec)?;
    }
    let meta = &hook.metadata;
    Ok(Hook {
        uid: meta.uid.as_deref().unwrap_or_default().into(),
        namespace: meta.namespace.as_deref().unwrap_or_default().into(),
        name: meta.name.as_deref().unwrap_or_default().into(),
        source: spec.source.clone(),
        event: spec.event.clone(),
        filter: spec
            .filter
            .as_deref()
            .map(Filter::compile)
            .transpose()
            .map_err(InvalidSpec::InvalidFilter)?,
        gates: gates(spec)?,
        handler: handler(spec)?,
        connection: spec.connection_ref.as_ref().map(|r| r.name.clone()),
        deliver_by,
        delivery: delivery(spec)?,
    })
}

/// Fields that exist in the API and are not carried out by this version: an object that uses one must say so, for a
/// gate or filter that is silently ignored sends what was not to be sent.
fn not_built(spec: &EventHookSpec) -> Vec<&'static str> {
    let used = [
        ("from", spec.from.is_some()),
        ("handler.webhookCustom", spec.handler.webhook_custom.is_some()),
        ("handler.log", spec.handler.log.is_some()),
        ("handler.lambda", spec.handler.lambda.is_some()),
        ("managementPolicy: ObserveOnly", spec.management_policy == Some(ManagementPolicy::ObserveOnly)),
        ("adopt.mode: Match", spec.adopt.as_ref().is_some_and(|a| a.mode == AdoptMode::Match)),
        ("adopt.mode: Override", spec.adopt.as_ref().is_some_and(|a| a.mode == AdoptMode::Override)),
    ];
    used.into_iter().filter_map(|(field, used)| used.then_some(field)).collect()
}

/// Refuses what a gateway that delivers by itself would ignore.
fn gateway_takes(spec: &EventHookSpec) -> Result<(), InvalidSpec> {
    let fields = spec.on_change.as_ref().is_some_and(|on_change| on_change.fields.is_some());
    let trailing = spec.snooze.as_ref().is_some_and(|snooze| snooze.trailing.is_some());
    let ignored = [
        ("delivery", spec.delivery.is_some()),
        ("filter", spec.filter.is_some()),
        ("groupBy", spec.group_by.is_some()),
        ("onChange.fields", fields),
        ("snooze.trailing", trailing),
    ];
    match ignored.into_iter().find(|(_, used)| *used) {
        Some((field, _)) => Err(invalid(field, "would be ignored with deliverBy: Gateway")),
        None => Ok(()),
    }
}

fn gates(spec: &EventHookSpec) -> Result<Gates, InvalidSpec> {
    let snooze = match &spec.snooze {
        Some(snooze) => {
            let period =
                duration::parse(&snooze.period.0).map_err(|e| invalid("snooze.period", e.to_string()))?;
            if spec.deliver_by == Some(DeliverBy::Gateway) && period.subsec_nanos() != 0 {
                return Err(invalid("snooze.period", "must be whole seconds with deliverBy: Gateway"));
            }
            Some(Snooze { period, trailing: snooze.trailing == Some(Trailing::Last) })
        }
        None => None,
    };
    Ok(Gates {
        group_by: paths("groupBy", spec.group_by.as_ref())?,
        snooze,
        on_change: match &spec.on_change {
            Some(rule) => Some(OnChange { fields: paths("onChange.fields", rule.fields.as_ref())? }),
            None => None,
        },
    })
}

/// Dotted paths. One with an empty step would never find anything, and so put all events into one group.
fn paths(field: &'static str, paths: Option<&Vec<String>>) -> Result<Option<Vec<String>>, InvalidSpec> {
    let Some(paths) = paths else { return Ok(None) };
    if paths.is_empty() {
        return Err(invalid(field, "must name at least one path, or be left out"));
    }
    match paths.iter().find(|path| path.split('.').any(str::is_empty)) {
        Some(path) => Err(invalid(field, format!("{path:.64} is no path: write it as entity.id"))),
        None => Ok(Some(paths.clone())),
    }
}

fn handler(spec: &EventHookSpec) -> Result<Handler, InvalidSpec> {
    let webhook = spec.handler.webhook.as_ref().ok_or_else(|| {
        invalid("handler", "exactly one of webhook, webhookCustom, log, lambda must be set")
    })?;
    let target = match (&webhook.url, &webhook.url_secret_ref) {
        (Some(url), None) => Target::Url(parse_url(&url.0).map_err(|e| invalid("handler.webhook.url", e))?),
        (None, Some(secret)) => Target::Secret(secret.clone()),
        _ => return Err(invalid("handler.webhook", "exactly one of url, urlSecretRef must be set")),
    };
    let signature = webhook.signature.as_ref().map(|s| Signature {
        secret_ref: s.secret_ref.clone(),
        scheme: s.scheme.unwrap_or(SignatureScheme::Kong),
        algorithm: s.algorithm.unwrap_or(SignatureAlgorithm::SHA256),
        encoding: s.encoding.unwrap_or(SignatureEncoding::PrefixedHex),
    });
    Ok(Handler::Webhook(Webhook {
        target,
        headers: webhook.headers.clone().unwrap_or_default().into_iter().collect(),
        headers_from: webhook.headers_from.clone().unwrap_or_default(),
        format: webhook.format.unwrap_or(Format::Kong),
        signature,
        tls: webhook.tls.clone(),
    }))
}

fn delivery(spec: &EventHookSpec) -> Result<Delivery, InvalidSpec> {
    let delivery = spec.delivery.clone().unwrap_or_default();
    let retry = delivery.retry.unwrap_or_default();
    let default = Policy::default();
    let statuses =
        retry.terminal_statuses.map(|list| list.into_iter().filter_map(|s| u16::try_from(s).ok()).collect());
    let positive = |field, value: Option<i32>| {
        value.map(|v| {
            u32::try_from(v).ok().filter(|v| *v > 0).ok_or_else(|| invalid(field, "must be 1 or more"))
        })
    };
    let retry = Policy {
        initial_backoff: time(
            "delivery.retry.initialBackoff",
            retry.initial_backoff,
            default.initial_backoff,
        )?,
        max_backoff: time("delivery.retry.maxBackoff", retry.max_backoff, default.max_backoff)?,
        max_age: time("delivery.retry.maxAge", retry.max_age, default.max_age)?,
        max_attempts: positive("delivery.retry.maxAttempts", retry.max_attempts).transpose()?,
        terminal_statuses: statuses.unwrap_or(default.terminal_statuses),
    };
    let concurrency = positive("delivery.concurrency", delivery.concurrency).transpose()?.unwrap_or(8);
    Ok(Delivery {
        paused: delivery.paused.unwrap_or(false),
        timeout: time("delivery.timeout", delivery.timeout, Duration::from_secs(15))?,
        concurrency: concurrency.min(1024) as usize,
        rate: delivery.rate_limit.map(|limit| rate("delivery.rateLimit", &limit)).transpose()?,
        retry,
    })
}

/// Understands a rate limit.
pub fn rate(field: &'static str, limit: &RateLimit) -> Result<Rate, InvalidSpec> {
    let positive = |value: i32| {
        u32::try_from(value)
            .ok()
            .filter(|v| *v > 0)
            .ok_or_else(|| invalid(field, "numbers must be 1 or more"))
    };
    let requests = positive(limit.requests)?;
    let interval = time(field, limit.interval.clone(), Duration::from_secs(1))?;
    Ok(Rate { requests, interval, burst: limit.burst.map(positive).transpose()?.unwrap_or(requests) })
}

fn time(field: &'static str, text: Option<DurationText>, default: Duration) -> Result<Duration, InvalidSpec> {
    text.map_or(Ok(default), |text| duration::parse(&text.0).map_err(|e| invalid(field, e.to_string())))
}

/// Parses a URL to send to. The message never repeats the text, for it may come from a Secret.
pub fn parse_url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text.trim()).map_err(|_| "is no URL: write it as https://example.com/hooks")?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must be an http or https URL");
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("has no host");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not carry user information: put credentials into headersFrom");
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn hook(spec: Value) -> EventHook {
        let object = json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook",
            "metadata": {"name": "h", "namespace": "n", "uid": "u"}, "spec": spec});
        serde_json::from_value(object).unwrap()
    }

    fn with(extra: Value) -> EventHook {
        let mut spec = json!({"source": "crud", "handler": {"webhook": {"url": "https://example.com/a"}}});
        merge(&mut spec, extra);
        hook(spec)
    }

    fn merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                for (k, v) in from {
                    merge(into.entry(k).or_insert(Value::Null), v);
                }
            }
            (into, from) => *into = from,
        }
    }

    #[test]
    fn defaults_are_those_of_the_design() {
        let hook = validate(&with(json!({}))).unwrap();
        assert_eq!(hook.delivery.timeout, Duration::from_secs(15));
        assert_eq!(hook.delivery.concurrency, 8);
        assert_eq!(hook.delivery.retry, Policy::default());
        assert_eq!(hook.deliver_by, DeliverBy::Worker);
        assert!(!hook.delivery.paused);
    }

    #[test]
    fn what_is_not_built_is_said() {
        for (field, extra) in [
            ("from", json!({"from": {"eventStreamRef": {"name": "s"}}})),
            ("managementPolicy: ObserveOnly", json!({"managementPolicy": "ObserveOnly"})),
        ] {
            let error = validate(&with(extra)).unwrap_err();
            assert_eq!(error, InvalidSpec::NotImplemented(vec![field]));
            assert_eq!(<&str>::from(&error), "NotImplemented");
            assert!(error.to_string().starts_with(field), "{error}");
        }
        for handler in ["webhookCustom", "log", "lambda"] {
            let spec = match handler {
                "lambda" => json!({"functions": ["return true"]}),
                "webhookCustom" => json!({"url": "https://example.com"}),
                _ => json!({}),
            };
            let error = validate(&hook(json!({"source": "s", "handler": {handler: spec}}))).unwrap_err();
            assert!(matches!(error, InvalidSpec::NotImplemented(_)), "{error}");
        }
    }

    #[test]
    fn filters_and_gates() {
        let hook = validate(&with(json!({"filter": "data.n == 1", "groupBy": ["a.b", "c"],
            "snooze": {"period": "1m30s", "trailing": "Last"}, "onChange": {"fields": ["d"]}})))
        .unwrap();
        assert_eq!(hook.filter.as_ref().map(Filter::text), Some("data.n == 1"));
        assert_eq!(
            hook.gates,
            Gates {
                group_by: Some(vec!["a.b".into(), "c".into()]),
                snooze: Some(Snooze { period: Duration::from_secs(90), trailing: true }),
                on_change: Some(OnChange { fields: Some(vec!["d".into()]) }),
            }
        );
        let hook = validate(&with(json!({"snooze": {"period": "60s", "trailing": "None"}, "onChange": {}})));
        let gates = hook.unwrap().gates;
        assert_eq!(gates.snooze, Some(Snooze { period: Duration::from_secs(60), trailing: false }));
        assert_eq!(gates.on_change, Some(OnChange { fields: None }));
        assert!(validate(&with(json!({}))).unwrap().gates.is_open());

        let error = validate(&with(json!({"filter": "data.x ==\n dat.y"}))).unwrap_err();
        assert_eq!(<&str>::from(&error), "InvalidFilter");
        assert!(error.to_string().starts_with("filter: line 2, column 2: no such name: dat"), "{error}");
    }

    #[test]
    fn a_gateway_takes_what_kong_knows() {
        let gateway = |extra: Value| {
            let mut spec = json!({"connectionRef": {"name": "k"}, "deliverBy": "Gateway"});
            merge(&mut spec, extra);
            validate(&with(spec))
        };
        gateway(json!({"snooze": {"period": "60s"}, "onChange": {}})).unwrap();
        for (extra, want) in [
            (json!({"filter": "true"}), "filter"),
            (json!({"groupBy": ["a"]}), "groupBy"),
            (json!({"onChange": {"fields": ["a"]}}), "onChange.fields"),
            (json!({"snooze": {"period": "1s", "trailing": "None"}}), "snooze.trailing"),
            (json!({"snooze": {"period": "1s500ms"}}), "snooze.period"),
            (json!({"delivery": {}}), "delivery"),
        ] {
            match gateway(extra).unwrap_err() {
                InvalidSpec::InvalidSpec { field, .. } => assert_eq!(field, want),
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn bad_specs_say_where() {
        let cases = [
            (json!({"delivery": {"timeout": "soon"}}), "delivery.timeout"),
            (json!({"delivery": {"retry": {"maxAge": "0s"}}}), "delivery.retry.maxAge"),
            (json!({"delivery": {"concurrency": 0}}), "delivery.concurrency"),
            (json!({"snooze": {"period": "soon"}}), "snooze.period"),
            (json!({"groupBy": []}), "groupBy"),
            (json!({"groupBy": ["a..b"]}), "groupBy"),
            (json!({"onChange": {"fields": ["a."]}}), "onChange.fields"),
            (json!({"deliverBy": "Worker"}), "deliverBy"),
            (json!({"rotation": "2"}), "rotation"),
            (json!({"handler": {"webhook": {"url": "ftp://x"}}}), "handler.webhook.url"),
            (json!({"handler": {"webhook": {"urlSecretRef": {"name": "a", "key": "b"}}}}), "handler.webhook"),
        ];
        for (extra, want) in cases {
            match validate(&with(extra)).unwrap_err() {
                InvalidSpec::InvalidSpec { field, .. } => assert_eq!(field, want),
                other => panic!("{other}"),
            }
        }
        assert!(validate(&hook(json!({"source": "s", "handler": {}}))).is_err());
    }

    #[test]
    fn urls() {
        assert!(parse_url(" https://example.com/x\n").is_ok());
        for (text, part) in [
            ("example.com", "no URL"),
            ("mailto:a@b", "http or https"),
            ("https://u:p@example.com", "user information"),
            ("https://", "no URL"),
        ] {
            assert!(parse_url(text).unwrap_err().contains(part), "{text}");
        }
    }
}
