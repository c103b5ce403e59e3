//! The data of Secrets and ConfigMaps.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretSlice};

/// The data of a Secret or ConfigMap. Its `Debug` output contains only the keys.
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
