use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::api::{Method, TextFormat};
use crate::core::event::data::Data;
use crate::core::output::{MAX_OUTPUT, OutputBudget, OutputError};
use crate::core::retry::RetryPolicy;
use crate::core::template::{self, RenderError};
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
fn applies_documented_defaults() {
    let hook = validate(&with(json!({}))).unwrap();
    assert_eq!(hook.delivery.timeout, Duration::from_secs(15));
    assert_eq!(hook.delivery.concurrency, 8);
    assert_eq!(hook.delivery.retry, RetryPolicy::default());
    assert_eq!(hook.deliver_by, DeliverBy::Worker);
    assert!(!hook.delivery.paused);
}

#[test]
fn limits_timeout_of_an_object_from_before_the_bound() {
    let hook = validate(&with(json!({"delivery": {"timeout": "1h"}}))).unwrap();
    assert_eq!(hook.delivery.timeout, Duration::from_secs(600));
}

#[test]
fn rejects_adoption_of_incomparable_objects() {
    let adopt = |mode: &str| json!({"id": "i", "mode": mode});
    for (field, extra) in [
        ("adopt", json!({"adopt": adopt("Override")})),
        ("managementPolicy", json!({"connectionRef": {"name": "k"}, "managementPolicy": "ObserveOnly"})),
        (
            "managementPolicy",
            json!({"connectionRef": {"name": "k"}, "managementPolicy": "ObserveOnly", "adopt": adopt("Override")}),
        ),
        ("adopt.mode", json!({"connectionRef": {"name": "k"}, "adopt": adopt("Match")})),
    ] {
        match validate(&with(extra)).unwrap_err() {
            InvalidSpec::InvalidSpec { field: reported, .. } => assert_eq!(reported, field),
            other => panic!("{other}"),
        }
    }
    let fine = json!({"connectionRef": {"name": "k"}, "deliverBy": "Gateway",
        "managementPolicy": "ObserveOnly", "adopt": adopt("Match")});
    validate(&with(fine)).unwrap();
    validate(&with(json!({"connectionRef": {"name": "k"}, "adopt": adopt("Override")}))).unwrap();
}

#[test]
fn compiles_the_four_handlers() {
    let handler =
        |handler: Value| validate(&hook(json!({"source": "s", "handler": handler}))).map(|h| h.handler);
    let custom = json!({"url": "https://example.com", "payload": {"text": "{{ x }}"}});
    let Ok(Handler::WebhookCustom(custom)) = handler(json!({"webhookCustom": custom})) else { panic!() };
    assert_eq!((custom.method, custom.headers_format), (Method::Post, TextFormat::Raw));
    assert_eq!((custom.payload_format, custom.body_format), (TextFormat::Template, TextFormat::Template));
    assert_eq!(custom.payload.unwrap()["text"], "{{ x }}");
    assert_eq!(handler(json!({"log": {}})).unwrap(), Handler::Log);
    let lambda = handler(json!({"lambda": {"functions": ["return true"]}})).unwrap();
    let Handler::Lambda(lambda) = lambda else { panic!() };
    assert_eq!(
        (lambda.functions.as_slice(), lambda.hashes.len()),
        (["return true".to_owned()].as_slice(), 1)
    );
    for (bad, reason) in [
        (json!({}), "exactly one of webhook"),
        (json!({"log": {}, "webhook": {"url": "https://example.com"}}), "exactly one of webhook"),
        (json!({"webhookCustom": {}}), "exactly one of url"),
        (json!({"webhookCustom": {"url": "https://e.com", "payload": {}, "body": ""}}), "mutually exclusive"),
        (json!({"lambda": {"functions": []}}), "at least one"),
        (
            json!({"lambda": {"functions": ["return 1", "return 1"]}}),
            "functions[1] is the same as functions[0]",
        ),
        (json!({"webhook": {"url": "https://e.com", "headers": {"Host": "a"}}}), "belongs to the connection"),
        (json!({"webhookCustom": {"url": "https://e.com", "headers": {"a": "b\r\nc: d"}}}), "not one line"),
        (
            json!({"webhookCustom": {"url": "https://e.com", "headers": {"a b": "c"}}}),
            "not a valid header name",
        ),
    ] {
        let error = handler(bad).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

/// Compiles a `webhookCustom` and renders it for an event with this data.
fn render(
    custom: Value,
    data: &Value,
    budget: &mut OutputBudget<'_>,
) -> Result<RenderedContent, RenderError> {
    let mut spec = json!({"source": "s", "handler": {"webhookCustom": {"url": "https://example.com"}}});
    merge(&mut spec["handler"]["webhookCustom"], custom);
    let Handler::WebhookCustom(custom) = validate(&hook(spec)).unwrap().handler else { panic!() };
    let context = template::context(Data::from(data.clone()), "s", "e");
    custom.content.render(&context, Vec::new(), None, budget)
}

#[test]
fn renders_payloads_as_json_and_as_form() {
    let payload = json!({"payload": {
        "a": "{* user *}", "b": [1, null, "{{ user }}", {"c": true}], "d": {"e": {"": "é \n"}, "f.g": 2.5}, "h": {}, "i": []
    }});
    let data = json!({"user": "\"A\" & B"});
    let of =
        |custom: Value| render(custom, &data, &mut OutputBudget::new(MAX_OUTPUT, &|| false)).unwrap().body;
    let json = r#"{"a":"\"A\" & B","b":[1,null,"&quot;A&quot; &amp; B",{"c":true}],"d":{"e":{"":"é \n"},"f.g":2.5},"h":{},"i":[]}"#;
    assert_eq!(of(payload.clone()), RenderedBody::Json(json.into()));
    serde_json::from_str::<Value>(json).unwrap();
    let mut form = payload;
    merge(
        &mut form,
        json!({"headers": {"Content-Type": "Application/x-www-form-urlencoded ; charset=utf-8"}}),
    );
    let expected =
        "a=%22A%22+%26+B&b=1&b=%26quot%3BA%26quot%3B+%26amp%3B+B&b.c=true&d.e.=%C3%A9+%0A&d.f.g=2.5";
    assert_eq!(of(form), RenderedBody::Form(expected.into()));
}

/// The most checks of the deadline within the budget: one for each 64 KiB of work. A byte of output may cost 17 of it, twice if a
/// function writes it before its place does.
const MAX_CHECKS: usize = 2 * 17 * (MAX_OUTPUT >> 16);

/// Headers, body and payload share one budget. No text grows beyond it, not even for a moment.
#[test]
fn rendering_stops_at_the_output_budget() {
    let repeated = "{*t*}".repeat(10_000);
    let names = json!({&"n".repeat(1000): vec![""; 10_000]});
    let form = json!({"content-type": "application/x-www-form-urlencoded"});
    let nulls: serde_json::Map<_, _> = (0..10_000).map(|n| (n.to_string(), Value::Null)).collect();
    let data = json!({"t": "x".repeat(100_000), "q": "\"".repeat(100_000), "nulls": nulls});
    for custom in [
        json!({"body": repeated}),
        json!({"headersFormat": "Template", "headers": {"x-a": repeated}}),
        json!({"payload": {"a": {"b": [repeated]}}}),
        json!({"payload": {"a": repeated}, "headers": form}),
        json!({"payload": names, "headers": form}),
        // Escaping and encoding count.
        json!({"body": "{{q}}".repeat(8)}),
        json!({"payload": {"a": "{* json(q) *}".repeat(15)}}),
        json!({"payload": {"a": "{*q*}".repeat(15)}, "headers": form}),
        // Work without output counts.
        json!({"body": "{* json(nulls) *}".repeat(1000)}),
        json!({"body": "{*t*}".repeat(30), "headersFormat": "Template", "headers": {"x-a": "{*t*}".repeat(30)}}),
    ] {
        // The deadline is checked about once for each 64 KiB of output and work, however busy the machine is.
        let checks = AtomicUsize::new(0);
        let count = || {
            checks.fetch_add(1, Ordering::Relaxed);
            false
        };
        let mut budget = OutputBudget::new(MAX_OUTPUT, &count);
        let error = render(custom.clone(), &data, &mut budget).unwrap_err();
        assert_eq!(error, RenderError::Output(OutputError::TooLarge), "{custom:.200}");
        let checks = checks.into_inner();
        assert!(checks <= MAX_CHECKS, "{checks} checks: {custom:.200}");
    }
}

#[test]
fn rendering_stops_at_the_deadline() {
    let mut budget = OutputBudget::new(MAX_OUTPUT, &|| true);
    let data = json!({"t": "x".repeat(100_000)});
    let error = render(json!({"body": "{*t*}"}), &data, &mut budget).unwrap_err();
    assert_eq!(error, RenderError::Output(OutputError::Late));
}

#[test]
fn compiles_filters_and_gates() {
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
    assert!(validate(&with(json!({}))).unwrap().gates.is_empty());

    let error = validate(&with(json!({"filter": "data.x ==\n dat.y"}))).unwrap_err();
    assert_eq!(<&str>::from(&error), "InvalidFilter");
    assert!(error.to_string().starts_with("filter: line 2, column 2: unknown name dat"), "{error}");
}

#[test]
fn rejects_fields_that_the_gateway_ignores() {
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
fn names_the_invalid_field() {
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
        (json!({"connectionRef": {"name": "k"}, "from": {"eventStreamRef": {"name": "s"}}}), "from"),
        (json!({"handler": {"webhook": {"url": "ftp://x"}}}), "handler.webhook"),
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
