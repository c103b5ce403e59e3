//! Finds the worker's Services in a cluster, and calls them through the API server.

use std::str::FromStr;

use k8s_openapi::api::core::v1::Service;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::failure::Failure;
use super::kubeconfig::{ApiServer, KubeconfigArgs, create_client};

/// Services that are listed: enough to name the ones of several installations.
const MAX_SERVICES: u32 = 20;

/// Defines flags that name a Service.
pub trait ServiceFlag {
    /// Makes the value optional; the flag without a value means `service`.
    fn default_service(self, service: &'static str) -> Self;
}

impl ServiceFlag for clap::Arg {
    fn default_service(self, service: &'static str) -> Self {
        // A value needs an equals sign, because the word after the flag may be the next argument.
        self.value_name("NAMESPACE/NAME:PORT")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value(service)
    }
}

/// A port of the worker. Its name is also that of the Service's port, and the Service's component label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerPort {
    Api,
    Ingest,
}

impl WorkerPort {
    fn name(self) -> &'static str {
        match self {
            WorkerPort::Api => "api",
            WorkerPort::Ingest => "ingest",
        }
    }

    /// The URL of a worker on this machine.
    pub fn default_url(self) -> &'static str {
        match self {
            WorkerPort::Api => "http://127.0.0.1:8082",
            WorkerPort::Ingest => "http://127.0.0.1:8080",
        }
    }

    /// The Service of the chart with its default names.
    fn default_service(self) -> ServicePort {
        let name = self.name();
        ServicePort {
            namespace: "hookstream-system".into(),
            name: format!("hookstream-{name}"),
            port: name.into(),
            is_tls: false,
        }
    }
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub namespace: String,
    pub name: String,
    port: String,
    is_tls: bool,
}

impl FromStr for ServicePort {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_name = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        let (namespace, rest) = text.split_once('/').unwrap_or_default();
        let (service, port) = rest.split_once(':').unwrap_or_default();
        if ![namespace, service, port].into_iter().all(is_name) {
            return Err("must be NAMESPACE/NAME:PORT, such as hookstream-system/hookstream-api:api");
        }
        Ok(ServicePort {
            namespace: namespace.into(),
            name: service.into(),
            port: port.into(),
            is_tls: false,
        })
    }
}

impl std::fmt::Display for ServicePort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.name, self.port)
    }
}

impl ServicePort {
    /// Returns the path of the API server that leads to the Service.
    pub fn proxy_path(&self) -> String {
        let ServicePort { namespace, name, port, is_tls } = self;
        let scheme = if *is_tls { "https:" } else { "" };
        format!("/api/v1/namespaces/{namespace}/services/{scheme}{name}:{port}/proxy")
    }

    /// Returns the port of a Service that the API server listed.
    fn of(service: &Service, port: WorkerPort) -> ServicePort {
        let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
        let is_tls = ports.into_iter().flatten().any(|found| {
            found.name.as_deref() == Some(port.name()) && found.app_protocol.as_deref() == Some("https")
        });
        ServicePort {
            namespace: service.namespace().unwrap_or_default(),
            name: service.name_any(),
            port: port.name().into(),
            is_tls,
        }
    }
}

/// A cluster, for calls of its Services.
#[derive(Clone)]
pub struct ServiceCluster {
    pub client: Client,
    pub server: ApiServer,
    /// The namespace of the kubeconfig's context.
    pub namespace: String,
}

impl ServiceCluster {
    /// Connects to the cluster that the flags name.
    pub async fn connect(kubeconfig: &KubeconfigArgs) -> Result<Self, Failure> {
        let mut config = kubeconfig.load().await?;
        // Do not retry: a user waits, and a call of a Service without endpoints should fail immediately.
        config.default_retry = false;
        let (server, namespace) = (kubeconfig.server(&config), config.default_namespace.clone());
        Ok(ServiceCluster { client: create_client(config)?, server, namespace })
    }

    /// Finds the Service of the worker by its labels. A user who may not list Services gets the one of the chart.
    pub async fn find(&self, port: WorkerPort) -> Result<ServicePort, Failure> {
        let labels =
            format!("app.kubernetes.io/part-of=hookstream,app.kubernetes.io/component={}", port.name());
        let services: Api<Service> = Api::all(self.client.clone());
        let params = ListParams::default().labels(&labels).limit(MAX_SERVICES);
        let found = match services.list(&params).await {
            Ok(list) => list.items,
            Err(kube::Error::Api(status)) if status.code == 403 => return Ok(port.default_service()),
            Err(error) => {
                return Err(Failure::new(format!(
                    "finding the worker's Service: {}",
                    self.server.describe(&error)
                )));
            }
        };
        match found.as_slice() {
            [] => Err(Failure::new(format!(
                "{} has no Service with the labels {labels}: is Hookstream installed there? Name the Service with --service",
                self.server
            ))),
            [service] => Ok(ServicePort::of(service, port)),
            several => {
                let names: Vec<String> =
                    several.iter().map(|service| ServicePort::of(service, port).to_string()).collect();
                Err(Failure::new(format!(
                    "{} has several workers: name one with --service=NAMESPACE/NAME:PORT ({})",
                    self.server,
                    names.join(", ")
                )))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_services() {
        let parsed: ServicePort = "a-b/c:api".parse().unwrap();
        assert_eq!(
            parsed,
            ServicePort { namespace: "a-b".into(), name: "c".into(), port: "api".into(), is_tls: false }
        );
        assert_eq!(parsed.to_string(), "a-b/c:api");
        for text in ["", "a", "a/b", "a:b", "/b:c", "a/:c", "a/b:", "a/../b:c", "a/b:c/d", "A/b:c"] {
            assert!(text.parse::<ServicePort>().is_err(), "{text}");
        }
    }

    #[test]
    fn calls_a_port_with_tls_by_https() {
        let service = |protocol: &str| -> Service {
            serde_json::from_value(serde_json::json!({"metadata": {"namespace": "n", "name": "s"},
                "spec": {"ports": [{"name": "api", "port": 8082, "appProtocol": protocol}]}}))
            .unwrap()
        };
        for (protocol, path) in [
            ("http", "/api/v1/namespaces/n/services/s:api/proxy"),
            ("https", "/api/v1/namespaces/n/services/https:s:api/proxy"),
        ] {
            assert_eq!(ServicePort::of(&service(protocol), WorkerPort::Api).proxy_path(), path);
        }
    }
}
