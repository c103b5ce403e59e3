//! Rows of Connection.

use super::manifests::{AUTH0, FULL_AUTH0, FULL_KONG, KEY_AUTH0, KONG};
use super::table::Table;

pub fn rows(t: &mut Table) {
    for base in [KONG, AUTH0, FULL_KONG, FULL_AUTH0, KEY_AUTH0] {
        t.accept(base, "", "{}");
    }
    t.exactly_one(
        KONG,
        "",
        &[
            "kong: {adminUrl: 'https://k'}",
            "auth0: {domain: a.eu.auth0.com, tokenSecretRef: {name: a, key: k}}",
        ],
        "exactly one of kong, auth0 must be set",
    );
    t.exactly_one(
        FULL_AUTH0,
        "auth0",
        &[
            "clientCredentials: {clientId: i, clientSecretRef: {name: a, key: k}}",
            "tokenSecretRef: {name: a, key: k}",
        ],
        "exactly one of clientCredentials, tokenSecretRef must be set",
    );

    t.required(FULL_KONG, "kong.adminUrl");
    // A token over plain http needs a permission, except on this machine.
    for host in ["localhost:8001", "LOCALHOST", "127.0.0.1:8001", "127.1.2.3", "[::1]:8001"] {
        t.accept(FULL_KONG, "kong.adminUrl", format!("'http://{host}/admin'"));
    }
    for host in
        ["kong-admin.kong.svc:8001", "10.0.0.7", "localhost.example.com", "127.0.0.1.example.com", "[::2]"]
    {
        let url = format!("'http://{host}/'");
        let unencrypted = "the token would be sent unencrypted";
        t.refuse_at(FULL_KONG, "kong.adminUrl", &url, "spec.kong", unencrypted);
        t.refuse_at(
            FULL_KONG,
            "kong+",
            format!("{{adminUrl: {url}, allowInsecureHttp: false}}"),
            "spec.kong",
            unencrypted,
        );
        t.accept(FULL_KONG, "kong+", format!("{{adminUrl: {url}, allowInsecureHttp: true}}"));
        t.accept(KONG, "kong.adminUrl", &url);
    }
    t.length(KONG, "kong.workspace", 1, 128);
    t.accept(KONG, "kong.workspace", "Team.a_b~c-1");
    for wrong in ["a/b", "'a b'", "ä"] {
        t.refuse(KONG, "kong.workspace", wrong, "should match '^[A-Za-z0-9._~-]+$'");
    }
    t.length(KONG, "kong.tokenHeader", 1, 128);
    t.refuse(KONG, "kong.tokenHeader", "'a: b'", "should match '^[A-Za-z0-9-]+$'");
    t.one_of_list(KONG, "kong.gatewayHandlers", &["Webhook", "WebhookCustom", "Log", "Lambda"]);
    t.accept(KONG, "kong.gatewayHandlers", "[]");
    t.accept(KONG, "kong.gatewayHandlers", "[Webhook, WebhookCustom, Log, Lambda]");
    t.refuse_at(
        KONG,
        "kong.gatewayHandlers",
        "[Webhook, Webhook]",
        "spec.kong.gatewayHandlers[1]",
        "Duplicate value: \"Webhook\"",
    );
    t.refuse(KONG, "kong.gatewayHandlers", "[Log, Log, Log, Log, Log]", "must have at most 4 items");

    t.required(AUTH0, "auth0.domain");
    t.length(AUTH0, "auth0.domain", 1, 253);
    t.accept(AUTH0, "auth0.domain", "localhost:8002");
    for wrong in ["'https://acme.eu.auth0.com'", "acme.eu.auth0.com/", "ACME.eu.auth0.com", ".a"] {
        t.refuse(AUTH0, "auth0.domain", wrong, "should match");
    }
    t.length(AUTH0, "auth0.audience", 1, 2048);
    t.required(FULL_AUTH0, "auth0.clientCredentials.clientId");
    t.exactly_one(
        FULL_AUTH0,
        "auth0.clientCredentials",
        &["clientSecretRef: {name: a, key: k}", "privateKeyRef: {name: a, key: k}"],
        "exactly one of clientSecretRef, privateKeyRef must be set",
    );
    t.one_of(KEY_AUTH0, "auth0.clientCredentials.signingAlgorithm", &["RS256", "RS384", "PS256"]);
    t.length(KEY_AUTH0, "auth0.clientCredentials.keyId", 1, 128);
    for (member, value) in [("signingAlgorithm", "RS256"), ("keyId", "k1")] {
        t.refuse_at(
            FULL_AUTH0,
            &format!("auth0.clientCredentials.{member}"),
            value,
            "spec.auth0.clientCredentials",
            &format!("{member} requires privateKeyRef"),
        );
    }
    t.length(FULL_AUTH0, "auth0.clientCredentials.clientId", 1, 256);

    t.one_of(KONG, "deletionPolicy", &["Delete", "Orphan"]);
}
