#!/usr/bin/env bash
# Builds the control plane of the tests from pinned Go modules into a cache folder, once for each version.
# Prints the folder on the last line. Binaries in the folder KUBEBUILDER_ASSETS are used instead of building them.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${HOOKSTREAM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hookstream}

# Prints the version of a module, from the go.mod that pins it.
version() { sed -nE "s|^(require )?[[:space:]]*$2 (v[^ ]+).*|\2|p" "$here/$1/go.mod" | head -n 1; }
k8s=$(version kubernetes k8s.io/kubernetes)
etcd=$(version etcd go.etcd.io/etcd/server/v3)
helm=$(version helm helm.sh/helm/v4)
bin="$cache/controlplane/k8s-$k8s-etcd-$etcd-helm-$helm"
mkdir -p "$bin"

# Allow one build at a time: `make test` in two clones shares the cache.
exec 9>"$cache/controlplane/.lock"
flock 9

# build NAME MODULE-FOLDER PACKAGE LDFLAGS
build() {
  [ -x "$bin/$1" ] && return
  echo "controlplane: building $1 ($bin)" >&2
  # Rename when complete: an interrupted build must not leave a truncated binary that later runs use.
  (cd "$here/$2" && go build -trimpath -ldflags "-s -w $4" -o "$bin/$1.tmp" "$3")
  mv "$bin/$1.tmp" "$bin/$1"
}

command -v go >/dev/null || {
  echo "controlplane: Go 1.26 or newer is missing: install it from https://go.dev/dl, or set KUBEBUILDER_ASSETS (setup-envtest) and put kubectl and helm there" >&2
  exit 2
}
minor=${k8s#v1.}
minor=${minor%%.*}
# Without this stamp the server reports v0.0.0, and clients that depend on the version fail.
stamp="-X k8s.io/component-base/version.gitVersion=$k8s -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=$minor"

assets=${KUBEBUILDER_ASSETS:-}
for name in kube-apiserver kube-controller-manager kubectl etcd; do
  if [ -n "$assets" ] && [ -x "$assets/$name" ]; then
    ln -sf "$assets/$name" "$bin/$name.tmp" && mv "$bin/$name.tmp" "$bin/$name"
  elif [ "$name" = etcd ]; then
    build etcd etcd go.etcd.io/etcd/server/v3 ""
  else
    build "$name" kubernetes "k8s.io/kubernetes/cmd/$name" "$stamp"
  fi
done
build helm helm helm.sh/helm/v4/cmd/helm ""

# Third-party CRDs whose objects the chart can create. The folder name contains the versions; `crds` links to it.
prometheus=$(version crds github.com/prometheus-operator/prometheus-operator)
gateway=$(version crds sigs.k8s.io/gateway-api)
cert_manager=$(version crds github.com/cert-manager/cert-manager)
crds="crds-prometheus-operator-$prometheus-gateway-api-$gateway-cert-manager-$cert_manager"
if [ ! -d "$bin/$crds" ]; then
  folder() { (cd "$here/crds" && go mod download "$1" && go list -m -f '{{.Dir}}' "$1"); }
  prometheus_dir=$(folder github.com/prometheus-operator/prometheus-operator)
  gateway_dir=$(folder sigs.k8s.io/gateway-api)
  cert_manager_dir=$(folder github.com/cert-manager/cert-manager)
  rm -rf "$bin/crds.tmp" && mkdir "$bin/crds.tmp"
  cp "$prometheus_dir"/example/prometheus-operator-crd/monitoring.coreos.com_{servicemonitors,podmonitors,prometheusrules}.yaml \
    "$gateway_dir"/config/crd/standard/gateway.networking.k8s.io_httproutes.yaml \
    "$cert_manager_dir"/deploy/crds/cert-manager.io_certificates.yaml "$bin/crds.tmp"
  chmod -R u+w "$bin/crds.tmp"
  mv "$bin/crds.tmp" "$bin/$crds"
fi
ln -sfn "$crds" "$bin/crds"

# CRDs of Argo CD and Flux, whose objects deploy/gitops contains. Flux's are generated from its types, as Flux does, because
# the module proxy does not serve every module that contains them. Argo CD's go.mod has a replace directive for a part of
# itself, so no other module can require it; its version is pinned here.
argo=v3.5.7
argo_sum="h1:Xm1BF+I5OgDKUG3SDK49vn2/Y5AMyaNVko+/JT08gj0="
helm_controller=$(version gitops github.com/fluxcd/helm-controller/api)
kustomize_controller=$(version gitops github.com/fluxcd/kustomize-controller/api)
source_controller=$(version gitops github.com/fluxcd/source-controller/api)
gitops="gitops-argo-cd-$argo-helm-$helm_controller-kustomize-$kustomize_controller-source-$source_controller"
if [ ! -d "$bin/$gitops" ]; then
  echo "controlplane: generating the CRDs of Argo CD and Flux ($bin)" >&2
  rm -rf "$bin/gitops.tmp" && mkdir "$bin/gitops.tmp"
  found=$(cd "$here/gitops" && go mod download -json "github.com/argoproj/argo-cd/v3@$argo")
  field() { sed -nE "s|^[[:space:]]*\"$1\": \"(.*)\",?$|\1|p" <<<"$found"; }
  [ "$(field Sum)" = "$argo_sum" ] || {
    echo "controlplane: Argo CD $argo has the hash $(field Sum), expected $argo_sum" >&2
    exit 1
  }
  cp "$(field Dir)/manifests/crds/application-crd.yaml" "$bin/gitops.tmp"
  chmod -R u+w "$bin/gitops.tmp"
  api=github.com/fluxcd
  (cd "$here/gitops" && go tool controller-gen crd paths="$api/helm-controller/api/v2" \
    paths="$api/kustomize-controller/api/v1" paths="$api/source-controller/api/v1" output:crd:dir="$bin/gitops.tmp")
  mv "$bin/gitops.tmp" "$bin/$gitops"
fi
ln -sfn "$gitops" "$bin/gitops"
echo "$bin"
