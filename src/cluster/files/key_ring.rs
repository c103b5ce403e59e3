//! The key ring of standalone: `keys.json` in the data folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::atomic_file::write_atomically;
use super::documents::ManifestError;
use crate::cluster::keys::generate_key;
use crate::core::keys::KeyRing;

/// Reads the key ring; creates it at the first start. A missing key ring is an error if saved objects depend on it.
pub fn open_key_ring(data: &Path) -> Result<KeyRing, ManifestError> {
    fs::create_dir_all(data).map_err(|e| ManifestError::new(data, e))?;
    let path = data.join("keys.json");
    if !path.exists() {
        let has_objects =
            fs::read_dir(data.join("objects")).is_ok_and(|mut entries| entries.next().is_some());
        if has_objects {
            let why = "is missing while objects depend on it: restore it, or empty the data folder";
            return Err(ManifestError::new(&path, why));
        }
        let (id, key) = generate_key().map_err(|e| ManifestError::new(&path, e))?;
        let text = serde_json::to_vec(&BTreeMap::from([(id, hex::encode(key))]))
            .map_err(|e| ManifestError::new(&path, e))?;
        write_atomically(&path, &text)?;
    }
    let text = fs::read_to_string(&path).map_err(|e| ManifestError::new(&path, e))?;
    let invalid = || ManifestError::new(&path, "is not a key ring");
    let keys: BTreeMap<String, String> = serde_json::from_str(&text).map_err(|_| invalid())?;
    let keys: Option<Vec<(String, Vec<u8>)>> =
        keys.into_iter().map(|(id, text)| Some((id, hex::decode(text).ok()?))).collect();
    let keys = keys.ok_or_else(invalid)?;
    KeyRing::from_data(keys.iter().map(|(id, key)| (id.as_str(), key.as_slice())))
        .map_err(|e| ManifestError::new(&path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_not_replace_a_lost_key_ring_while_objects_depend_on_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = open_key_ring(dir.path()).unwrap();
        assert_eq!(open_key_ring(dir.path()).unwrap().newest_key_id(), first.newest_key_id());
        fs::create_dir(dir.path().join("objects")).unwrap();
        fs::write(dir.path().join("objects/EventHook.default.a.json"), "{}").unwrap();
        fs::remove_file(dir.path().join("keys.json")).unwrap();
        assert!(open_key_ring(dir.path()).unwrap_err().to_string().contains("restore"));
    }
}
