//! The random id of a standalone installation: `installation-id` in the data folder.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::atomic_file::write_atomically;
use super::documents::ManifestError;
use crate::core::relay_mark::is_installation_id;

const FILE: &str = "installation-id";

/// Reads the id; None if the folder has none yet.
pub fn read_installation_id(data: &Path) -> Result<Option<String>, ManifestError> {
    let path = data.join(FILE);
    match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ManifestError::new(&path, error)),
        Ok(text) if is_installation_id(text.trim()) => Ok(Some(text.trim().to_owned())),
        Ok(_) => Err(ManifestError::new(&path, "is not an id: restore it, or delete it to get a new one")),
    }
}

/// Reads the id; stores `new` at the first start.
pub fn open_installation_id(data: &Path, new: &str) -> Result<String, ManifestError> {
    if let Some(id) = read_installation_id(data)? {
        return Ok(id);
    }
    write_atomically(&data.join(FILE), format!("{new}\n").as_bytes())?;
    Ok(new.to_owned())
}

/// Makes a random id.
pub fn generate_installation_id() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_a_random_id() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert_eq!(read_installation_id(one.path()).unwrap(), None);
        let open = |data: &Path| open_installation_id(data, &generate_installation_id().unwrap()).unwrap();
        let id = open(one.path());
        assert_eq!(open(one.path()), id);
        assert_eq!(read_installation_id(one.path()).unwrap(), Some(id.clone()));
        assert_ne!(open(other.path()), id);
        fs::write(one.path().join(FILE), "a b").unwrap();
        assert!(read_installation_id(one.path()).is_err(), "never replaced silently");
    }
}
