//! The chart's TLS mode: the ports for events and deliveries serve the certificate of the named Secret.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;

use super::installation::{Installed, helm_test};
use crate::harness::helm::token;
use crate::harness::{DEADLINE, Kong, Receiver, Reply, watchdog};

/// Creates a folder as a kubelet mounts the Secret: certificate, key and CA.
fn secret() -> String {
    let folder = watchdog::unique_path("tls");
    std::fs::create_dir(&folder).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = CertificateParams::new(vec!["localhost".into()]).unwrap();
    let certificate = names.signed_by(&key, &ca).unwrap();
    for (name, text) in
        [("ca.crt", ca.pem()), ("tls.crt", certificate.pem()), ("tls.key", key.serialize_pem())]
    {
        std::fs::write(folder.join(name), text).unwrap();
    }
    folder.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_serve_certificate_of_secret() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let folder = secret();
    let ca = std::fs::read(format!("{folder}/ca.crt")).unwrap();
    let ca = reqwest::Certificate::from_pem(&ca).unwrap();
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([ca]).timeout(DEADLINE).build().unwrap();
    let it = Installed::start(json!({"mode": "combined", "tls": {"secretName": "hookstream-tls"}})).await;
    let it = it.by_tls(&folder, http);
    it.definitions("install").await.unwrap();
    let [ingest, _, ops, _] = it.ports;
    let both = it.run("statefulset", "hookstream-worker", ops).await;
    it.ready(ops).await;

    // Kong trusts the CA that its operator configures: here, the CA of the Secret.
    let kong = Kong::start_with(&[], &[("SSL_CERT_FILE", &format!("{folder}/ca.crt"))]).await;
    let receiver = Receiver::start(|_, _| Reply::status(200));
    it.apply_hooks(&kong, &receiver).await;
    let url = kong.only_hook().await["config"]["url"].as_str().unwrap().to_owned();
    assert!(url.starts_with(&format!("https://localhost:{ingest}/")), "{url}");
    assert_eq!(kong.emit("crud", "consumers", json!({"operation": "create"})).await, 1);
    receiver.wait_for(1, DEADLINE).await;
    let bind =
        ["create", "rolebinding", "shop", "--clusterrole=hookstream-publisher", "--serviceaccount=shop:shop"];
    it.shop(&bind).await;
    let shop = token(&it.cluster, "shop", "shop", Some("hookstream")).await;
    assert_eq!(it.publish(&shop).await, 202);
    receiver.wait_for(2, DEADLINE).await;
    helm_test(&it).await;
    assert!(both.terminate().await.success());
}
