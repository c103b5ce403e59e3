//! Secrets and ConfigMaps, read; secrets are never shown.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretSlice, SecretString};

use super::{Cluster, ClusterError, Key};
use crate::api::{CaKind, CaRef, SecretKeyRef, Tls};
use crate::net::TlsOptions;

/// The data of a Secret or ConfigMap. Its `Debug` shows the keys only.
#[derive(Debug, Default)]
pub struct Data(BTreeMap<String, SecretSlice<u8>>);

impl Data {
    pub fn new(data: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        Data(data.into_iter().map(|(key, value)| (key, SecretSlice::from(value))).collect())
    }

    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.get(key).map(|value| value.expose_secret())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.expose_secret()))
    }
}

/// Why a referenced secret cannot be used. The message names the Secret and key, never their content.
#[derive(Clone, Debug, thiserror::Error, strum::IntoStaticStr)]
pub enum MissingSecret {
    #[error("Secret {0} does not exist (or may not be used): create it")]
    SecretMissing(String),
    #[error("Secret {secret} has no key {key}: add it")]
    SecretKeyMissing { secret: String, key: String },
    #[error("key {key} of Secret {secret} is empty or no text: replace it")]
    SecretInvalid { secret: String, key: String },
    #[error("ConfigMap {0} does not exist: create it")]
    ConfigMapMissing(String),
    #[error("ConfigMap {config_map} has no key {key}: add it")]
    ConfigMapKeyMissing { config_map: String, key: String },
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

/// Reads one key of a Secret as text, without the line end that `echo` and editors leave.
pub async fn secret_text(
    cluster: &dyn Cluster,
    namespace: &str,
    reference: &SecretKeyRef,
) -> Result<SecretString, MissingSecret> {
    let secret = || reference.name.clone();
    let data = cluster
        .secret(&Key::new(namespace, &reference.name))
        .await?
        .ok_or_else(|| MissingSecret::SecretMissing(secret()))?;
    let key = || reference.key.clone();
    let bytes = data
        .get(&reference.key)
        .ok_or_else(|| MissingSecret::SecretKeyMissing { secret: secret(), key: key() })?;
    let text = std::str::from_utf8(bytes).map(|text| text.trim_end_matches(['\r', '\n'])).unwrap_or_default();
    if text.is_empty() {
        return Err(MissingSecret::SecretInvalid { secret: secret(), key: key() });
    }
    Ok(SecretString::from(text))
}

/// Reads what TLS options refer to.
pub async fn tls_options(
    cluster: &dyn Cluster,
    namespace: &str,
    tls: &Tls,
) -> Result<TlsOptions, MissingSecret> {
    let ca = match &tls.ca_ref {
        None => None,
        Some(reference) => Some(ca(cluster, namespace, reference).await?),
    };
    let client = match &tls.cert_secret_ref {
        None => None,
        Some(reference) => {
            let part = |key: &str| SecretKeyRef { name: reference.name.clone(), key: key.to_owned() };
            let chain = secret_text(cluster, namespace, &part("tls.crt")).await?;
            let key = secret_text(cluster, namespace, &part("tls.key")).await?;
            let key = SecretSlice::from(key.expose_secret().as_bytes().to_vec());
            Some((chain.expose_secret().as_bytes().to_vec(), key))
        }
    };
    Ok(TlsOptions { ca, client, insecure: tls.insecure_skip_verify == Some(true) })
}

async fn ca(cluster: &dyn Cluster, namespace: &str, reference: &CaRef) -> Result<Vec<u8>, MissingSecret> {
    let (name, key) = (reference.name.clone(), reference.key.clone());
    match reference.kind {
        CaKind::Secret => {
            let text = secret_text(cluster, namespace, &SecretKeyRef { name, key }).await?;
            Ok(text.expose_secret().as_bytes().to_vec())
        }
        CaKind::ConfigMap => {
            let data = cluster.config_map(&Key::new(namespace, &name)).await?;
            let data = data.ok_or_else(|| MissingSecret::ConfigMapMissing(name.clone()))?;
            let bytes = data.get(&key).ok_or(MissingSecret::ConfigMapKeyMissing { config_map: name, key })?;
            Ok(bytes.to_vec())
        }
    }
}
