//! Secrets, read and never shown.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretSlice, SecretString};

use super::{Cluster, ClusterError, Key};
use crate::api::SecretKeyRef;

/// The data of a Secret. Its `Debug` shows the keys only.
#[derive(Debug, Default)]
pub struct SecretData(BTreeMap<String, SecretSlice<u8>>);

impl SecretData {
    pub fn new(data: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        SecretData(data.into_iter().map(|(key, value)| (key, SecretSlice::from(value))).collect())
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
