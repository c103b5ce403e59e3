//! Follows the configuration of access to the API server: a rotated certificate authority, client certificate or token
//! takes effect without a restart.
//!
//! The library reloads token files, and the authority of a Pod, by itself. It reads a kubeconfig, and the certificates
//! that a kubeconfig names, only once.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use parking_lot::Mutex;
use serde_json::json;
use sha2::{Digest, Sha256};
use tower_service::Service;

/// The time between two checks of the files. They are small, and checked only when there is a request.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// The shortest time between two checks, after a request that failed or was rejected.
const MIN_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Loads a configuration, or returns why that failed.
type Load = fn() -> BoxFuture<'static, Result<Config, String>>;

/// The configuration of access to the API server.
#[derive(Clone)]
pub struct ApiConfig {
    load: Load,
    last: Arc<Mutex<LastLoad>>,
}

struct LastLoad {
    /// The last usable configuration.
    config: Config,
    /// Why the files have none now.
    problem: Option<String>,
}

impl ApiConfig {
    pub fn new(config: Config, load: Load) -> Self {
        ApiConfig { load, last: Arc::new(Mutex::new(LastLoad { config, problem: None })) }
    }

    /// Loads the configuration again. Returns the last usable one if that fails, for example because a file is being
    /// replaced.
    pub async fn reload(&self) -> Config {
        let loaded = (self.load)().await;
        let mut last = self.last.lock();
        let problem = match loaded {
            // Objects, uids and the Lease of another cluster have nothing to do with those that this process knows.
            Ok(config) if config.cluster_url != last.config.cluster_url => {
                Some(format!("another API server, {}, requires a restart", config.cluster_url))
            }
            Ok(config) => {
                last.config = config;
                None
            }
            Err(error) => Some(error),
        };
        // Log a problem once, not at every check.
        if problem.is_some() && problem != last.problem {
            let problem = problem.as_deref();
            tracing::warn!(
                problem,
                "the configuration of the API server cannot be reloaded, keeping the last one"
            );
        }
        last.problem = problem;
        last.config.clone()
    }

    /// Returns a client with connections of its own, for the present content of the files.
    pub async fn connect(&self) -> Result<Client, kube::Error> {
        Client::try_from(self.reload().await)
    }

    /// Returns a builder of a client that follows the files.
    pub fn client_builder(&self) -> Result<ClientBuilder<ReloadingService>, kube::Error> {
        let config = self.last.lock().config.clone();
        let namespace = config.default_namespace.clone();
        let (fingerprint, now) = (fingerprint(&config), Instant::now());
        let client = Client::try_from(config)?;
        let state =
            Mutex::new(State { client, fingerprint, checked_at: now, check_at: now + CHECK_INTERVAL });
        Ok(ClientBuilder::new(ReloadingService(Arc::new(Shared { config: self.clone(), state })), namespace))
    }
}

impl fmt::Debug for ApiConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiConfig").finish_non_exhaustive()
    }
}

/// Sends each request by a client for the present configuration. Requests in flight, such as watches, keep theirs.
#[derive(Clone)]
pub struct ReloadingService(Arc<Shared>);

struct Shared {
    config: ApiConfig,
    state: Mutex<State>,
}

struct State {
    client: Client,
    /// The fingerprint of the client's configuration.
    fingerprint: [u8; 32],
    checked_at: Instant,
    check_at: Instant,
}

impl Shared {
    /// Returns a client for the present configuration.
    async fn client(&self) -> Client {
        let now = Instant::now();
        {
            let mut state = self.state.lock();
            if now < state.check_at {
                return state.client.clone();
            }
            // Concurrent requests use the present client instead of checking as well.
            (state.checked_at, state.check_at) = (now, now + CHECK_INTERVAL);
        }
        let config = self.config.reload().await;
        let current = fingerprint(&config);
        let mut state = self.state.lock();
        if current != state.fingerprint {
            match Client::try_from(config) {
                Ok(client) => {
                    (state.client, state.fingerprint) = (client, current);
                    tracing::info!("the configuration of the API server changed, using it from now on");
                }
                Err(error) => {
                    tracing::warn!(%error, "the changed configuration of the API server is unusable, keeping the last one");
                }
            }
        }
        state.client.clone()
    }

    /// Checks the files at the next request: a failed request may be the effect of a change.
    fn check_soon(&self) {
        let mut state = self.state.lock();
        state.check_at = state.check_at.min(state.checked_at + MIN_CHECK_INTERVAL);
    }
}

impl Service<Request<Body>> for ReloadingService {
    type Response = Response<Body>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Response<Body>, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shared = self.0.clone();
        Box::pin(async move {
            let response = shared.client().await.send(request).await;
            if response.as_ref().map_or(true, |response| response.status() == StatusCode::UNAUTHORIZED) {
                shared.check_soon();
            }
            Ok(response?)
        })
    }
}

/// Returns a hash of everything that a client takes from a configuration, with the content of the files that it names.
/// Token files are left out, because the library reloads them.
fn fingerprint(config: &Config) -> [u8; 32] {
    let auth = &config.auth_info;
    let read = |path: &Option<String>| path.as_ref().and_then(|path| std::fs::read(path).ok());
    let content = json!({
        "authority": config.root_cert,
        "insecure": config.accept_invalid_certs,
        "server_name": config.tls_server_name,
        "proxy": config.proxy_url.as_ref().map(ToString::to_string),
        // An error would need a map with keys that are no text. It counts as no change.
        "user": serde_json::to_value(auth).ok(),
        "certificate": read(&auth.client_certificate),
        "key": read(&auth.client_key),
    });
    Sha256::digest(content.to_string().as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kube::config::{KubeConfigOptions, Kubeconfig};

    use super::*;

    async fn fingerprint_of(dir: &Path, token: &str) -> [u8; 32] {
        let file = |name: &str| dir.join(name).display().to_string();
        let text = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": "https://a.test", "certificate-authority": file("ca")}}],
            "users": [{"name": "u", "user": {"token": token, "client-certificate": file("cert"), "client-key": file("key")}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]});
        let kubeconfig = Kubeconfig::from_yaml(&text.to_string()).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        fingerprint(&config)
    }

    #[tokio::test]
    async fn keeps_last_configuration_if_the_files_have_none() {
        let config = || Config::new("https://a.test".parse().unwrap());
        let broken = ApiConfig::new(config(), || Box::pin(async { Err("half of a file".to_owned()) }));
        let moved = ApiConfig::new(config(), || {
            Box::pin(async { Ok(Config::new("https://b.test".parse().unwrap())) })
        });
        for config in [broken, moved] {
            assert_eq!(config.reload().await.cluster_url, "https://a.test/");
        }
    }

    #[tokio::test]
    async fn fingerprint_covers_credentials_and_the_files_that_they_name() {
        let dir = tempfile::tempdir().unwrap();
        let authority =
            |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap().cert.pem();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("ca", &authority("one"));
        write("cert", "one");
        write("key", "one");
        let first = fingerprint_of(dir.path(), "token").await;
        assert_eq!(fingerprint_of(dir.path(), "token").await, first);
        let mut all = vec![first, fingerprint_of(dir.path(), "other").await];
        for (name, text) in [("ca", authority("two").as_str()), ("cert", "two"), ("key", "two")] {
            write(name, text);
            all.push(fingerprint_of(dir.path(), "token").await);
        }
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 5, "each change changes it");
    }
}
