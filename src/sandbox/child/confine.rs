//! Confines the process. Limits memory, CPU time, files, processes and privileges. Allows only the system calls that an
//! interpreter needs to read from one pipe and write to another.

use std::time::Duration;

/// The limit of a child's total CPU time. It exits by itself after half of it.
pub const CPU: Duration = Duration::from_secs(600);

#[cfg(not(target_os = "linux"))]
pub fn confine(_memory: u64) -> Result<(), String> {
    Err("the sandbox needs seccomp, which only Linux has".into())
}

#[cfg(not(target_os = "linux"))]
pub fn cpu_used() -> Duration {
    Duration::ZERO
}

#[cfg(target_os = "linux")]
pub use linux::{confine, cpu_used};

#[cfg(target_os = "linux")]
mod linux {
    use std::time::Duration;

    use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit};
    use rustix::thread::set_no_new_privs;
    use rustix::time::{ClockId, clock_gettime};
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule,
    };

    /// Bytes that the process needs in addition to Lua's memory, for messages.
    const BESIDE_LUA: u64 = 128 << 20;

    pub fn cpu_used() -> Duration {
        let used = clock_gettime(ClockId::ProcessCPUTime);
        Duration::new(used.tv_sec.try_into().unwrap_or_default(), used.tv_nsec.try_into().unwrap_or_default())
    }

    /// Confines this process permanently, as far as the kernel allows. `memory`: the limit of Lua's memory in bytes.
    /// The error lists the measures that the kernel refused.
    pub fn confine(memory: u64) -> Result<(), String> {
        let mut refused = Vec::new();
        let mut record = |what: &str, outcome: rustix::io::Result<()>| {
            refused.extend(outcome.err().map(|error| format!("{what}: {error}")));
        };
        // If the machine runs out of memory, the kernel should kill this process and not the worker. Optional, because
        // a failure does not weaken the confinement.
        std::fs::write("/proc/self/oom_score_adj", "1000").ok();
        // A script that never ends must not outlive the worker.
        record("parent-death signal", set_parent_process_death_signal(Some(Signal::KILL)));
        let limits = [
            (Resource::As, address_space() + memory + BESIDE_LUA, "limit of memory"),
            (Resource::Cpu, super::CPU.as_secs(), "limit of CPU time"),
            (Resource::Core, 0, "limit of core dumps"),
            (Resource::Fsize, 0, "limit of files"),
            (Resource::Nproc, 0, "limit of processes"),
            (Resource::Nofile, 0, "limit of descriptors"),
        ];
        for (resource, limit, what) in limits {
            // Keep a lower inherited limit, because the kernel would refuse to raise it.
            let limit = getrlimit(resource).maximum.map_or(limit, |hard| hard.min(limit));
            record(what, setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) }));
        }
        record("no_new_privs", set_no_new_privs(true));
        let filtered = filter()
            .map_err(|error| error.to_string())
            .and_then(|program| seccompiler::apply_filter(&program).map_err(|error| error.to_string()));
        refused.extend(filtered.err().map(|error| format!("seccomp: {error}")));
        if refused.is_empty() { Ok(()) } else { Err(refused.join(", ")) }
    }

    /// Returns the bytes that are mapped already, mostly the program itself.
    fn address_space() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
        let kib = line.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok());
        // If it cannot be read, assume a large program.
        kib.map_or(1 << 30, |kib: u64| kib << 10)
    }

    /// Returns the filter of allowed system calls. Others fail with EPERM, which libraries handle better than a signal.
    fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
        let argument = |index, operator, value| {
            SeccompRule::new(vec![SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)?])
        };
        let is = |index, value| argument(index, SeccompCmpOp::Eq, value);
        // Executable memory would turn a bug of the interpreter into execution of any code.
        let not_executable = || argument(2, SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64), 0);
        let own = u64::from(std::process::id());
        let mut rules = vec![
            (libc::SYS_read, vec![is(0, 0)?]),
            (libc::SYS_write, vec![is(0, 1)?, is(0, 2)?]),
            (libc::SYS_mmap, vec![not_executable()?]),
            (libc::SYS_mprotect, vec![not_executable()?]),
            // abort() signals its own process; signals to others are refused.
            (libc::SYS_tgkill, vec![is(0, own)?]),
        ];
        let unconditional = [
            libc::SYS_munmap,
            libc::SYS_mremap,
            libc::SYS_brk,
            libc::SYS_madvise,
            libc::SYS_futex,
            libc::SYS_getrandom,
            libc::SYS_clock_gettime,
            libc::SYS_gettimeofday,
            libc::SYS_getpid,
            libc::SYS_gettid,
            libc::SYS_rt_sigaction,
            libc::SYS_rt_sigprocmask,
            libc::SYS_rt_sigreturn,
            libc::SYS_sigaltstack,
            libc::SYS_restart_syscall,
            libc::SYS_sched_yield,
            libc::SYS_exit,
            libc::SYS_exit_group,
        ];
        rules.extend(unconditional.map(|call| (call, Vec::new())));
        SeccompFilter::new(
            rules.into_iter().collect(),
            SeccompAction::Errno(libc::EPERM.unsigned_abs()),
            SeccompAction::Allow,
            std::env::consts::ARCH.try_into()?,
        )?
        .try_into()
    }
}
