// build.sh copies CRDs from these modules. It only downloads them and builds nothing.
module hookstream.dev/tests/controlplane/crds

go 1.26.0

require (
	github.com/cert-manager/cert-manager v1.21.2
	github.com/prometheus-operator/prometheus-operator v0.85.0
	sigs.k8s.io/gateway-api v1.6.3
)
