//! Opens the data folder of standalone for a command that runs beside it.

use std::path::{Path, PathBuf};

use super::failure::{Failure, OrFail};
use crate::cluster::files::{FileCluster, FileClusterOptions};

/// Opens the manifests with the data folder of the standalone that applies them.
pub fn open_data_folder(manifests: &[PathBuf], data: &Path) -> Result<FileCluster, Failure> {
    // Opening a folder that standalone never used would create keys in it.
    if !data.join("keys.json").is_file() {
        return Err(Failure::new(format!(
            "--data {}: no keys.json in it: give the data folder of standalone",
            data.display()
        )));
    }
    let options =
        FileClusterOptions { manifests: manifests.to_vec(), data: data.into(), prune: false, token: None };
    FileCluster::open(options).or_fail(|| "--data".into())
}
