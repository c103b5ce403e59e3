//! Measures the store's disk. Above the limit the worker refuses events, so that it can still process accepted ones.
//!
//! A store does not give every freed page back to the file system. Its free pages count as available, otherwise a store
//! that was full once would refuse events although it is empty. Pages in its log that the database file has no space for
//! yet count as used.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::worker::store::StoreSpace;

/// The shortest pause between two measurements.
const MEASURE_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes of a filesystem, counted as `df` does.
#[derive(Clone, Copy, Debug)]
pub struct DiskUsage {
    pub used: u64,
    /// Bytes that an unprivileged process may still write.
    pub available: u64,
}

type Probe = Box<dyn Fn() -> std::io::Result<DiskUsage> + Send + Sync>;

/// Why the worker refuses all events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
pub enum IngestClosure {
    /// Disk usage is above the limit.
    DiskLimit,
    /// The disk is full, or the store uses the disk reserve.
    Full,
}

impl IngestClosure {
    /// Returns the description, for people.
    pub fn description(self) -> &'static str {
        match self {
            IngestClosure::DiskLimit => "disk usage is above --disk-limit",
            IngestClosure::Full => "the disk is full",
        }
    }
}

/// The store's disk and the limit above which events are refused.
pub struct Disk {
    probe: Probe,
    /// The store's latest measurement of its files.
    store: Mutex<StoreSpace>,
    /// The limit in percent of the disk; 100: no limit.
    limit: u8,
    last: Mutex<LastMeasurement>,
}

#[derive(Clone, Copy, Default)]
struct LastMeasurement {
    at: Option<Instant>,
    is_full: bool,
}

impl Disk {
    /// Measures the filesystem of a folder.
    pub fn new(folder: &Path, limit: u8) -> Self {
        let folder: PathBuf = folder.to_owned();
        Disk::with_probe(Box::new(move || measure(&folder)), limit)
    }

    /// A disk of this planned size in bytes whose use is unknown, so that it never rejects events.
    pub fn unlimited(size: u64) -> Self {
        Disk::with_probe(Box::new(move || Ok(DiskUsage { used: 0, available: size })), 100)
    }

    fn with_probe(probe: Probe, limit: u8) -> Self {
        Disk { probe, store: Mutex::default(), limit, last: Mutex::default() }
    }

    /// Returns the size of the filesystem, without the part reserved for root.
    pub fn size(&self) -> std::io::Result<u64> {
        (self.probe)().map(|DiskUsage { used, available }| used.saturating_add(available))
    }

    /// Returns the used part, from 0 to 1, without the store's free pages. None if it cannot be measured.
    pub fn used(&self) -> Option<f64> {
        let DiskUsage { used, available } = self.usage().ok()?;
        Some(used as f64 / (used.saturating_add(available)).max(1) as f64)
    }

    /// Sets the store's measurement of its files.
    pub fn set_store_space(&self, space: StoreSpace) {
        *self.store.lock() = space;
    }

    /// Returns why events are refused now.
    pub fn closure(&self) -> Option<IngestClosure> {
        if self.store.lock().is_disk_full {
            return Some(IngestClosure::Full);
        }
        self.is_full().then_some(IngestClosure::DiskLimit)
    }

    /// Measures the disk as the store can use it.
    fn usage(&self) -> std::io::Result<DiskUsage> {
        let DiskUsage { used, available } = (self.probe)()?;
        let StoreSpace { free_bytes, growth_bytes, .. } = *self.store.lock();
        let all = used.saturating_add(available);
        let used = used.saturating_add(growth_bytes).saturating_sub(free_bytes).min(all);
        Ok(DiskUsage { used, available: all - used })
    }

    /// True if disk usage is above the limit. Cheap: at most one caller a second measures the disk.
    pub fn is_full(&self) -> bool {
        if self.limit >= 100 {
            return false;
        }
        let was_full = {
            let mut last = self.last.lock();
            if last.at.is_some_and(|at| at.elapsed() < MEASURE_INTERVAL) {
                return last.is_full;
            }
            // Measure without the lock, so that concurrent callers use the last result.
            last.at = Some(Instant::now());
            last.is_full
        };
        let is_full = match self.usage() {
            Ok(DiskUsage { used, available }) => {
                let all = u128::from(used) + u128::from(available);
                u128::from(used) * 100 > all * u128::from(self.limit)
            }
            // A failed measurement counts as not full. If the disk is full, the store's writes fail.
            Err(error) => {
                tracing::warn!(%error, "measurement of disk usage failed");
                false
            }
        };
        if is_full != was_full {
            if is_full {
                tracing::error!(limit = self.limit, "disk usage is above --disk-limit, events are refused");
            } else {
                tracing::info!("disk usage is below --disk-limit again, events are accepted");
            }
        }
        self.last.lock().is_full = is_full;
        is_full
    }
}

fn measure(folder: &Path) -> std::io::Result<DiskUsage> {
    let found = rustix::fs::statvfs(folder)?;
    let used = found.f_blocks.saturating_sub(found.f_bfree);
    Ok(DiskUsage {
        used: used.saturating_mul(found.f_frsize),
        available: found.f_bavail.saturating_mul(found.f_frsize),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn disk_with_usage(limit: u8) -> (Disk, Arc<AtomicU64>, Arc<AtomicU64>) {
        let (used, measured) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (u, a) = (used.clone(), measured.clone());
        let probe = move || {
            a.fetch_add(1, Ordering::Relaxed);
            match u.load(Ordering::Relaxed) {
                u64::MAX => Err(std::io::Error::other("away")),
                used => Ok(DiskUsage { used, available: 100 - used }),
            }
        };
        (Disk::with_probe(Box::new(probe), limit), used, measured)
    }

    fn expire_measurement(disk: &Disk) {
        disk.last.lock().at = None;
    }

    #[test]
    fn is_full_above_the_limit() {
        let (disk, used, measured) = disk_with_usage(90);
        for (now, full) in [(0, false), (90, false), (91, true), (100, true), (50, false), (u64::MAX, false)]
        {
            used.store(now, Ordering::Relaxed);
            expire_measurement(&disk);
            assert_eq!(disk.is_full(), full, "{now}");
        }
        assert_eq!(measured.load(Ordering::Relaxed), 6);
    }

    #[test]
    fn free_pages_of_the_store_are_available_and_its_growth_is_used() {
        let (disk, used, _) = disk_with_usage(90);
        used.store(99, Ordering::Relaxed);
        for (free_bytes, growth_bytes, is_disk_full, want) in [
            (0, 0, false, Some(IngestClosure::DiskLimit)),
            (8, 0, false, Some(IngestClosure::DiskLimit)),
            (9, 0, false, None),
            (9, 1, false, Some(IngestClosure::DiskLimit)),
            (10, 1, false, None),
            (99, 500, false, Some(IngestClosure::DiskLimit)),
            (99, 0, true, Some(IngestClosure::Full)),
        ] {
            disk.set_store_space(StoreSpace { free_bytes, growth_bytes, is_disk_full });
            expire_measurement(&disk);
            assert_eq!(disk.closure(), want, "{free_bytes} {growth_bytes}");
        }
        disk.set_store_space(StoreSpace { free_bytes: 49, ..StoreSpace::default() });
        assert_eq!(disk.used(), Some(0.5));
    }

    #[test]
    fn measures_once_a_second() {
        let (disk, used, measured) = disk_with_usage(90);
        used.store(95, Ordering::Relaxed);
        for _ in 0..1000 {
            assert!(disk.is_full());
        }
        assert_eq!(measured.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_limit_of_100_percent_is_no_limit() {
        let (disk, used, measured) = disk_with_usage(100);
        used.store(100, Ordering::Relaxed);
        assert!(!disk.is_full());
        assert_eq!(measured.load(Ordering::Relaxed), 0);
    }

    /// Unmounts the filesystem on drop.
    struct Mounted(tempfile::TempDir);

    impl Drop for Mounted {
        fn drop(&mut self) {
            std::process::Command::new("umount").arg(self.0.path()).status().ok();
        }
    }

    #[test]
    #[ignore = "mounts a tmpfs: make test runs it where user namespaces are allowed"]
    fn small_filesystem_fills_and_empties_needs_mount() {
        let folder = tempfile::tempdir().unwrap();
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=20m", "hookstream-test"])
            .arg(folder.path())
            .output();
        assert!(mount.as_ref().is_ok_and(|output| output.status.success()), "{mount:?}");
        let mounted = Mounted(folder);
        let disk = Disk::new(mounted.0.path(), 90);
        assert!(!disk.is_full());
        let file = mounted.0.path().join("fill");
        std::fs::write(&file, vec![1_u8; 19 << 20]).unwrap();
        assert!(!disk.is_full(), "measured a moment ago");
        expire_measurement(&disk);
        assert!(disk.is_full());
        std::fs::remove_file(&file).unwrap();
        expire_measurement(&disk);
        assert!(!disk.is_full());
    }
}
