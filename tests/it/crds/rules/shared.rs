//! Rows of types that several fields share. Each field gets the rows, because a field could change its type unnoticed.

use super::manifests::{
    BASIC, BEARER, Base, CUSTOM, CUSTOM_HEADER, FULL_AUTH0, FULL_CUSTOM, FULL_KONG, FULL_RELAY, FULL_SCRIPT,
    FULL_WEBHOOK, KEY_AUTH0, KONG, STREAM, WEBHOOK,
};
use super::table::Table;

const SECRET_KEYS: &[(Base, &str)] = &[
    (FULL_WEBHOOK, "handler.webhook.urlSecretRef"),
    (FULL_WEBHOOK, "handler.webhook.headersFrom[0].secretRef"),
    (FULL_WEBHOOK, "handler.webhook.signature.secretRef"),
    (FULL_CUSTOM, "handler.webhookCustom.urlSecretRef"),
    (FULL_CUSTOM, "handler.webhookCustom.headersFrom[0].secretRef"),
    (FULL_CUSTOM, "handler.webhookCustom.signature.secretRef"),
    (FULL_WEBHOOK, "handler.webhook.oauth2.clientSecretRef"),
    (FULL_CUSTOM, "handler.webhookCustom.oauth2.clientSecretRef"),
    (FULL_KONG, "kong.tokenSecretRef"),
    (FULL_AUTH0, "auth0.clientCredentials.clientSecretRef"),
    (KEY_AUTH0, "auth0.clientCredentials.privateKeyRef"),
    (super::manifests::AUTH0, "auth0.tokenSecretRef"),
    (BASIC, "destination.webhook.authorization.basic.passwordSecretRef"),
    (BEARER, "destination.webhook.authorization.bearer.tokenSecretRef"),
    (CUSTOM_HEADER, "destination.webhook.authorization.customHeader.valueSecretRef"),
    (FULL_SCRIPT, "secrets[0].secretRef"),
    (FULL_SCRIPT, "scriptConfigMapRef"),
];

const NAMES: &[(Base, &str)] = &[
    (FULL_WEBHOOK, "from.eventStreamRef"),
    (FULL_RELAY, "connectionRef"),
    (FULL_WEBHOOK, "handler.webhook.tls.certSecretRef"),
    (FULL_CUSTOM, "handler.webhookCustom.tls.certSecretRef"),
    (FULL_WEBHOOK, "handler.webhook.oauth2.tls.certSecretRef"),
    (FULL_CUSTOM, "handler.webhookCustom.oauth2.tls.certSecretRef"),
    (FULL_KONG, "kong.tls.certSecretRef"),
    (STREAM, "connectionRef"),
    (FULL_SCRIPT, "connectionRef"),
];

const TLS: &[(Base, &str)] = &[
    (FULL_WEBHOOK, "handler.webhook.tls"),
    (FULL_CUSTOM, "handler.webhookCustom.tls"),
    (FULL_WEBHOOK, "handler.webhook.oauth2.tls"),
    (FULL_CUSTOM, "handler.webhookCustom.oauth2.tls"),
    (FULL_KONG, "kong.tls"),
];

const DURATIONS: &[(Base, &str)] = &[
    (FULL_WEBHOOK, "snooze.period"),
    (FULL_WEBHOOK, "delivery.retry.initialBackoff"),
    (FULL_WEBHOOK, "delivery.retry.maxBackoff"),
    (FULL_WEBHOOK, "delivery.retry.maxAge"),
    (FULL_WEBHOOK, "delivery.rateLimit.interval"),
    (FULL_KONG, "rateLimit.interval"),
    (FULL_KONG, "resyncInterval"),
];

const URLS: &[(Base, &str)] = &[
    (WEBHOOK, "handler.webhook.url"),
    (CUSTOM, "handler.webhookCustom.url"),
    (KONG, "kong.adminUrl"),
    (KONG, "ingestUrl"),
    (BEARER, "destination.webhook.endpoint"),
];

const RATE_LIMITS: &[(Base, &str)] = &[(FULL_WEBHOOK, "delivery.rateLimit"), (FULL_KONG, "rateLimit")];

const HEADERS: &[(Base, &str)] = &[(WEBHOOK, "handler.webhook"), (CUSTOM, "handler.webhookCustom")];

const SIGNATURES: &[(Base, &str)] =
    &[(FULL_WEBHOOK, "handler.webhook.signature"), (FULL_CUSTOM, "handler.webhookCustom.signature")];

/// Headers that a request must not set.
const RESERVED: &[&str] = &[
    "host",
    "content-length",
    "connection",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "keep-alive",
    "proxy-connection",
];

pub fn rows(t: &mut Table) {
    for (base, at) in SECRET_KEYS {
        name(t, *base, at);
        key(t, *base, at);
    }
    for (base, at) in NAMES {
        name(t, *base, at);
    }
    for (base, at) in TLS {
        tls(t, *base, at);
    }
    for (base, at) in DURATIONS {
        duration(t, *base, at);
    }
    malformed_durations(t, FULL_WEBHOOK, "delivery.timeout");
    for right in ["1ms", "10m", "600s", "0h9m59s1000ms"] {
        t.accept(FULL_WEBHOOK, "delivery.timeout", right);
    }
    for long in ["10m1ms", "601s", "1h", "99999h99999h99999h"] {
        t.refuse(FULL_WEBHOOK, "delivery.timeout", long, "must be at most 10m");
    }
    t.required(FULL_WEBHOOK, "snooze.period");
    for (base, at) in URLS {
        url(t, *base, at);
    }
    urls_as_go_reads_them(t);
    for (base, at) in RATE_LIMITS {
        t.required(*base, &format!("{at}.requests"));
        t.range(*base, &format!("{at}.requests"), 1, 100_000);
        t.range(*base, &format!("{at}.burst"), 1, 100_000);
        t.accept(*base, at, "{requests: 1}");
    }
    for (base, at) in HEADERS {
        headers(t, *base, &format!("{at}.headers"));
        headers_from(t, *base, &format!("{at}.headersFrom"));
    }
    for (base, at) in SIGNATURES {
        signature(t, *base, at);
    }
    for (base, at) in [(FULL_WEBHOOK, "handler.webhook"), (FULL_CUSTOM, "handler.webhookCustom")] {
        oauth2(t, base, at);
    }
}

fn name(t: &mut Table, base: Base, at: &str) {
    t.required(base, &format!("{at}.name"));
    t.length(base, &format!("{at}.name"), 1, 253);
}

fn key(t: &mut Table, base: Base, at: &str) {
    let at = format!("{at}.key");
    t.required(base, &at);
    t.length(base, &at, 1, 253);
    t.bound(base, &at, "tls.crt_A-1", "a/b", "should match '^[-._a-zA-Z0-9]+$'");
}

fn tls(t: &mut Table, base: Base, at: &str) {
    let ca = format!("{at}.caRef");
    t.required(base, &format!("{ca}.kind"));
    t.one_of(base, &format!("{ca}.kind"), &["Secret", "ConfigMap"]);
    name(t, base, &ca);
    key(t, base, &ca);
    t.refuse_at(
        base,
        &format!("{at}+"),
        "{insecureSkipVerify: true}",
        &format!("spec.{at}"),
        "caRef would be ignored with insecureSkipVerify: true",
    );
    t.accept(base, &format!("{at}+"), "{insecureSkipVerify: true, caRef: null}");
    t.accept(base, &format!("{at}+"), "{insecureSkipVerify: false}");
}

fn duration(t: &mut Table, base: Base, at: &str) {
    for right in ["1s", "500ms", "1h30m", "1h1m1s1ms", "99999h", "0h1s"] {
        t.accept(base, at, right);
    }
    malformed_durations(t, base, at);
}

fn malformed_durations(t: &mut Table, base: Base, at: &str) {
    for wrong in ["'10'", "1d", "'1h 30m'", "-1s", "1.5h", "1h1m1s1ms1h", "123456s"] {
        t.refuse(base, at, wrong, "must be a duration such as 15s, 10m or 1h30m (units h, m, s, ms)");
    }
    for zero in ["0s", "0h0m", "00000ms"] {
        t.refuse(base, at, zero, "must be more than zero");
    }
    t.refuse(base, at, "s", "should be at least 2 chars long");
    t.refuse(base, at, format!("'{}'", "1".repeat(33)), "Too long: may not be more than 32 bytes");
}

fn url(t: &mut Table, base: Base, at: &str) {
    let longest = |n: usize| format!("https://example.com/{}", "a".repeat(n - "https://example.com/".len()));
    for right in
        ["http://127.0.0.1/", "https://example.com:8443/p?q=1#f", "https://[::1]:8080/", "https://a/x@y"]
    {
        t.accept(base, at, format!("'{right}'"));
    }
    for wrong in
        ["ftp://example.com", "example.com", "/path/only", "https:///path", "https://a b/", "https:opaque"]
    {
        t.refuse(base, at, format!("'{wrong}'"), "must be an absolute http or https URL");
    }
    for user in ["https://user@example.com", "https://user:password@example.com/x", "https://@example.com"] {
        t.refuse(base, at, format!("'{user}'"), "must not contain user information");
    }
    t.refuse(base, at, "'http://'", "should be at least 8 chars long");
    t.bound(base, at, longest(2048), longest(2049), "Too long: may not be more than 2048 bytes");
}

/// URLs that Go's parser, which the API server uses, and the parser of browsers understand differently.
fn urls_as_go_reads_them(t: &mut Table) {
    let quoted = |url: &str| serde_json::Value::from(url).to_string();
    for right in [
        "https://example.com/a b",
        "https://example.com/a#top",
        "https://example.com/?x=%",
        "https://example.com?#top",
        "https://bücher.example/ü",
        "https://a_b.example:/",
        "https://a%C3%A9.example/",
        "https://[fe80::1%25en0]:80/",
        "https://example.com/%41",
        "https://example.com/a\\b",
        "https://example.com:99999/",
        "https://exa$mple.com/",
        "https://1.2.3.4.5/",
    ] {
        t.accept(WEBHOOK, "handler.webhook.url", quoted(right));
    }
    for wrong in [
        "https://example.com/a%2",
        "https://example.com/%zz",
        "https://example.com/hook\n",
        "https://example.com/a\tb",
        " https://example.com",
        "https://example.com#top",
        "https://exam\tple.com/",
        "https://example.com\\hook",
        "https://exam^ple.com",
        "https://exam|ple.com",
        "https://example.com:8a/",
        "https://example.com:80:80/",
        "https://a%20b/",
        "https://a%2",
        "https://[::1/",
        "https://[1.2.3.4]/",
        "https://[::1]a/",
        "https://[fe80::1%25]/",
        "https:\\\\example.com",
        "HTTPS://example.com",
        "://example.com",
    ] {
        t.refuse(WEBHOOK, "handler.webhook.url", quoted(wrong), "must be an absolute http or https URL");
    }
}

fn headers(t: &mut Table, base: Base, at: &str) {
    let many = |n| format!("{{{}}}", (0..n).map(|i| format!("x-{i}: v")).collect::<Vec<_>>().join(", "));
    t.bound(base, at, many(64), many(65), "must have at most 64 items");
    let value = |n| format!("{{x-a: '{}'}}", "a".repeat(n));
    t.accept(base, at, value(4096));
    t.refuse_at(
        base,
        at,
        value(4097),
        &format!("spec.{at}.x-a"),
        "Too long: may not be more than 4096 bytes",
    );
    let name = |n| format!("{{'{}': v}}", "a".repeat(n));
    let name_error = "a header name may contain only letters, digits, hyphens, dots, underscores and other characters of an HTTP token, at most 128";
    t.bound(base, at, name(128), name(129), name_error);
    for wrong in ["a b", "a:b", "ä", ""] {
        t.refuse(base, at, format!("{{'{wrong}': v}}"), name_error);
    }
    for wrong in [r"a\nb", r"a\rb", r"a\0b"] {
        t.refuse(base, at, format!("{{x-a: \"{wrong}\"}}"), "a header's value must be one line");
    }
    for reserved in RESERVED.iter().copied().chain(["Host", "TE"]) {
        t.refuse(base, at, format!("{{{reserved}: v}}"), "belong to the connection and cannot be set");
    }
    t.accept(base, at, "{content-type: text/plain, X-Kong: 'a b'}");
}

fn headers_from(t: &mut Table, base: Base, at: &str) {
    let item = |name: &str| format!("{{name: '{name}', secretRef: {{name: s, key: k}}}}");
    let many = |n| format!("[{}]", (0..n).map(|i| item(&format!("x-{i}"))).collect::<Vec<_>>().join(", "));
    t.bound(base, at, many(1), many(0), "should have at least 1 items");
    t.bound(base, at, many(16), many(17), "must have at most 16 items");
    let twice = format!("[{}, {}]", item("x-a"), item("x-a"));
    t.refuse_at(base, at, twice, &format!("spec.{at}[1]"), "Duplicate value");
    let first = format!("{at}[0]");
    t.refuse_at(
        base,
        &first,
        "{secretRef: {name: s, key: k}}",
        &format!("spec.{first}.name"),
        "Required value",
    );
    t.refuse_at(base, &first, "{name: x-a}", &format!("spec.{first}.secretRef"), "Required value");
    let at = format!("spec.{first}.name");
    t.accept(base, &first, item(&"a".repeat(128)));
    t.refuse_at(base, &first, item(&"a".repeat(129)), &at, "Too long: may not be more than 128 bytes");
    t.refuse_at(base, &first, item(""), &at, "should be at least 1 chars long");
    t.refuse_at(base, &first, item("a b"), &at, "should match");
    for reserved in RESERVED.iter().copied().chain(["Host"]) {
        t.refuse_at(
            base,
            &first,
            item(reserved),
            &at,
            "this header belongs to the connection and cannot be set",
        );
    }
}

fn signature(t: &mut Table, base: Base, at: &str) {
    t.required(base, &format!("{at}.secretRef"));
    t.one_of(base, &format!("{at}.algorithm"), &["SHA256", "SHA1"]);
    t.one_of(base, &format!("{at}.encoding"), &["PrefixedHex", "Hex"]);
    let (field, merge) = (format!("spec.{at}"), format!("{at}+"));
    t.accept(base, &merge, "{scheme: StandardWebhooks, algorithm: SHA256, encoding: null}");
    t.accept(base, &merge, "{scheme: Kong, algorithm: SHA1}");
    t.accept(base, &merge, "{scheme: null, algorithm: SHA1}");
    t.refuse(base, &format!("{at}.scheme"), "Other", r#"supported values: "Kong", "StandardWebhooks""#);
    let sha1 = "scheme: StandardWebhooks signs with SHA256";
    t.refuse_at(base, &merge, "{scheme: StandardWebhooks, algorithm: SHA1, encoding: null}", &field, sha1);
    let encoding = "encoding would be ignored with scheme: StandardWebhooks";
    t.refuse_at(base, &merge, "{scheme: StandardWebhooks}", &field, encoding);
}

fn oauth2(t: &mut Table, base: Base, handler: &str) {
    let at = |member: &str| format!("{handler}.oauth2.{member}");
    for member in ["tokenUrl", "clientId", "clientSecretRef"] {
        t.required(base, &at(member));
    }
    t.length(base, &at("clientId"), 1, 512);
    t.length(base, &at("audience"), 1, 1024);
    let scopes = at("scopes");
    let many = |n: usize| format!("[{}]", (0..n).map(|i| format!("s{i}")).collect::<Vec<_>>().join(", "));
    t.bound(base, &scopes, many(1), many(0), "should have at least 1 items");
    t.bound(base, &scopes, many(32), many(33), "must have at most 32 items");
    t.refuse_at(base, &scopes, "[a, a]", &format!("spec.{scopes}[1]"), "Duplicate value");
    t.length(base, &format!("{scopes}[0]"), 1, 256);
    t.bound(
        base,
        &format!("{scopes}[0]"),
        "'read:orders/x.y'",
        "'two words'",
        r"should match '^[!#-\[\]-~]+$'",
    );
    let url = at("tokenUrl");
    for right in [
        "https://a.example/token?x=1",
        "http://localhost:8080/token",
        "http://127.0.0.1/",
        "'http://[::1]:80/t'",
    ] {
        t.accept(base, &url, right);
    }
    let https = "must be an absolute https URL (http only to localhost)";
    for wrong in [
        "http://login.example.com/token",
        "http://localhost.example.com/",
        "ftp://a.example/",
        "/oauth/token",
        "https:///token",
    ] {
        t.refuse(base, &url, wrong, https);
    }
    t.refuse(base, &url, "https://a:b@login.example.com/", "must not contain user information");
    t.refuse(base, &url, "https:/", "should be at least 8 chars long");
    t.refuse(
        base,
        &url,
        format!("https://a.example/{}", "a".repeat(2048)),
        "Too long: may not be more than 2048 bytes",
    );
    let (field, merge) = (format!("spec.{handler}"), format!("{handler}+"));
    let conflict = "oauth2 sets the header authorization: remove it from headers and headersFrom";
    t.refuse_at(base, &merge, "{headers: {Authorization: a}}", &field, conflict);
    let from = "{headersFrom: [{name: AUTHORIZATION, secretRef: {name: a, key: b}}]}";
    t.refuse_at(base, &merge, from, &field, conflict);
    t.accept(base, &merge, "{oauth2: null, headers: {Authorization: a}}");
}
