//! Rows of EventHook: required combinations, exclusions, and fields that would be ignored.

use super::manifests::{
    CUSTOM, FULL_CUSTOM, FULL_RELAY, FULL_WEBHOOK, GATEWAY, GATEWAY_CUSTOM, HOOK, LAMBDA, OBSERVED, RELAY,
    WEBHOOK,
};
use super::table::Table;

pub fn rows(t: &mut Table) {
    for base in
        [HOOK, RELAY, GATEWAY, GATEWAY_CUSTOM, WEBHOOK, CUSTOM, LAMBDA, FULL_WEBHOOK, FULL_CUSTOM, FULL_RELAY]
    {
        t.accept(base, "", "{}");
    }
    t.accept(OBSERVED, "", "{}");
    bounds(t);
    handlers(t);
    connection(t);
    gateway(t);
    observing(t);
}

fn bounds(t: &mut Table) {
    t.required(HOOK, "source");
    t.required(HOOK, "handler");
    t.length(HOOK, "source", 1, 253);
    t.length(HOOK, "event", 1, 253);
    t.length_of(HOOK, "filter", 4096, |n| format!("true{}", " ".repeat(n - 4)));
    t.length(RELAY, "rotation", 1, 63);
    t.required(FULL_WEBHOOK, "from.eventStreamRef");
    paths(t, "groupBy");
    paths(t, "onChange.fields");
    t.accept(HOOK, "onChange", "{}");
    t.one_of(FULL_WEBHOOK, "snooze.trailing", &["None", "Last"]);
    t.one_of(RELAY, "deliverBy", &["Worker", "Gateway"]);
    t.one_of(HOOK, "deletionPolicy", &["Delete", "Orphan"]);
    t.accept(RELAY, "managementPolicy", "Full");
    t.refuse(RELAY, "managementPolicy", "Other", r#"supported values: "Full", "ObserveOnly""#);
    t.required(FULL_RELAY, "adopt.id");
    t.required(FULL_RELAY, "adopt.mode");
    t.length(FULL_RELAY, "adopt.id", 1, 64);
    t.one_of(OBSERVED, "adopt.mode", &["Match", "Override"]);

    t.range(HOOK, "delivery.concurrency", 1, 1024);
    t.range(HOOK, "delivery.retry.maxAttempts", 1, 1000);
    let statuses = "delivery.retry.terminalStatuses";
    let many = |n: usize| format!("{:?}", (400..400 + n).collect::<Vec<_>>());
    t.accept(HOOK, statuses, "[]");
    t.bound(HOOK, statuses, many(64), many(65), "must have at most 64 items");
    let first = format!("{statuses}[0]");
    t.range(HOOK, &first, 300, 599);
    t.refuse_at(HOOK, statuses, "[404, 404]", &format!("spec.{statuses}[1]"), "Duplicate value: 404");
}

/// Rows of a list of paths into the data.
fn paths(t: &mut Table, at: &str) {
    let many = |n| format!("[{}]", (0..n).map(|i| format!("p{i}")).collect::<Vec<_>>().join(", "));
    t.bound(HOOK, at, many(1), many(0), "should have at least 1 items");
    t.bound(HOOK, at, many(16), many(17), "must have at most 16 items");
    t.refuse_at(HOOK, at, "[a, a]", &format!("spec.{at}[1]"), "Duplicate value: \"a\"");
    t.length(HOOK, &format!("{at}[0]"), 1, 253);
}

fn handlers(t: &mut Table) {
    t.exactly_one(
        HOOK,
        "handler",
        &[
            "webhook: {url: 'https://a'}",
            "webhookCustom: {url: 'https://a'}",
            "log: {}",
            "lambda: {functions: [return]}",
        ],
        "exactly one of webhook, webhookCustom, log, lambda must be set (log is written log: {})",
    );
    for (base, at) in [(WEBHOOK, "handler.webhook"), (CUSTOM, "handler.webhookCustom")] {
        let text = "exactly one of url, urlSecretRef must be set";
        t.exactly_one(base, at, &["url: 'https://a'", "urlSecretRef: {name: s, key: k}"], text);
    }
    t.one_of(WEBHOOK, "handler.webhook.format", &["Kong", "CloudEvents", "CloudEventsBinary"]);

    t.accept(WEBHOOK, "handler.webhook.handshake", "true");

    t.one_of(CUSTOM, "handler.webhookCustom.method", &["GET", "POST", "PUT", "PATCH", "DELETE"]);
    for format in ["headersFormat", "payloadFormat", "bodyFormat"] {
        t.one_of(CUSTOM, &format!("handler.webhookCustom.{format}"), &["Raw", "Template"]);
    }
    t.length(CUSTOM, "handler.webhookCustom.body", 0, 65536);
    t.refuse_at(
        CUSTOM,
        "handler.webhookCustom+",
        "{payload: {a: b}, body: c}",
        "spec.handler.webhookCustom",
        "payload and body are mutually exclusive",
    );
    t.accept(CUSTOM, "handler.webhookCustom.payload", "{a: {b: [1, 'x', true, {c: 1.5}]}}");
    let many = |n| format!("{{{}}}", (0..n).map(|i| format!("k{i}: v")).collect::<Vec<_>>().join(", "));
    t.bound(CUSTOM, "handler.webhookCustom.payload", many(256), many(257), "must have at most 256 items");

    let functions = "handler.lambda.functions";
    let many = |n| format!("[{}]", (0..n).map(|i| format!("return {i}")).collect::<Vec<_>>().join(", "));
    t.required(LAMBDA, functions);
    t.bound(LAMBDA, functions, many(1), many(0), "should have at least 1 items");
    t.bound(LAMBDA, functions, many(16), many(17), "must have at most 16 items");
    t.length_of(LAMBDA, &format!("{functions}[0]"), 65536, |n| format!("--{}", "a".repeat(n - 2)));
}

fn connection(t: &mut Table) {
    let mut alone = |patch: &str, text: &str| t.refuse_at(HOOK, "", patch, "spec", text);
    alone("{deliverBy: Worker}", "deliverBy needs connectionRef");
    alone("{deliverBy: Gateway}", "deliverBy needs connectionRef");
    alone("{rotation: a}", "rotation needs connectionRef");
    alone("{adopt: {id: a, mode: Override}}", "adopt needs connectionRef");
    alone("{managementPolicy: ObserveOnly}", "managementPolicy: ObserveOnly needs connectionRef");
    t.accept(HOOK, "managementPolicy", "Full");
    t.refuse_at(
        RELAY,
        "",
        "{from: {eventStreamRef: {name: a}}}",
        "spec",
        "from and connectionRef are mutually exclusive",
    );
    for patch in ["{rotation: a}", "{deliverBy: Worker, rotation: a}", "{adopt: {id: a, mode: Override}}"] {
        t.accept(RELAY, "", patch);
    }
}

/// Rows of fields that the gateway would ignore.
fn gateway(t: &mut Table) {
    let rows = [
        ("{delivery: {paused: false}}", "delivery would be ignored with deliverBy: Gateway"),
        ("{delivery: {}}", "delivery would be ignored with deliverBy: Gateway"),
        ("{groupBy: [a]}", "groupBy would be ignored with deliverBy: Gateway"),
        ("{filter: 'true'}", "filter would be ignored with deliverBy: Gateway"),
        ("{from: {eventStreamRef: {name: a}}}", "from would be ignored with deliverBy: Gateway"),
        ("{rotation: a}", "rotation would be ignored with deliverBy: Gateway: remove it"),
        (
            "{onChange: {fields: [a]}}",
            "onChange.fields would be ignored with deliverBy: Gateway: write onChange: {}",
        ),
        (
            "{snooze: {period: 1s, trailing: Last}}",
            "snooze.trailing would be ignored with deliverBy: Gateway",
        ),
        (
            "{snooze: {period: 1s, trailing: None}}",
            "snooze.trailing would be ignored with deliverBy: Gateway",
        ),
        ("{snooze: {period: 500ms}}", "snooze.period must be whole seconds with deliverBy: Gateway"),
        ("{snooze: {period: 1s500ms}}", "snooze.period must be whole seconds with deliverBy: Gateway"),
    ];
    for (patch, text) in rows {
        t.refuse_at(GATEWAY, "", patch, "spec", text);
        // The same with `deliverBy: Worker`, which the rules must accept.
        if !patch.contains("from") {
            t.accept(RELAY, "", patch);
        }
    }
    for patch in ["{onChange: {}}", "{snooze: {period: 60s}}", "{snooze: {period: 1h30m}}", "{suspend: true}"]
    {
        t.accept(GATEWAY, "", patch);
    }
    let format = "{handler: {webhook: {format: CloudEvents}}}";
    let text = "handler.webhook.format: CloudEvents would be ignored with deliverBy: Gateway";
    t.refuse_at(GATEWAY, "", format, "spec", text);
    t.refuse_at(GATEWAY, "", "{handler: {webhook: {format: CloudEventsBinary}}}", "spec", text);
    t.accept(GATEWAY, "handler.webhook.format", "Kong");
    let text = "handler.webhook.handshake would be ignored with deliverBy: Gateway";
    t.refuse_at(GATEWAY, "", "{handler: {webhook: {handshake: true}}}", "spec", text);

    for (base, handler) in [(GATEWAY, "webhook"), (GATEWAY_CUSTOM, "webhookCustom")] {
        let signature = format!("handler.{handler}.signature");
        t.accept(base, &signature, "{secretRef: {name: s, key: k}}");
        for member in ["scheme: Kong", "algorithm: SHA256", "encoding: Hex"] {
            let value = format!("{{secretRef: {{name: s, key: k}}, {member}}}");
            let text =
                format!("handler.{handler}.signature: scheme, algorithm and encoding would be ignored");
            t.refuse_at(base, &signature, value, "spec", &text);
        }
        let oauth2 = "{tokenUrl: 'https://a.example/', clientId: a, clientSecretRef: {name: a, key: b}}";
        let text = "handler: oauth2 would be ignored with deliverBy: Gateway";
        t.refuse_at(base, &format!("handler.{handler}.oauth2"), oauth2, "spec", text);
        let tls = format!("handler.{handler}.tls");
        t.accept(base, &tls, "{insecureSkipVerify: true}");
        for member in ["caRef: {kind: Secret, name: a, key: b}", "certSecretRef: {name: a}"] {
            let text = format!("handler.{handler}.tls: caRef and certSecretRef would be ignored");
            t.refuse_at(base, &tls, format!("{{{member}}}"), "spec", &text);
        }
    }
    for handler in ["{log: {}}", "{lambda: {functions: [return]}}"] {
        t.accept(GATEWAY, "handler", handler);
    }
}

fn observing(t: &mut Table) {
    t.refuse_at(OBSERVED, "", "{adopt: null}", "spec", "managementPolicy: ObserveOnly needs adopt.id");
    for deliver_by in ["null", "Worker"] {
        let patch = format!("{{deliverBy: {deliver_by}}}");
        t.refuse_at(OBSERVED, "", &patch, "spec", "managementPolicy: ObserveOnly needs deliverBy: Gateway");
        t.refuse_at(OBSERVED, "", &patch, "spec", "adopt.mode: Match needs deliverBy: Gateway");
    }
    t.accept(OBSERVED, "managementPolicy", "Full");
}
