//! What a process used: CPU time, bytes written to the disk, system calls.

use std::path::Path;
use std::process::{Child, Command, Stdio};

/// What a process has used since it started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub cpu_us: f64,
    /// Bytes of pages that it made the kernel write (`write_bytes` of `/proc/PID/io`).
    pub written: f64,
}

impl Usage {
    /// Reads the usage of a process.
    pub fn of(pid: u32) -> Usage {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("/proc/PID/stat");
        // Count the fields after the name, which may contain spaces. utime and stime are fields 14 and 15.
        let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
        let ticks: f64 =
            fields[11].parse::<f64>().expect("utime") + fields[12].parse::<f64>().expect("stime");
        let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        Usage {
            // USER_HZ is 100 on all common Linux builds: a tick is 10 ms.
            cpu_us: ticks * 10_000.0,
            written: written.and_then(|text| text.parse().ok()).unwrap_or(f64::NAN),
        }
    }

    /// Reads the usage of this process, which generates the load and receives the deliveries.
    pub fn own() -> Usage {
        Usage::of(std::process::id())
    }

    pub fn since(self, before: Usage) -> Usage {
        Usage { cpu_us: self.cpu_us - before.cpu_us, written: self.written - before.written }
    }
}

impl std::iter::Sum for Usage {
    fn sum<I: Iterator<Item = Usage>>(usages: I) -> Usage {
        usages.fold(Usage::default(), |sum, usage| Usage {
            cpu_us: sum.cpu_us + usage.cpu_us,
            written: sum.written + usage.written,
        })
    }
}

/// Counts the system calls of a process with `perf stat`, which may count the tracepoint `raw_syscalls:sys_enter` as root.
pub struct SyscallCounter {
    perf: Child,
    output: tempfile::NamedTempFile,
}

impl SyscallCounter {
    /// Starts to count the system calls of the threads whose names start with `threads`. None: there is no such thread or
    /// no perf.
    pub fn start(pid: u32, threads: &str) -> Option<SyscallCounter> {
        let output = tempfile::NamedTempFile::new().ok()?;
        let tids = thread_ids(pid, threads);
        if tids.is_empty() {
            return None;
        }
        let mut command = Command::new("perf");
        command.args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-t", &tids.join(","), "-o"]);
        command.arg(output.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let perf = command.spawn().ok()?;
        // perf opens its counters shortly after it starts.
        std::thread::sleep(std::time::Duration::from_millis(300));
        Some(SyscallCounter { perf, output })
    }

    /// Stops counting and returns the number of system calls. None: perf was not allowed to count.
    pub fn stop(mut self) -> Option<f64> {
        use rustix::process::{Pid, Signal, kill_process};
        kill_process(Pid::from_raw(i32::try_from(self.perf.id()).ok()?)?, Signal::INT).ok();
        self.perf.wait().ok();
        let text = std::fs::read_to_string(self.output.path()).ok()?;
        text.lines().find(|line| line.contains("sys_enter"))?.split(',').next()?.parse().ok()
    }
}

fn thread_ids(pid: u32, threads: &str) -> Vec<String> {
    let tasks =
        std::fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task")).into_iter().flatten();
    let tasks = tasks.filter_map(|task| task.ok().map(|task| task.path()));
    let named = tasks.filter(|task| {
        std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with(threads))
    });
    named.filter_map(|task| Some(task.file_name()?.to_str()?.to_owned())).collect()
}
