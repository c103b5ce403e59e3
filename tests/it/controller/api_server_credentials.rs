//! The certificate authority of the API server and the operator's client certificate are replaced while it runs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::harness::world::World;
use crate::harness::{DEADLINE, control_plane, eventually, watchdog};

/// An authority with a certificate for `localhost` that serves and authenticates.
struct Authority {
    ca: String,
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &ca).unwrap();
        Authority { ca: ca.pem(), certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// Returns the settings of a server that accepts only clients with a certificate of this authority.
    fn server(&self) -> Arc<ServerConfig> {
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots(self.ca.as_bytes()))).build().unwrap();
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        Arc::new(
            ServerConfig::builder().with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap(),
        )
    }

    /// Writes the files that the kubeconfig names.
    fn write(&self, folder: &Path) {
        for (name, text) in [("ca", &self.ca), ("certificate", &self.certificate), ("key", &self.key)] {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }
}

fn roots(pem: &[u8]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.unwrap()).unwrap();
    }
    roots
}

/// A TLS proxy in front of the API server, whose certificate can be replaced. That closes all connections.
struct TlsFront {
    port: u16,
    server: watch::Sender<Arc<ServerConfig>>,
    rejected: Arc<Mutex<usize>>,
}

impl TlsFront {
    async fn start(authority: &Authority) -> TlsFront {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (server, current) = watch::channel(authority.server());
        let rejected = Arc::new(Mutex::new(0));
        let count = rejected.clone();
        let upstream = control_plane().url.trim_start_matches("https://").to_owned();
        let roots = roots(&std::fs::read(&control_plane().ca_file).unwrap());
        let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(client));
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let (mut current, upstream) = (current.clone(), upstream.clone());
                let (connector, count) = (connector.clone(), count.clone());
                tokio::spawn(async move {
                    let acceptor = TlsAcceptor::from(current.borrow_and_update().clone());
                    let Ok(mut from) = acceptor.accept(from).await else {
                        *count.lock().unwrap() += 1;
                        return;
                    };
                    let to = TcpStream::connect(upstream).await.unwrap();
                    let name = ServerName::try_from("127.0.0.1").unwrap();
                    let mut to = connector.connect(name, to).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut from, &mut to) => {}
                        _ = current.changed() => {}
                    }
                });
            }
        });
        TlsFront { port, server, rejected }
    }
}

/// Writes a kubeconfig with the token of another one, and with the files in `folder`.
fn kubeconfig(folder: &Path, port: u16, of: &Path) -> PathBuf {
    let text = std::fs::read_to_string(of).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    let file = |name: &str| folder.join(name).display().to_string();
    config["clusters"][0]["cluster"] =
        json!({"server": format!("https://localhost:{port}"), "certificate-authority": file("ca")});
    config["users"][0]["user"]["client-certificate"] = json!(file("certificate"));
    config["users"][0]["user"]["client-key"] = json!(file("key"));
    let path = folder.join("kubeconfig");
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn follows_replaced_authority_and_client_certificate() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let mut world = World::start("rotated").await;
    world.stop_operator().await;
    let folder = watchdog::unique_path("credentials");
    std::fs::create_dir(&folder).unwrap();
    let (first, second) = (Authority::new(), Authority::new());
    first.write(&folder);
    let front = TlsFront::start(&first).await;
    world.accounts.controller = kubeconfig(&folder, front.port, &world.accounts.controller);
    let controller = world.another("controller", &[]);
    world.apply(&[world.connection(), world.hook("a")]).await;
    world.ready("eventhooks/a").await;
    let holder = async || {
        let path = format!(
            "/apis/coordination.k8s.io/v1/namespaces/{}/leases/hookstream-controller",
            world.home.name
        );
        Ok::<_, String>(world.read(&path).await?["spec"]["holderIdentity"].clone())
    };
    let first_holder = holder().await.unwrap();

    // The API server presents the new certificate before the files follow, as in a rotation.
    front.server.send_replace(second.server());
    eventually(DEADLINE, "a rejected connection", async || {
        let rejected = *front.rejected.lock().unwrap();
        if rejected > 0 { Ok(()) } else { Err("none".to_owned()) }
    })
    .await;
    second.write(&folder);
    world.edit("evh/a", json!({"event": "routes"})).await;
    world.kong.until_hooks("the edit", |hooks| hooks.len() == 1 && hooks[0]["event"] == "routes").await;
    world.ready("eventhooks/a").await;
    assert!(controller.ended().is_none(), "a restart was needed");
    assert_eq!(holder().await.unwrap(), first_holder, "the same process renews the Lease");
}
