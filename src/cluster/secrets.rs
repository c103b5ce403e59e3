//! Reads referenced Secrets and ConfigMaps. No `Debug` output or error message contains their values.

use secrecy::{ExposeSecret, SecretSlice, SecretString};

use super::backend::{Cluster, ClusterError};
use super::object::ObjectKey;
use crate::api::{CaKind, CaRef, SecretKeyRef, Tls};
use crate::net::TlsOptions;

/// The reason why a referenced Secret or ConfigMap cannot be used. The message names the object and the key, never a
/// value.
#[derive(Clone, Debug, thiserror::Error, strum::IntoStaticStr)]
pub enum ReferenceError {
    #[error("Secret {0} does not exist (or may not be used): create it")]
    SecretMissing(String),
    #[error("Secret {secret} has no key {key}: add it")]
    SecretKeyMissing { secret: String, key: String },
    #[error("key {key} of Secret {secret} is empty or not text: replace it")]
    SecretInvalid { secret: String, key: String },
    #[error("ConfigMap {0} does not exist: create it")]
    ConfigMapMissing(String),
    #[error("ConfigMap {config_map} has no key {key}: add it")]
    ConfigMapKeyMissing { config_map: String, key: String },
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

/// Reads one key of a Secret as text. Strips trailing line ends, which `echo` and editors append.
pub async fn read_secret_text(
    cluster: &dyn Cluster,
    namespace: &str,
    reference: &SecretKeyRef,
) -> Result<SecretString, ReferenceError> {
    let secret = || reference.name.clone();
    let data = cluster
        .secret(&ObjectKey::new(namespace, &reference.name))
        .await?
        .ok_or_else(|| ReferenceError::SecretMissing(secret()))?;
    let key = || reference.key.clone();
    let bytes = data
        .get(&reference.key)
        .ok_or_else(|| ReferenceError::SecretKeyMissing { secret: secret(), key: key() })?;
    let text = std::str::from_utf8(bytes).map(|text| text.trim_end_matches(['\r', '\n'])).unwrap_or_default();
    if text.is_empty() {
        return Err(ReferenceError::SecretInvalid { secret: secret(), key: key() });
    }
    Ok(SecretString::from(text))
}

/// Reads the certificates and keys that TLS options reference.
pub async fn read_tls_options(
    cluster: &dyn Cluster,
    namespace: &str,
    tls: &Tls,
) -> Result<TlsOptions, ReferenceError> {
    let ca = match &tls.ca_ref {
        None => None,
        Some(reference) => Some(read_ca(cluster, namespace, reference).await?),
    };
    let client = match &tls.cert_secret_ref {
        None => None,
        Some(reference) => {
            let part = |key: &str| SecretKeyRef { name: reference.name.clone(), key: key.to_owned() };
            let chain = read_secret_text(cluster, namespace, &part("tls.crt")).await?;
            let key = read_secret_text(cluster, namespace, &part("tls.key")).await?;
            let key = SecretSlice::from(key.expose_secret().as_bytes().to_vec());
            Some((chain.expose_secret().as_bytes().to_vec(), key))
        }
    };
    Ok(TlsOptions { ca, client, insecure: tls.insecure_skip_verify == Some(true) })
}

async fn read_ca(
    cluster: &dyn Cluster,
    namespace: &str,
    reference: &CaRef,
) -> Result<Vec<u8>, ReferenceError> {
    let (name, key) = (reference.name.clone(), reference.key.clone());
    match reference.kind {
        CaKind::Secret => {
            let text = read_secret_text(cluster, namespace, &SecretKeyRef { name, key }).await?;
            Ok(text.expose_secret().as_bytes().to_vec())
        }
        CaKind::ConfigMap => {
            let data = cluster.config_map(&ObjectKey::new(namespace, &name)).await?;
            let data = data.ok_or_else(|| ReferenceError::ConfigMapMissing(name.clone()))?;
            let bytes =
                data.get(&key).ok_or(ReferenceError::ConfigMapKeyMissing { config_map: name, key })?;
            Ok(bytes.to_vec())
        }
    }
}
