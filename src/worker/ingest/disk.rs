//! How full the store's disk is: above the limit nothing is taken in, so that what was accepted can still be worked off.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How often the disk is looked at, at most.
const EVERY: Duration = Duration::from_secs(1);

/// Bytes of a filesystem, as `df` counts them.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    pub used: u64,
    /// What an unprivileged process may still write.
    pub available: u64,
}

type Probe = Box<dyn Fn() -> std::io::Result<Usage> + Send + Sync>;

/// The watermark.
pub struct Disk {
    probe: Probe,
    /// In percent; 100 is no limit.
    limit: u8,
    last: Mutex<Last>,
}

#[derive(Clone, Copy, Default)]
struct Last {
    at: Option<Instant>,
    full: bool,
}

impl Disk {
    /// Watches the filesystem of a folder.
    pub fn new(folder: &Path, limit: u8) -> Self {
        let folder: PathBuf = folder.to_owned();
        Disk::with(Box::new(move || usage(&folder)), limit)
    }

    fn with(probe: Probe, limit: u8) -> Self {
        Disk { probe, limit, last: Mutex::default() }
    }

    /// All bytes of the filesystem that the process may use; an error where it cannot be asked.
    pub fn size(&self) -> std::io::Result<u64> {
        (self.probe)().map(|Usage { used, available }| used.saturating_add(available))
    }

    /// The used part of it; None where it cannot be asked.
    pub fn used(&self) -> Option<f64> {
        let Usage { used, available } = (self.probe)().ok()?;
        Some(used as f64 / (used.saturating_add(available)).max(1) as f64)
    }

    /// True above the limit. Cheap: the disk is asked once a second, by one of those who ask.
    pub fn is_full(&self) -> bool {
        if self.limit >= 100 {
            return false;
        }
        let was = {
            let mut last = self.last.lock();
            if last.at.is_some_and(|at| at.elapsed() < EVERY) {
                return last.full;
            }
            // The others go on with what is known, while the disk is asked outside of the lock.
            last.at = Some(Instant::now());
            last.full
        };
        let full = match (self.probe)() {
            Ok(Usage { used, available }) => {
                let all = u128::from(used) + u128::from(available);
                u128::from(used) * 100 > all * u128::from(self.limit)
            }
            // A disk that cannot be asked refuses nothing: where it is full, the store says so.
            Err(error) => {
                tracing::warn!(%error, "how full the disk is cannot be told");
                false
            }
        };
        if full != was {
            if full {
                tracing::error!(limit = self.limit, "the disk is above --disk-limit: events are refused");
            } else {
                tracing::info!("the disk is below --disk-limit again: events are taken");
            }
        }
        self.last.lock().full = full;
        full
    }
}

fn usage(folder: &Path) -> std::io::Result<Usage> {
    let found = rustix::fs::statvfs(folder)?;
    let used = found.f_blocks.saturating_sub(found.f_bfree);
    Ok(Usage {
        used: used.saturating_mul(found.f_frsize),
        available: found.f_bavail.saturating_mul(found.f_frsize),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn watched(limit: u8) -> (Disk, Arc<AtomicU64>, Arc<AtomicU64>) {
        let (used, asked) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (u, a) = (used.clone(), asked.clone());
        let probe = move || {
            a.fetch_add(1, Ordering::Relaxed);
            match u.load(Ordering::Relaxed) {
                u64::MAX => Err(std::io::Error::other("away")),
                used => Ok(Usage { used, available: 100 - used }),
            }
        };
        (Disk::with(Box::new(probe), limit), used, asked)
    }

    fn later(disk: &Disk) {
        disk.last.lock().at = None;
    }

    #[test]
    fn above_the_limit_it_is_full() {
        let (disk, used, asked) = watched(90);
        for (now, full) in [(0, false), (90, false), (91, true), (100, true), (50, false), (u64::MAX, false)]
        {
            used.store(now, Ordering::Relaxed);
            later(&disk);
            assert_eq!(disk.is_full(), full, "{now}");
        }
        assert_eq!(asked.load(Ordering::Relaxed), 6);
    }

    #[test]
    fn asked_once_a_second() {
        let (disk, used, asked) = watched(90);
        used.store(95, Ordering::Relaxed);
        for _ in 0..1000 {
            assert!(disk.is_full());
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_hundred_is_no_limit() {
        let (disk, used, asked) = watched(100);
        used.store(100, Ordering::Relaxed);
        assert!(!disk.is_full());
        assert_eq!(asked.load(Ordering::Relaxed), 0);
    }

    /// Unmounts what was mounted, whatever happens.
    struct Mounted(tempfile::TempDir);

    impl Drop for Mounted {
        fn drop(&mut self) {
            std::process::Command::new("umount").arg(self.0.path()).status().ok();
        }
    }

    #[test]
    fn a_real_small_filesystem() {
        let folder = tempfile::tempdir().unwrap();
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=20m", "hookstream-test"])
            .arg(folder.path())
            .output();
        if !mount.as_ref().is_ok_and(|output| output.status.success()) {
            println!("skipped: a tmpfs cannot be mounted here (needs root)");
            return;
        }
        let mounted = Mounted(folder);
        let disk = Disk::new(mounted.0.path(), 90);
        assert!(!disk.is_full());
        let file = mounted.0.path().join("fill");
        std::fs::write(&file, vec![1_u8; 19 << 20]).unwrap();
        assert!(!disk.is_full(), "looked at a moment ago");
        later(&disk);
        assert!(disk.is_full());
        std::fs::remove_file(&file).unwrap();
        later(&disk);
        assert!(!disk.is_full());
    }
}
