//! The manifests that the rows change: small ones for the rules, and full ones so that a row can break every member.

use serde_json::Value;

#[derive(Clone, Copy)]
pub struct Base {
    pub name: &'static str,
    kind: &'static str,
    /// The beginning of every spec of this kind.
    head: &'static str,
    /// The rest, in parts that several manifests share.
    rest: &'static [&'static str],
}

impl Base {
    pub fn yaml(&self, name: &str) -> String {
        let mut yaml = format!(
            "apiVersion: hookstream.dev/v1alpha1\nkind: {}\nmetadata: {{name: {name}}}\nspec:\n",
            self.kind
        );
        for part in std::iter::once(&self.head).chain(self.rest) {
            yaml += part.trim_matches('\n');
            yaml.push('\n');
        }
        yaml
    }

    pub fn manifest(&self) -> Value {
        serde_saphyr::from_str(&self.yaml("row")).expect(self.name)
    }
}

const fn hook(name: &'static str, rest: &'static [&'static str]) -> Base {
    Base { name, kind: "EventHook", head: "  source: crud", rest }
}

const fn connection(name: &'static str, rest: &'static [&'static str]) -> Base {
    Base { name, kind: "Connection", head: "", rest }
}

const fn stream(name: &'static str, rest: &'static [&'static str]) -> Base {
    let head = "
  connectionRef: {name: auth0}
  name: shop
  subscriptions: [{eventType: user.created}, {eventType: organization.member.added}]";
    Base { name, kind: "EventStream", head, rest }
}

const fn script(name: &'static str, rest: &'static [&'static str]) -> Base {
    Base { name, kind: "Hook", head: "  connectionRef: {name: auth0}", rest }
}

/// An adopted object with full management.
const ADOPTED: &str = "
  suspend: false
  managementPolicy: Full
  deletionPolicy: Orphan
  adopt: {id: 8a5f9ab3, mode: Override}
";

/// An object that is only observed.
const OBSERVE_ONLY: &str = "
  managementPolicy: ObserveOnly
  adopt: {id: 8a5f9ab3, mode: Match}
";

const ON_KONG: &str = "  connectionRef: {name: kong}";
const BY_GATEWAY: &str = "
  connectionRef: {name: kong}
  deliverBy: Gateway
";
const TO_LOG: &str = "  handler: {log: {}}";
const TO_WEBHOOK: &str = "
  handler:
    webhook: {url: 'https://example.com'}
";
const TO_CUSTOM: &str = "
  handler:
    webhookCustom: {url: 'https://example.com'}
";

/// Every member that both webhook handlers have.
const REQUEST: &str = "
      urlSecretRef: {name: hook, key: url}
      headers: {x-plain: v}
      headersFrom: [{name: x-secret, secretRef: {name: hook, key: header}}]
      signature: {secretRef: {name: hook, key: secret}, scheme: Kong, algorithm: SHA256, encoding: Hex}
      oauth2:
        tokenUrl: https://login.example.com/oauth/token
        clientId: hooks
        clientSecretRef: {name: hook, key: client-secret}
        scopes: [orders]
        audience: https://orders.example.com
        tls: {caRef: {kind: Secret, name: ca, key: ca.crt}, certSecretRef: {name: client}}
      tls: {caRef: {kind: Secret, name: ca, key: ca.crt}, certSecretRef: {name: client}}
";

/// The smallest EventHook.
pub const HOOK: Base = hook("hook", &[TO_LOG]);
/// A hook whose events Kong relays to the worker.
pub const RELAY: Base = hook("relay", &[ON_KONG, TO_LOG]);
/// Hooks that Kong delivers itself.
pub const GATEWAY: Base = hook("gateway", &[BY_GATEWAY, TO_WEBHOOK]);
pub const GATEWAY_CUSTOM: Base = hook("gateway, custom", &[BY_GATEWAY, TO_CUSTOM]);

pub const WEBHOOK: Base = hook("webhook", &[TO_WEBHOOK]);
pub const CUSTOM: Base = hook("custom", &[TO_CUSTOM]);
pub const LAMBDA: Base =
    hook("lambda", &["  handler: {lambda: {functions: ['return function() return true end']}}"]);

/// Every member of `delivery` and `webhook`.
pub const FULL_WEBHOOK: Base = hook(
    "full webhook",
    &[
        "
  event: consumers
  filter: data.operation == 'create'
  from: {eventStreamRef: {name: auth0}}
  groupBy: [entity.id]
  snooze: {period: 60s, trailing: Last}
  onChange: {fields: [health]}
  delivery:
    paused: false
    timeout: 15s
    concurrency: 8
    retry: {initialBackoff: 5s, maxBackoff: 6h, maxAge: 72h, maxAttempts: 10, terminalStatuses: [400]}
    rateLimit: {requests: 50, interval: 1s, burst: 50}
  handler:
    webhook:
      format: Kong
",
        REQUEST,
    ],
);

/// Every member of `webhookCustom`.
pub const FULL_CUSTOM: Base = hook(
    "full custom",
    &[
        "
  handler:
    webhookCustom:
      method: PUT
      headersFormat: Raw
      body: '{{ entity.id }}'
      bodyFormat: Template
      payloadFormat: Raw
",
        REQUEST,
    ],
);

/// Every member of an EventHook that concerns Kong.
pub const FULL_RELAY: Base =
    hook("full relay", &[ON_KONG, "  deliverBy: Worker", "  rotation: 2026-11", ADOPTED, TO_LOG]);
/// A hook that is only observed.
pub const OBSERVED: Base = hook("observed", &[BY_GATEWAY, OBSERVE_ONLY, TO_WEBHOOK]);

/// The smallest Connections.
pub const KONG: Base = connection("kong", &["  kong: {adminUrl: 'https://kong-admin.kong.svc:8444'}"]);
pub const AUTH0: Base =
    connection("auth0", &["  auth0: {domain: acme.eu.auth0.com, tokenSecretRef: {name: auth0, key: token}}"]);

/// Every member of a Connection.
pub const FULL_KONG: Base = connection(
    "full kong",
    &["
  kong:
    adminUrl: https://kong-admin.kong.svc:8444
    workspace: team-a
    tokenSecretRef: {name: kong, key: token}
    tokenHeader: Kong-Admin-Token
    tls: {caRef: {kind: ConfigMap, name: ca, key: ca.crt}, certSecretRef: {name: client}}
    gatewayHandlers: [Webhook, Log]
  ingestUrl: https://hooks.example.com
  rateLimit: {requests: 2, interval: 1s, burst: 5}
  resyncInterval: 10m
  deletionPolicy: Delete
"],
);
pub const FULL_AUTH0: Base = connection(
    "full auth0",
    &["
  auth0:
    domain: acme.eu.auth0.com
    audience: https://acme.eu.auth0.com/api/v2/
    clientCredentials: {clientId: abc, clientSecretRef: {name: auth0, key: secret}}
"],
);

pub const KEY_AUTH0: Base = connection(
    "auth0 with a private key",
    &["
  auth0:
    domain: acme.eu.auth0.com
    clientCredentials: {clientId: abc, privateKeyRef: {name: auth0, key: key}, signingAlgorithm: PS256, keyId: k1}
"],
);

/// The smallest EventStream, whose destination is the worker.
pub const STREAM: Base = stream("stream", &["  destination: {worker: {}}"]);
/// Every member of an EventStream to the worker.
pub const FULL_STREAM: Base = stream(
    "full stream",
    &[
        "
  destination:
    worker: {recovery: {reenable: WhenHealthy, redeliver: Failed}}
  enabled: true
  rotation: 2026-11
",
        ADOPTED,
    ],
);

const TO_RECEIVER: &str = "
  destination:
    webhook:
      endpoint: https://example.com/auth0
";

/// Streams to an external receiver, one for each kind of authorization.
pub const BASIC: Base = stream(
    "stream, basic",
    &[TO_RECEIVER, "      authorization: {basic: {username: auth0, passwordSecretRef: {name: s, key: k}}}"],
);
pub const BEARER: Base = stream(
    "stream, bearer",
    &[TO_RECEIVER, "      authorization: {bearer: {tokenSecretRef: {name: s, key: k}}}"],
);
pub const CUSTOM_HEADER: Base = stream(
    "stream, custom header",
    &[
        TO_RECEIVER,
        "      authorization: {customHeader: {name: x-api-key, valueSecretRef: {name: s, key: k}}}",
    ],
);

pub const EVENT_BRIDGE: Base = stream(
    "stream, EventBridge",
    &["  destination: {eventBridge: {accountId: '123456789012', region: eu-central-1}}"],
);

const TO_ACTION: &str = "  destination: {action: {actionId: 9c2ba2a9-6e7c-4c43-b3f6-0a4c7b6c7f59}}";
pub const ACTION: Base = stream("stream, Action", &[TO_ACTION]);
/// A stream that is only observed.
pub const OBSERVED_STREAM: Base = stream("observed stream", &[TO_ACTION, OBSERVE_ONLY]);

/// The smallest extensibility Hook.
pub const SCRIPT: Base = script(
    "script",
    &["
  name: my-hook
  triggerId: credentials-exchange
  script: module.exports = function () {}
"],
);
/// Every member of an extensibility Hook.
pub const FULL_SCRIPT: Base = script(
    "full script",
    &[
        "
  name: my hook-1
  triggerId: pre-user-registration
  scriptConfigMapRef: {name: scripts, key: hook.js}
  dependencies: {lodash: 4.17.21, '@auth0/node': '1'}
  enabled: false
  secrets: [{name: API_KEY, secretRef: {name: s, key: k}}]
",
        ADOPTED,
    ],
);
