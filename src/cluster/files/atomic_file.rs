//! Files that are replaced atomically.

use std::fs;
use std::io::Write;
use std::path::Path;

use super::documents::ManifestError;

/// Writes a file completely or not at all: after a crash the old content is intact. Only the owner can read it.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), ManifestError> {
    let fail = |e: std::io::Error| ManifestError::new(path, e);
    let folder = path.parent().unwrap_or(Path::new("."));
    let temporary = path.with_extension("tmp");
    let mut file = create_private(&temporary).map_err(fail)?;
    file.write_all(bytes).map_err(fail)?;
    file.sync_all().map_err(fail)?;
    fs::rename(&temporary, path).map_err(fail)?;
    fs::File::open(folder).and_then(|dir| dir.sync_all()).map_err(fail)
}

/// Creates a file that only its owner can read.
fn create_private(path: &Path) -> std::io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}
