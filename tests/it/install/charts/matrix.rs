//! Values of the chart for its tests.

use serde_json::{Value, json};

/// A container that the Pod Security Standard `restricted` allows.
fn restricted(name: &str) -> Value {
    let security = json!({"allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"}});
    json!({"name": name, "image": "registry.example/other", "securityContext": security})
}

/// Values that together reach every branch of the templates.
pub fn matrix() -> Vec<Value> {
    let peers = json!([{"namespaceSelector": {"matchLabels": {"team": "kong"}}}]);
    vec![
        json!({}),
        json!({"mode": "combined"}),
        json!({"scope": {"namespaces": ["a", "b"]}, "requireSecretLabel": true}),
        json!({"controllerClass": "blue", "watchLabelSelector": "team in (a, b)", "test": {"labels": {"team": "a"}}}),
        json!({"mode": "combined", "scope": {"namespaces": ["a"]}, "rbac": {"userRoles": false, "aggregate": false}}),
        json!({
            "image": {"repository": "registry.example/hookstream", "digest": format!("sha256:{}", "0".repeat(64))},
            "imagePullSecrets": ["registry"],
            "controller": {
                "replicas": 1, "resyncInterval": "5m", "installationId": "blue", "formerInstallationIds": ["old"], "adminRateCeiling": "600/m", "relayOverlap": "1h", "lease": {"duration": "30s"}, "priorityClassName": "system-cluster-critical",
                "nodeSelector": {"disk": "ssd"}, "tolerations": [{"key": "a", "operator": "Exists"}],
                "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 1, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname"}}]}},
                "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
                "podLabels": {"a": "b"}, "podAnnotations": {"a": "b"}, "extraArgs": ["--egress-deny=10.3.0.0/16"],
            },
            "worker": {
                "storage": {"existingClaim": "restored"}, "extraEnv": [{"name": "A", "value": "b"}],
                "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
                "extraVolumeMounts": [{"name": "ca", "mountPath": "/ca", "readOnly": true}],
                "settings": {"diskLimit": "80%", "relayDedupWindow": "0"},
                "handshakeOrigins": ["shop=eventgrid.azure.net@120", "*=other.example"], "handshakeAllowAll": true,
                "console": {"enabled": false},
                "traces": {"endpoint": "http://otel:4318", "sampleRatio": "0.1", "headersSecret": {"name": "otlp", "key": "of-the-collector"}},
            },
            "commonLabels": {"team": "platform"}, "commonAnnotations": {"note": "x"},
            "serviceAccounts": {"annotations": {"a": "b"}},
            "egress": {"policy": "public", "allow": ["10.1.0.0/16"], "deny": ["10.2.0.0/16"],
                "proxy": {"url": "http://proxy.example.com:3128", "authSecret": {"name": "proxy", "key": "of-the-proxy"}, "bypass": [".svc", "10.0.0.0/8"]}},
            "log": {"level": "info,hookstream=debug", "format": "text"},
            "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-more"}}],
            "ingest": {"url": "https://hooks.example.com", "publicUrl": "https://hooks.example.com"},
            "uninstallCheck": false,
        }),
        json!({
            "namespaceOverride": "elsewhere", "image": {"registry": "registry.example:5000"},
            "imagePullSecrets": [{"name": "registry"}, "second"],
            "keyRing": {"existingSecret": "key-ring"},
            "serviceAccounts": {"controllerName": "sync", "workerName": "deliver", "labels": {"a": "b"}, "automount": true},
            "controller": {
                "podDisruptionBudget": {"minAvailable": "50%"}, "strategy": {"type": "Recreate"}, "revisionHistoryLimit": 2,
                "probes": {"readiness": {"periodSeconds": 9}}, "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["kong"]}],
                "dnsPolicy": "None", "dnsConfig": {"nameservers": ["10.0.0.2"]},
                "extraContainers": [restricted("sidecar")], "extraInitContainers": [restricted("init")],
            },
            "worker": {
                "updateStrategy": {"type": "OnDelete"}, "revisionHistoryLimit": 3,
                "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
                "probes": {"startup": {"failureThreshold": 600}}, "extraContainers": [restricted("sidecar")],
            },
            "service": {"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4"]},
            "tls": {"certificate": {"enabled": true, "issuerRef": {"name": "ca", "kind": "ClusterIssuer"}, "dnsNames": ["hooks.example.com"]}},
            "ingress": {"enabled": true, "host": "a.example.com", "hosts": ["b.example.com"],
                "tls": [{"hosts": ["a.example.com"], "secretName": "a"}, {"hosts": ["b.example.com"], "secretName": "b"}]},
            "podMonitor": {"enabled": true, "labels": {"release": "prometheus"}, "endpoint": {"honorLabels": true}},
        }),
        json!({"mode": "combined", "controller": {"lease": {"name": "of-the-tests"}}, "serviceAccounts": {"create": false, "workerName": "own"}, "keyRing": {"existingSecret": "key-ring"}}),
        json!({
            "worker": {"storage": {"size": "1Gi", "className": "fast", "accessMode": "ReadWriteOnce", "annotations": {"a": "b"}}},
            "service": {"ingest": {"type": "LoadBalancer", "port": 80, "annotations": {"a": "b"}, "spec": {"loadBalancerSourceRanges": ["10.0.0.0/8"]}}},
            "ingress": {"enabled": true, "className": "nginx", "host": "hooks.example.com", "tlsSecretName": "tls"},
            "httpRoute": {"enabled": true, "parentRefs": [{"name": "gateway"}], "hostnames": ["hooks.example.com"]},
            "networkPolicy": {"enabled": true},
            "tls": {"secretName": "hookstream-tls"},
            "serviceMonitor": {"enabled": true, "labels": {"release": "prometheus"},
                "endpoint": {"scheme": "https", "tlsConfig": {"insecureSkipVerify": true}, "relabelings": [{"targetLabel": "team", "replacement": "a"}]}},
            "prometheusRule": {"enabled": true}, "dashboard": {"enabled": true},
            "admissionPolicy": {"enabled": true},
            "podSecurityContext": {"runAsUser": null, "runAsGroup": null, "fsGroup": null},
        }),
        json!({
            "nameOverride": "events", "image": {"tag": "1.2.3", "pullPolicy": "Always"}, "tokenAudience": "audience-of-tests",
            "watchTimeout": "210s", "ports": {"ingest": 18080, "api": 18082, "ops": 18081}, "rbac": {"create": false},
            "controller": {
                "lease": {"duration": "31s", "renewDeadline": "21s", "retryPeriod": "3s"},
                "resources": {"requests": {"cpu": "21m"}}, "podDisruptionBudget": {"maxUnavailable": "34%"},
                "terminationGracePeriodSeconds": 31, "extraEnv": [{"name": "OF_CONTROLLER", "value": "b"}],
                "extraVolumes": [{"name": "of-controller", "configMap": {"name": "ca"}}],
                "extraVolumeMounts": [{"name": "of-controller", "mountPath": "/of-controller"}],
            },
            "worker": {
                "settings": {
                    "maxEventBytes": "1048577", "maxRequestBytes": "16777217", "memoryBudget": "383MiB", "namespaceShare": "51%",
                    "hookShare": "26%", "hookGrace": "61m", "hookMetrics": "101", "webhookOrigin": "origin.example.com",
                    "dedupWindow": "25h", "historyAge": "26h", "historyBytes": "1001MiB", "unmatchedAge": "23h",
                    "keepResponses": "all", "deadLetterAge": "169h", "deadLetterBytes": "1002MiB", "scriptTimeout": "1100ms",
                    "scriptMemory": "65MiB",
                },
                "trustedProxies": ["10.9.0.0/16"], "resources": {"requests": {"cpu": "51m"}}, "terminationGracePeriodSeconds": 61,
                "nodeSelector": {"of": "worker"}, "tolerations": [{"key": "of-worker", "operator": "Exists"}],
                "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 2, "preference":
                    {"matchExpressions": [{"key": "worker-affinity", "operator": "Exists"}]}}]}},
                "podLabels": {"label-of": "worker"}, "podAnnotations": {"annotation-of": "worker"},
                "hostAliases": [{"ip": "10.0.0.3", "hostnames": ["receiver"]}], "dnsPolicy": "ClusterFirstWithHostNet",
                "dnsConfig": {"nameservers": ["10.0.0.4"]}, "extraInitContainers": [restricted("init-of-worker")],
                "extraArgs": ["--egress-deny=10.4.0.0/16"],
            },
            "service": {
                "ingest": {"annotations": {"service": "ingest"}}, "api": {"port": 82, "annotations": {"service": "api"}},
                "ops": {"port": 81, "annotations": {"service": "ops"}},
            },
            "ingress": {"enabled": true, "host": "a.example.com", "annotations": {"route": "ingress"}},
            "httpRoute": {"enabled": true, "parentRefs": [{"name": "gateway"}], "annotations": {"route": "http"}},
            "tls": {"certificate": {"enabled": true, "issuerRef": {"name": "ca", "group": "issuers.example.com"},
                "duration": "2161h", "renewBefore": "721h", "privateKey": {"algorithm": "ECDSA", "size": 256}}},
            "serviceMonitor": {"enabled": true, "interval": "29s"}, "test": {"namespace": "elsewhere"},
            "prometheusRule": {"enabled": true, "labels": {"rules": "here"}},
            "dashboard": {"enabled": true, "labels": {"dashboards": "here"}, "annotations": {"folder": "events"}},
        }),
        json!({
            "fullnameOverride": "other-prefix", "podMonitor": {"enabled": true, "interval": "28s"},
            "securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}},
            "controller": {"podDisruptionBudget": {"enabled": false}},
            "worker": {
                "replicas": 4, "strategy": {"rollingUpdate": {"maxSurge": "37%", "maxUnavailable": 0}}, "preStopSeconds": 7,
                "podDisruptionBudget": {"maxUnavailable": "35%"},
                "store": {"postgresql": {"hosts": ["one.db"], "database": "events_of_tests", "user": "writer", "size": "70GiB",
                    "passwordSecret": {"name": "password", "key": "of-the-writer"}}},
            },
        }),
        json!({
            "worker": {"podDisruptionBudget": {"enabled": false}, "priorityClassName": "system-cluster-critical",
                "store": {"postgresql": {"urlSecret": {"name": "events-app", "key": "dsn"}}}},
        }),
        json!({
            "ingress": {"enabled": true}, "expose": {"vendorsOnly": true, "namespaces": ["a"]},
            "httpRoute": {"enabled": true, "parentRefs": [{"name": "gateway"}]},
            "worker": {"traces": {"endpoint": "https://otel.example.com/otlp", "networkPolicyTo": peers}},
            "networkPolicy": {"enabled": true, "ingestFrom": peers, "apiFrom": peers, "opsFrom": peers,
                "egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]},
            "admissionPolicy": {"enabled": true, "allowedHosts": ["a.example", "*.b.example"], "allowedAdminHosts": ["kong.svc"],
                "lambdas": false, "templates": false, "insecureSkipVerify": false},
            "scope": {"namespaces": ["a"]},
        }),
        database(),
        json!({
            "mode": "combined",
            "worker": {"replicas": null, "store": {"postgresql": {"urlSecret": {"name": "events-app"}, "migrate": false}},
                "podDisruptionBudget": {"minAvailable": "50%"}, "preStopSeconds": 0},
            "tls": {"secretName": "hookstream-tls"},
        }),
    ]
}

/// Values for three workers on a database with every Secret.
pub fn database() -> Value {
    json!({
        "worker": {"replicas": 3, "store": {"postgresql": {
            "hosts": ["one.db", "two.db"], "port": 6432, "user": "events writer", "sslMode": "verify-full",
            "passwordSecret": {"name": "password"}, "caSecret": {"name": "ca", "key": "root.pem"},
            "clientCertificateSecret": {"name": "client"}}}},
        "networkPolicy": {"enabled": true, "egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}],
            "databaseTo": [{"podSelector": {"matchLabels": {"app": "postgresql"}}}]},
    })
}
