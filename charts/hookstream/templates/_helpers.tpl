{{/* The prefix of all object names. */}}
{{- define "hookstream.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The namespace of the objects. */}}
{{- define "hookstream.namespace" -}}
{{ default .Release.Namespace .Values.namespaceOverride }}
{{- end -}}

{{/* The selector labels of pods. They must never change during the life of a release. */}}
{{- define "hookstream.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "hookstream.labels" -}}
{{- $labels := include "hookstream.selector" . | fromYaml -}}
{{- $_ := set $labels "app.kubernetes.io/part-of" "hookstream" -}}
{{- $_ := set $labels "app.kubernetes.io/version" .Chart.AppVersion -}}
{{- $_ := set $labels "app.kubernetes.io/managed-by" .Release.Service -}}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version) -}}
{{- toYaml (merge $labels .Values.commonLabels) -}}
{{- end -}}

{{/* The metadata of an object. Parameters: root, name; optional: namespaced, namespace, component, labels, annotations. */}}
{{- define "hookstream.metadata" -}}
{{- $labels := include "hookstream.labels" .root | fromYaml -}}
{{- with .component }}{{ $_ := set $labels "app.kubernetes.io/component" . }}{{ end -}}
{{- $meta := dict "name" .name "labels" (merge $labels (default dict .labels)) -}}
{{- if ne .namespaced false }}{{ $_ := set $meta "namespace" (default (include "hookstream.namespace" .root) .namespace) }}{{ end -}}
{{- with merge (deepCopy (default dict .annotations)) .root.Values.commonAnnotations }}{{ $_ := set $meta "annotations" . }}{{ end -}}
metadata:
  {{- toYaml $meta | nindent 2 }}
{{- end -}}

{{- define "hookstream.image" -}}
{{- with .Values.image.registry }}{{ . }}/{{ end }}{{ .Values.image.repository }}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ default .Chart.AppVersion .Values.image.tag }}{{ end -}}
{{- end -}}

{{- define "hookstream.pullSecrets" -}}
{{- with .Values.imagePullSecrets -}}
imagePullSecrets:
  {{- range . }}
  - name: {{ if kindIs "string" . }}{{ . }}{{ else }}{{ .name }}{{ end }}
  {{- end }}
{{- end -}}
{{- end -}}

{{/* The ServiceAccount of a role (controller or worker). */}}
{{- define "hookstream.account" -}}
{{- $name := include "hookstream.fullname" .root -}}
{{- if eq .root.Values.mode "combined" -}}
{{ default $name .root.Values.serviceAccounts.workerName }}
{{- else -}}
{{ default (printf "%s-%s" $name .role) (get .root.Values.serviceAccounts (printf "%sName" .role)) }}
{{- end -}}
{{- end -}}

{{/* The Secret with the certificate of the ingest and API ports. Empty: plain HTTP. */}}
{{- define "hookstream.tlsSecret" -}}
{{- $default := ternary (printf "%s-tls" (include "hookstream.fullname" .)) "" .Values.tls.certificate.enabled -}}
{{ default $default .Values.tls.secretName }}
{{- end -}}

{{/* The URL scheme of the ingest and API ports. */}}
{{- define "hookstream.scheme" -}}
{{ if include "hookstream.tlsSecret" . }}https{{ else }}http{{ end }}
{{- end -}}

{{/* The URL of the ingest Service in the cluster. */}}
{{- define "hookstream.ingestUrl" -}}
{{ include "hookstream.scheme" . }}://{{ include "hookstream.fullname" . }}-ingest.{{ include "hookstream.namespace" . }}.svc:{{ .Values.service.ingest.port }}
{{- end -}}

{{/* The name of the Lease for leader election. */}}
{{- define "hookstream.leaseName" -}}
{{ default (printf "%s-controller" (include "hookstream.fullname" .)) .Values.controller.lease.name }}
{{- end -}}

{{/* The scheduling and network fields of a pod. Parameter: the values of a role. */}}
{{- define "hookstream.scheduling" -}}
{{- with .hostAliases }}
hostAliases:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .dnsPolicy }}
dnsPolicy: {{ . }}
{{- end }}
{{- with .dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The flags that select the objects of this release. */}}
{{- define "hookstream.selectionArgs" -}}
{{- range .Values.scope.namespaces }}
- --namespace={{ . }}
{{- end }}
{{- with .Values.controllerClass }}
- --controller-class={{ . }}
{{- end }}
{{- with .Values.watchLabelSelector }}
- {{ printf "--watch-label-selector=%s" . | quote }}
{{- end }}
{{- end -}}

{{/* The flags of every role. */}}
{{- define "hookstream.commonArgs" -}}
{{- with include "hookstream.selectionArgs" . | trim }}
{{ . }}
{{- end }}
{{- if .Values.requireSecretLabel }}
- --require-secret-label
{{- end }}
{{- with .Values.keyRing.existingSecret }}
- --key-ring-secret={{ . }}
{{- end }}
- --watch-timeout={{ .Values.watchTimeout }}
- --token-audience={{ .Values.tokenAudience }}
- --ops-listen=:{{ .Values.ports.ops }}
- --egress-policy={{ .Values.egress.policy }}
{{- range .Values.egress.allow }}
- --egress-allow={{ . }}
{{- end }}
{{- range .Values.egress.deny }}
- --egress-deny={{ . }}
{{- end }}
{{- with .Values.egress.proxy }}
{{- if .url }}
- --egress-proxy={{ .url }}
{{- if .authSecret.name }}
- --egress-proxy-auth=/etc/hookstream/proxy/auth
{{- end }}
{{- range .bypass }}
- --egress-proxy-bypass={{ . }}
{{- end }}
{{- else if .authSecret.name }}
{{- fail "egress.proxy.authSecret needs egress.proxy.url" }}
{{- end }}
{{- end }}
- --log-level={{ .Values.log.level }}
- --log-format={{ .Values.log.format }}
{{- end -}}

{{- define "hookstream.controllerArgs" -}}
- --ingest-url={{ default (include "hookstream.ingestUrl" .) .Values.ingest.url }}
{{- with .Values.ingest.publicUrl }}
- --public-ingest-url={{ . }}
{{- end }}
- --resync-interval={{ .Values.controller.resyncInterval }}
- --admin-rate-ceiling={{ .Values.controller.adminRateCeiling }}
- --relay-overlap={{ .Values.controller.relayOverlap }}
{{- with .Values.controller.installationId }}
- --installation-id={{ . }}
{{- end }}
{{- range .Values.controller.formerInstallationIds }}
- --former-installation-id={{ . }}
{{- end }}
- --lease-name={{ include "hookstream.leaseName" . }}
{{- with .Values.controller.lease }}
- --lease-duration={{ .duration }}
- --lease-renew-deadline={{ .renewDeadline }}
- --lease-retry-period={{ .retryPeriod }}
{{- end }}
{{- end -}}

{{/* Whether workers keep events in a database. Empty: in a file on their volume. */}}
{{- define "hookstream.usesDatabase" -}}
{{- with .Values.worker.store.postgresql -}}
{{- if or .hosts .urlSecret.name }}yes{{ end -}}
{{- end -}}
{{- end -}}

{{/* The flags of the store, and refusals of values that would have no effect. */}}
{{- define "hookstream.storeArgs" -}}
{{- $replicas := .Values.worker.replicas -}}
{{- with .Values.worker.store.postgresql -}}
{{- if include "hookstream.usesDatabase" $ }}
{{- if and .hosts .urlSecret.name }}
{{- fail "worker.store.postgresql.hosts and worker.store.postgresql.urlSecret exclude each other" }}
{{- end }}
{{- if .hosts }}
{{- $port := .port }}
{{- $hosts := list }}
{{- range .hosts }}{{ $hosts = append $hosts (printf "%s:%v" . $port) }}{{ end }}
{{- $query := "" }}
{{- with .sslMode }}{{ $query = printf "?sslmode=%s" . }}{{ end }}
- {{ printf "--store-url=postgres://%s@%s/%s%s" (urlquery .user | replace "+" "%20") (join "," $hosts) (urlquery .database | replace "+" "%20") $query | quote }}
{{- end }}
- --store-size={{ .size }}
{{- if .passwordSecret.name }}
- --store-password-file=/etc/hookstream/store-password/password
{{- end }}
{{- if .caSecret.name }}
- --store-ca-file=/etc/hookstream/store-ca/ca.crt
{{- end }}
{{- if .clientCertificateSecret.name }}
- --store-certificate-file=/etc/hookstream/store-client/tls.crt
- --store-key-file=/etc/hookstream/store-client/tls.key
{{- end }}
{{- if not .migrate }}
- --no-migrate
{{- end }}
{{- else }}
{{- if ne (toString $replicas) "1" }}
{{- fail "worker.replicas must be 1 without worker.store.postgresql: the embedded store is one file on one volume" }}
{{- end }}
{{- range $name := list "passwordSecret" "caSecret" "clientCertificateSecret" }}
{{- if (get $.Values.worker.store.postgresql $name).name }}
{{- fail (printf "worker.store.postgresql.%s needs worker.store.postgresql.hosts or urlSecret" $name) }}
{{- end }}
{{- end }}
- --data=/var/lib/hookstream
{{- end }}
{{- end }}
{{- end -}}

{{- define "hookstream.workerArgs" -}}
{{ include "hookstream.storeArgs" . | trim }}
- --listen=:{{ .Values.ports.ingest }}
- --api-listen=:{{ .Values.ports.api }}
{{- /* In combined mode it is among the controller's flags. */}}
{{- if ne .Values.mode "combined" }}
- --lease-name={{ include "hookstream.leaseName" . }}
{{- end }}
{{- if include "hookstream.tlsSecret" . }}
- --tls-cert=/etc/hookstream/tls/tls.crt
- --tls-key=/etc/hookstream/tls/tls.key
{{- end }}
{{- range .Values.worker.trustedProxies }}
- --trusted-proxies={{ . }}
{{- end }}
{{- range .Values.worker.handshakeOrigins }}
- --handshake-origins={{ . }}
{{- end }}
{{- if .Values.worker.handshakeAllowAll }}
- --handshake-allow-all
{{- end }}
{{- if not .Values.worker.console.enabled }}
- --console=false
{{- end }}
{{- with .Values.worker.traces }}
{{- if .endpoint }}
- --otlp-endpoint={{ .endpoint }}
- --otlp-sample-ratio={{ .sampleRatio }}
{{- if .headersSecret.name }}
- --otlp-headers-file=/etc/hookstream/otlp/headers
{{- end }}
{{- else if .headersSecret.name }}
{{- fail "worker.traces.headersSecret needs worker.traces.endpoint" }}
{{- end }}
{{- end }}
{{- range $name, $value := .Values.worker.settings }}
{{- if $value }}
- --{{ kebabcase $name }}={{ $value }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Topology spread constraints. Parameters: values (of a role) and labels (of its pods). */}}
{{- define "hookstream.spread" -}}
{{- if .values.topologySpreadConstraints -}}
{{ toYaml .values.topologySpreadConstraints }}
{{- else -}}
{{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- toYaml $.labels | nindent 6 }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* The spec of a pod. Parameters: root, role (controller or worker), args (YAML), ports (a dict) and mounts; optional: env, spread, volumes, preStopSeconds. */}}
{{- define "hookstream.podSpec" -}}
{{- $values := get .root.Values .role -}}
serviceAccountName: {{ include "hookstream.account" . }}
automountServiceAccountToken: true
{{ include "hookstream.pullSecrets" .root }}
# The environment variables of Services would have the names of the program's flags.
enableServiceLinks: false
securityContext:
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
{{- include "hookstream.scheduling" $values }}
{{- with .spread }}
topologySpreadConstraints:
  {{- . | nindent 2 }}
{{- end }}
{{- with $values.extraInitContainers }}
initContainers:
  {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: hookstream
    image: {{ include "hookstream.image" .root }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    args:
      {{- .args | nindent 6 }}
      {{- range $values.extraArgs }}
      - {{ . | quote }}
      {{- end }}
    env:
      - name: POD_NAMESPACE
        valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
      - name: POD_NAME
        valueFrom: {fieldRef: {fieldPath: metadata.name}}
      {{- with .env }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- with $values.extraEnv }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    ports:
      {{- range $name, $port := .ports }}
      - {name: {{ $name }}, containerPort: {{ $port }}, protocol: TCP}
      {{- end }}
    # Liveness succeeds at once. Readiness reports what the program waits for: CRDs, objects, the store.
    {{- $live := dict "path" "/livez" "port" "ops" }}
    {{- $defaults := dict
      "startup" (dict "httpGet" $live "periodSeconds" 2 "failureThreshold" 60)
      "liveness" (dict "httpGet" $live "periodSeconds" 10 "failureThreshold" 6)
      "readiness" (dict "httpGet" (dict "path" "/readyz" "port" "ops") "periodSeconds" 5) }}
    {{- range $probe := list "startup" "liveness" "readiness" }}
    {{ $probe }}Probe:
      {{- toYaml (merge (deepCopy (default dict (get $values.probes $probe))) (get $defaults $probe)) | nindent 6 }}
    {{- end }}
    {{- with .preStopSeconds }}
    lifecycle: {preStop: {sleep: {seconds: {{ . }}}}}
    {{- end }}
    resources:
      {{- toYaml $values.resources | nindent 6 }}
    securityContext:
      {{- toYaml .root.Values.securityContext | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      {{- if .root.Values.egress.proxy.authSecret.name }}
      - {name: proxy, mountPath: /etc/hookstream/proxy, readOnly: true}
      {{- end }}
      {{- with .mounts }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- with $values.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
  {{- with $values.extraContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
volumes:
  - name: tmp
    emptyDir: {sizeLimit: 64Mi}
  {{- with .root.Values.egress.proxy.authSecret }}
  {{- if .name }}
  - name: proxy
    secret: {secretName: {{ .name }}, items: [{key: {{ .key }}, path: auth}], defaultMode: 0440}
  {{- end }}
  {{- end }}
  {{- with .volumes }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with $values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}
