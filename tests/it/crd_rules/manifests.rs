//! The manifests that the rows change: small ones for the rules, full ones whose every member a row can spoil.

use serde_json::Value;

#[derive(Clone, Copy)]
pub struct Base {
    pub name: &'static str,
    kind: &'static str,
    spec: &'static str,
}

impl Base {
    pub fn yaml(&self, name: &str) -> String {
        format!(
            "apiVersion: hookstream.dev/v1alpha1\nkind: {}\nmetadata: {{name: {name}}}\nspec:\n{}\n",
            self.kind,
            self.spec.trim_matches('\n')
        )
    }

    pub fn manifest(&self) -> Value {
        serde_saphyr::from_str(&self.yaml("row")).expect(self.name)
    }
}

const fn hook(name: &'static str, spec: &'static str) -> Base {
    Base { name, kind: "EventHook", spec }
}

const fn connection(name: &'static str, spec: &'static str) -> Base {
    Base { name, kind: "Connection", spec }
}

const fn stream(name: &'static str, spec: &'static str) -> Base {
    Base { name, kind: "EventStream", spec }
}

const fn script(name: &'static str, spec: &'static str) -> Base {
    Base { name, kind: "Hook", spec }
}

/// The smallest hook.
pub const HOOK: Base = hook(
    "hook",
    "
  source: crud
  handler:
    log: {}
",
);

/// A hook whose events Kong relays to the worker.
pub const RELAY: Base = hook(
    "relay",
    "
  source: crud
  connectionRef: {name: kong}
  handler:
    log: {}
",
);

/// A hook that Kong runs by itself.
pub const GATEWAY: Base = hook(
    "gateway",
    "
  source: crud
  connectionRef: {name: kong}
  deliverBy: Gateway
  handler:
    webhook: {url: 'https://example.com'}
",
);

pub const GATEWAY_CUSTOM: Base = hook(
    "gateway, custom",
    "
  source: crud
  connectionRef: {name: kong}
  deliverBy: Gateway
  handler:
    webhookCustom: {url: 'https://example.com'}
",
);

pub const WEBHOOK: Base = hook(
    "webhook",
    "
  source: crud
  handler:
    webhook: {url: 'https://example.com'}
",
);

pub const CUSTOM: Base = hook(
    "custom",
    "
  source: crud
  handler:
    webhookCustom: {url: 'https://example.com'}
",
);

pub const LAMBDA: Base = hook(
    "lambda",
    "
  source: crud
  handler:
    lambda: {functions: ['return function() return true end']}
",
);

/// Every member of a hook's delivery and webhook.
pub const FULL_WEBHOOK: Base = hook(
    "full webhook",
    "
  source: crud
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
      urlSecretRef: {name: hook, key: url}
      headers: {x-plain: v}
      headersFrom: [{name: x-secret, secretRef: {name: hook, key: header}}]
      format: Kong
      signature: {secretRef: {name: hook, key: secret}, scheme: Kong, algorithm: SHA256, encoding: Hex}
      tls: {caRef: {kind: Secret, name: ca, key: ca.crt}, certSecretRef: {name: client}}
",
);

/// Every member of a hook's webhookCustom.
pub const FULL_CUSTOM: Base = hook(
    "full custom",
    "
  source: crud
  handler:
    webhookCustom:
      urlSecretRef: {name: hook, key: url}
      method: PUT
      headers: {x-plain: v}
      headersFrom: [{name: x-secret, secretRef: {name: hook, key: header}}]
      headersFormat: Raw
      body: '{{ entity.id }}'
      bodyFormat: Template
      payloadFormat: Raw
      signature: {secretRef: {name: hook, key: secret}, scheme: Kong, algorithm: SHA256, encoding: Hex}
      tls: {caRef: {kind: Secret, name: ca, key: ca.crt}, certSecretRef: {name: client}}
",
);

/// Every member of a hook at the vendor.
pub const FULL_RELAY: Base = hook(
    "full relay",
    "
  source: crud
  connectionRef: {name: kong}
  deliverBy: Worker
  suspend: false
  managementPolicy: Full
  deletionPolicy: Orphan
  adopt: {id: 8a5f9ab3, mode: Override}
  rotation: 2026-11
  handler:
    log: {}
",
);

/// A hook that is only looked at.
pub const OBSERVED: Base = hook(
    "observed",
    "
  source: crud
  connectionRef: {name: kong}
  deliverBy: Gateway
  managementPolicy: ObserveOnly
  adopt: {id: 8a5f9ab3, mode: Match}
  handler:
    webhook: {url: 'https://example.com'}
",
);

/// The smallest Connections.
pub const KONG: Base = connection(
    "kong",
    "
  kong: {adminUrl: 'https://kong-admin.kong.svc:8444'}
",
);

pub const AUTH0: Base = connection(
    "auth0",
    "
  auth0: {domain: acme.eu.auth0.com, tokenSecretRef: {name: auth0, key: token}}
",
);

/// Every member of a Connection.
pub const FULL_KONG: Base = connection(
    "full kong",
    "
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
",
);

pub const FULL_AUTH0: Base = connection(
    "full auth0",
    "
  auth0:
    domain: acme.eu.auth0.com
    audience: https://acme.eu.auth0.com/api/v2/
    clientCredentials: {clientId: abc, clientSecretRef: {name: auth0, key: secret}}
",
);

/// The smallest stream: its events go to the worker.
pub const STREAM: Base = stream(
    "stream",
    "
  connectionRef: {name: auth0}
  name: shop
  subscriptions: [{eventType: user.created}]
  destination:
    worker: {}
",
);

/// Every member of a stream to the worker.
pub const FULL_STREAM: Base = stream(
    "full stream",
    "
  connectionRef: {name: auth0}
  name: shop
  subscriptions: [{eventType: user.created}, {eventType: organization.member.added}]
  destination:
    worker: {recovery: {reenable: WhenHealthy, redeliver: Failed}}
  enabled: true
  rotation: 2026-11
  suspend: false
  managementPolicy: Full
  deletionPolicy: Orphan
  adopt: {id: est_1, mode: Override}
",
);

/// Streams to a receiver of somebody else, one a way of showing who sends.
pub const BASIC: Base = stream(
    "stream, basic",
    "
  connectionRef: {name: auth0}
  name: shop
  subscriptions: [{eventType: user.created}]
  destination:
    webhook:
      endpoint: https://example.com/auth0
      authorization: {basic: {username: auth0, passwordSecretRef: {name: s, key: k}}}
",
);

pub const BEARER: Base = stream(
    "stream, bearer",
    "
  connectionRef: {name: auth0}
  name: shop
  subscriptions: [{eventType: user.created}]
  destination:
    webhook:
      endpoint: https://example.com/auth0
      authorization: {bearer: {tokenSecretRef: {name: s, key: k}}}
",
);

pub const CUSTOM_HEADER: Base = stream(
    "stream, custom header",
    "
  connectionRef: {name: auth0}
  name: shop
  subscriptions: [{eventType: user.created}]
  destination:
    webhook:
      endpoint: https://example.com/auth0
      authorization: {customHeader: {name: x-api-key, valueSecretRef: {name: s, key: k}}}
",
);

pub const EVENT_BRIDGE: Base = stream(
    "stream, EventBridge",
    "
  connectionRef: {name: auth0}
  name: shop
  subscriptions: [{eventType: user.created}]
  destination:
    eventBridge: {accountId: '123456789012', region: eu-central-1}
",
);

pub const ACTION: Base = stream(
    "stream, Action",
    "
  connectionRef: {name: auth0}
  name: shop
  subscriptions: [{eventType: user.created}]
  destination:
    action: {actionId: 9c2ba2a9-6e7c-4c43-b3f6-0a4c7b6c7f59}
",
);

/// A stream that is only looked at.
pub const OBSERVED_STREAM: Base = stream(
    "observed stream",
    "
  connectionRef: {name: auth0}
  name: shop
  subscriptions: [{eventType: user.created}]
  destination:
    action: {actionId: a}
  managementPolicy: ObserveOnly
  adopt: {id: est_1, mode: Match}
",
);

/// The smallest extensibility Hook.
pub const SCRIPT: Base = script(
    "script",
    "
  connectionRef: {name: auth0}
  name: my-hook
  triggerId: credentials-exchange
  script: module.exports = function () {}
",
);

/// Every member of an extensibility Hook.
pub const FULL_SCRIPT: Base = script(
    "full script",
    "
  connectionRef: {name: auth0}
  name: my hook-1
  triggerId: pre-user-registration
  scriptConfigMapRef: {name: scripts, key: hook.js}
  dependencies: {lodash: 4.17.21, '@auth0/node': '1'}
  enabled: false
  secrets: [{name: API_KEY, secretRef: {name: s, key: k}}]
  suspend: false
  managementPolicy: Full
  deletionPolicy: Orphan
  adopt: {id: 01GQN0P01XY4VE0PCK7H20QZ4M, mode: Override}
",
);
