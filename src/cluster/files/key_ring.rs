//! The key ring of standalone: `keys.json` in the data folder.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::atomic_file::write_atomically;
use super::documents::ManifestError;
use crate::core::keys::KeyRing;

const FILE: &str = "keys.json";

/// Reads the key ring; stores `new` at the first start. A missing key ring is an error if saved objects depend on it.
pub fn open_key_ring(data: &Path, new: &KeyRing) -> Result<KeyRing, ManifestError> {
    fs::create_dir_all(data).map_err(|e| ManifestError::new(data, e))?;
    if let Some(key_ring) = read_key_ring(data)? {
        return Ok(key_ring);
    }
    let path = data.join(FILE);
    let has_objects = fs::read_dir(data.join("objects")).is_ok_and(|mut entries| entries.next().is_some());
    if has_objects {
        let why = "is missing while objects depend on it: restore it, or empty the data folder";
        return Err(ManifestError::new(&path, why));
    }
    let keys: BTreeMap<&str, String> = new.entries().map(|(id, key)| (id, hex::encode(key))).collect();
    let text = serde_json::to_vec(&keys).map_err(|e| ManifestError::new(&path, e))?;
    write_atomically(&path, &text)?;
    read_key_ring(data)?.ok_or_else(|| ManifestError::new(&path, "was removed"))
}

/// Reads the key ring; None if the folder has none yet.
pub fn read_key_ring(data: &Path) -> Result<Option<KeyRing>, ManifestError> {
    let path = data.join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ManifestError::new(&path, error)),
    };
    let invalid = || ManifestError::new(&path, "is not a key ring");
    let keys: BTreeMap<String, String> = serde_json::from_str(&text).map_err(|_| invalid())?;
    let keys: Option<Vec<(String, Vec<u8>)>> =
        keys.into_iter().map(|(id, text)| Some((id, hex::decode(text).ok()?))).collect();
    let keys = keys.ok_or_else(invalid)?;
    KeyRing::from_data(keys.iter().map(|(id, key)| (id.as_str(), key.as_slice())))
        .map(Some)
        .map_err(|e| ManifestError::new(&path, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::keys::generate_key_ring;

    #[test]
    fn does_not_replace_a_lost_key_ring_while_objects_depend_on_it() {
        let dir = tempfile::tempdir().unwrap();
        let open = || open_key_ring(dir.path(), &generate_key_ring().unwrap());
        assert!(read_key_ring(dir.path()).unwrap().is_none());
        let first = open().unwrap();
        assert_eq!(open().unwrap().newest_key_id(), first.newest_key_id());
        fs::create_dir(dir.path().join("objects")).unwrap();
        fs::write(dir.path().join("objects/EventHook.default.a.json"), "{}").unwrap();
        fs::remove_file(dir.path().join("keys.json")).unwrap();
        assert!(open().unwrap_err().to_string().contains("restore"));
    }
}
