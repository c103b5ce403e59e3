//! Finds the memory limit of the process, and the default budget that follows from it.

use std::path::{Path, PathBuf};

/// The default budget never exceeds this: more would keep more deliveries in memory without sending them sooner.
const MAX_DEFAULT: u64 = 1 << 30;

/// The mount point of the cgroup hierarchies.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The memory that the process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    pub bytes: u64,
    /// True if a cgroup sets it; otherwise it is the memory of the machine.
    pub is_of_cgroup: bool,
}

/// Returns the memory limit: the smallest of the cgroups that contain the process, otherwise the physical memory. None:
/// the system does not report it.
pub fn memory_limit() -> Option<MemoryLimit> {
    find_limit(|path| std::fs::read_to_string(path).ok())
}

/// Returns the default budget: half of the limit without the sandbox processes. The other half is for the page cache of
/// the store, code, objects and connections. At least `minimum`, so that a small limit does not prevent a start.
pub fn default_budget(limit: u64, sandbox: u64, minimum: u64) -> u64 {
    (limit.saturating_sub(sandbox) / 2).min(MAX_DEFAULT).max(minimum)
}

fn find_limit(read: impl Fn(&Path) -> Option<String>) -> Option<MemoryLimit> {
    let physical = read(Path::new("/proc/meminfo")).and_then(|text| parse_physical(&text));
    let cgroup = cgroup_files(&read(Path::new("/proc/self/cgroup")).unwrap_or_default())
        .into_iter()
        // "max" and other text: no limit.
        .filter_map(|file| read(&file)?.trim().parse::<u64>().ok())
        .min()
        // Without a limit, version 1 reports a number near 2^63.
        .filter(|limit| physical.is_none_or(|physical| *limit < physical) && *limit < 1 << 60);
    match (cgroup, physical) {
        (Some(bytes), _) => Some(MemoryLimit { bytes, is_of_cgroup: true }),
        (None, Some(bytes)) => Some(MemoryLimit { bytes, is_of_cgroup: false }),
        (None, None) => None,
    }
}

/// Returns the files with the limits of the process's cgroups and of all cgroups above them, from the text of
/// `/proc/self/cgroup`. In a container the listed path may not be mounted; the limit is then in the root of the mount.
fn cgroup_files(text: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let (root, file) = match controllers {
            "" => (PathBuf::from(CGROUPS), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (Path::new(CGROUPS).join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        // A path outside of the namespace of the process starts with "/..": only the root is visible.
        let inner = Path::new(path.trim_start_matches('/'));
        let is_visible = inner.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        let inner = if is_visible { inner } else { Path::new("") };
        files.extend(inner.ancestors().map(|ancestor| root.join(ancestor).join(file)));
    }
    files
}

/// Parses the physical memory in `/proc/meminfo`.
fn parse_physical(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const MEMINFO: &str = "MemTotal:       8388608 kB\nMemFree:  1 kB\n";

    fn limit_of(files: &[(&str, &str)]) -> Option<MemoryLimit> {
        let files: HashMap<&str, &str> = files.iter().copied().collect();
        find_limit(|path| files.get(path.to_str()?).map(ToString::to_string))
    }

    #[test]
    fn finds_the_limit_of_the_cgroup() {
        let v2 = "0::/kubepods/pod1/worker\n";
        let v1 = "12:cpu,cpuacct:/a\n4:memory:/docker/abc\n0::/\n";
        for (files, want) in [
            // Version 2: the smallest of the process's own cgroup and those above it.
            (
                vec![
                    ("/proc/self/cgroup", v2),
                    ("/sys/fs/cgroup/kubepods/pod1/worker/memory.max", "1073741824\n"),
                ],
                1 << 30,
            ),
            (
                vec![
                    ("/proc/self/cgroup", v2),
                    ("/sys/fs/cgroup/kubepods/pod1/worker/memory.max", "max\n"),
                    ("/sys/fs/cgroup/kubepods/pod1/memory.max", "536870912\n"),
                    ("/sys/fs/cgroup/kubepods/memory.max", "2147483648\n"),
                ],
                512 << 20,
            ),
            // A container with its own cgroup namespace.
            (vec![("/proc/self/cgroup", "0::/\n"), ("/sys/fs/cgroup/memory.max", "268435456\n")], 256 << 20),
            (
                vec![("/proc/self/cgroup", "0::/../other\n"), ("/sys/fs/cgroup/memory.max", "268435456\n")],
                256 << 20,
            ),
            // Version 1, whose path is mounted or not.
            (
                vec![
                    ("/proc/self/cgroup", v1),
                    ("/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "1048576\n"),
                ],
                1 << 20,
            ),
            (
                vec![("/proc/self/cgroup", v1), ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "2097152\n")],
                2 << 20,
            ),
        ] {
            let mut all = vec![("/proc/meminfo", MEMINFO)];
            all.extend(files);
            assert_eq!(limit_of(&all), Some(MemoryLimit { bytes: want, is_of_cgroup: true }), "{all:?}");
        }
    }

    #[test]
    fn falls_back_to_the_physical_memory() {
        let physical = Some(MemoryLimit { bytes: 8 << 30, is_of_cgroup: false });
        for files in [
            vec![],
            vec![("/proc/self/cgroup", "0::/\n"), ("/sys/fs/cgroup/memory.max", "max\n")],
            vec![
                ("/proc/self/cgroup", "4:memory:/\n"),
                ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ],
            vec![("/proc/self/cgroup", "no cgroup"), ("/sys/fs/cgroup/memory.max", "1")],
        ] {
            let mut all = vec![("/proc/meminfo", MEMINFO)];
            all.extend(files);
            assert_eq!(limit_of(&all), physical, "{all:?}");
        }
        assert_eq!(limit_of(&[]), None);
        assert_eq!(limit_of(&[("/proc/meminfo", "MemTotal: many kB\n")]), None);
    }

    #[test]
    fn default_is_half_without_the_sandbox() {
        let mib = |n: u64| n << 20;
        for (limit, sandbox, want) in [
            (mib(1024), mib(128), mib(448)),
            (mib(1024), mib(1024), mib(95)),
            (mib(64), 0, mib(95)),
            (mib(65_536), mib(4096), mib(1024)),
        ] {
            assert_eq!(default_budget(limit, sandbox, mib(95)), want, "{limit} {sandbox}");
        }
    }
}
