//! The disk reserve: a preallocated file. Its space is released when the disk is full.
//!
//! Without it, a disk that another process fills leaves no space to record outcomes, and none for the sweep that would
//! free space. Outcomes may use half of the reserve; the other half is left for sweeps. While a part of the reserve is
//! released, the store refuses events, so that they do not use it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use super::super::StoreError;
use super::files::open_error;

const FILE: &str = "hookstream.reserve";
/// The reserve is this fraction (1/100) of the disk, within these bounds.
const DISK_FRACTION: u64 = 100;
const MIN_BYTES: u64 = 256 << 10;
const MAX_BYTES: u64 = 32 << 20;
/// With less space than this, opening the database may fail. Then the reserve is released first.
const OPEN_BYTES: u64 = 512 << 10;

/// The kind of write that needs the reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ReserveUse {
    /// Outcomes of attempts. They may use half of the reserve.
    Outcomes,
    /// Sweeps, which free space.
    Sweep,
}

/// The reserve of one store.
pub(super) struct DiskReserve {
    dir: PathBuf,
    size: u64,
    /// Bytes that are reserved now. None: the file system cannot reserve space.
    reserved: Mutex<Option<u64>>,
}

impl DiskReserve {
    /// Creates the reserve of a folder, or takes over the existing one. On a full disk there may be none.
    pub(super) fn open(dir: &Path) -> Result<DiskReserve, StoreError> {
        let disk = statvfs(dir).map_err(|e| open_error(dir, &e.into()))?;
        let total = disk.f_blocks.saturating_mul(disk.f_frsize);
        let size = (total / DISK_FRACTION).clamp(MIN_BYTES, MAX_BYTES);
        let reserve = DiskReserve { dir: dir.to_owned(), size, reserved: Mutex::new(Some(0)) };
        *reserve.reserved.lock() = Some(reserve.allocated_bytes().min(size));
        if reserve.available().is_some_and(|available| available < OPEN_BYTES) {
            reserve.release(ReserveUse::Sweep);
        } else {
            reserve.restore();
        }
        Ok(reserve)
    }

    fn path(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// Returns the bytes that the present file reserves. The last process may have released a part of it.
    fn allocated_bytes(&self) -> u64 {
        let Ok(file) = std::fs::metadata(self.path()) else { return 0 };
        // A copied file may be sparse, and reserves nothing then.
        let is_allocated = file.blocks().saturating_mul(512) >= file.len();
        if is_allocated { file.len() } else { 0 }
    }

    /// Returns the size of the complete reserve in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// True unless a part is released.
    pub(super) fn is_complete(&self) -> bool {
        self.reserved.lock().is_none_or(|bytes| bytes >= self.size)
    }

    /// Returns the bytes that the process may still write to the disk. None if they cannot be measured.
    pub(super) fn available(&self) -> Option<u64> {
        let disk = statvfs(&self.dir).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Releases space for this use. False: there is none left for it.
    pub(super) fn release(&self, used_by: ReserveUse) -> bool {
        let keep = match used_by {
            ReserveUse::Outcomes => self.size / 2,
            ReserveUse::Sweep => 0,
        };
        let mut reserved = self.reserved.lock();
        if reserved.is_none_or(|bytes| bytes <= keep) {
            return false;
        }
        let released = if keep == 0 {
            std::fs::remove_file(self.path())
        } else {
            OpenOptions::new().write(true).open(self.path()).and_then(|file| file.set_len(keep))
        };
        match released {
            Ok(()) => tracing::warn!(left = keep, "disk is full, disk reserve released"),
            Err(error) => tracing::warn!(%error, "release of the disk reserve failed"),
        }
        *reserved = Some(keep);
        true
    }

    /// Reserves the space again if the disk has it twice. True: the reserve is complete.
    pub(super) fn restore(&self) -> bool {
        let mut reserved = self.reserved.lock();
        let present = reserved.unwrap_or(self.size);
        if present >= self.size {
            return true;
        }
        // Twice, because the reserve must not take the last bytes of the disk from a commit.
        if self.available().is_none_or(|available| available < (self.size * 2).saturating_sub(present)) {
            return false;
        }
        match self.allocate() {
            Ok(()) => {
                *reserved = Some(self.size);
                true
            }
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOSPC | Errno::DQUOT)) => {
                *reserved = Some(0);
                drop(std::fs::remove_file(self.path()));
                false
            }
            // Such a file system must not close ingest forever.
            Err(error) => {
                tracing::warn!(%error, "disk space cannot be reserved for outcomes and sweeps");
                drop(std::fs::remove_file(self.path()));
                *reserved = None;
                true
            }
        }
    }

    fn allocate(&self) -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.create(true).write(true).truncate(false).mode(0o600).open(self.path())?;
        match fallocate(&file, FallocateFlags::empty(), 0, self.size) {
            Ok(()) => Ok(()),
            // ZFS and NFS cannot preallocate: write the bytes.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => write_zeros(&mut file, self.size),
            Err(error) => Err(error.into()),
        }
    }
}

fn write_zeros(file: &mut File, size: u64) -> std::io::Result<()> {
    let zeros = [0; 64 << 10];
    let mut left = usize::try_from(size).unwrap_or(usize::MAX);
    while let Some(part) = zeros.get(..left.min(zeros.len())).filter(|part| !part.is_empty()) {
        file.write_all(part)?;
        left -= part.len();
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_half_for_outcomes_and_the_rest_for_sweeps() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = || std::fs::metadata(dir.path().join(FILE)).map_or(0, |file| file.blocks() * 512);
        let reserve = DiskReserve::open(dir.path()).unwrap();
        let size = reserve.size();
        assert!((MIN_BYTES..=MAX_BYTES).contains(&size));
        assert!(bytes() >= size);
        assert!(reserve.restore(), "it is complete");
        assert!(reserve.release(ReserveUse::Outcomes));
        assert!((size / 2..size).contains(&bytes()), "{} of {size}", bytes());
        assert!(!reserve.release(ReserveUse::Outcomes), "the other half belongs to sweeps");
        assert_eq!(reserve.allocated_bytes(), size / 2, "the next process can release the other half");
        assert!(reserve.release(ReserveUse::Sweep));
        assert!(bytes() == 0 && !reserve.release(ReserveUse::Sweep));
        assert!(reserve.restore() && bytes() >= size);
        // The next process takes it over. A sparse copy reserves nothing, and is allocated again.
        drop(reserve);
        std::fs::remove_file(dir.path().join(FILE)).unwrap();
        File::create(dir.path().join(FILE)).unwrap().set_len(size).unwrap();
        assert_eq!(bytes(), 0);
        DiskReserve::open(dir.path()).unwrap();
        assert!(bytes() >= size);
    }

    #[test]
    fn zeros_fill_the_whole_file() {
        let mut file = tempfile::tempfile().unwrap();
        write_zeros(&mut file, (64 << 10) * 3 + 5).unwrap();
        assert_eq!(file.metadata().unwrap().len(), (64 << 10) * 3 + 5);
    }
}
