//! Takes from the process all that a script has no use for: memory, CPU time, files, processes, privileges, and every
//! system call but those of an interpreter that reads one pipe and writes another.

use std::time::Duration;

/// CPU time of a child in all; it ends by itself when half of it is used.
pub const CPU: Duration = Duration::from_secs(600);

#[cfg(not(target_os = "linux"))]
pub fn confine(_memory: u64) -> Result<(), String> {
    Err("only Linux has what it takes (seccomp)".into())
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

    /// What the process needs beside Lua's own memory: messages and what they are made of.
    const BESIDE_LUA: u64 = 128 << 20;

    pub fn cpu_used() -> Duration {
        let used = clock_gettime(ClockId::ProcessCPUTime);
        Duration::new(used.tv_sec.try_into().unwrap_or_default(), used.tv_nsec.try_into().unwrap_or_default())
    }

    /// Confines this process for good, as far as the kernel lets it. `memory`: Lua's, in bytes. The error says what it
    /// refuses.
    pub fn confine(memory: u64) -> Result<(), String> {
        let mut refused = Vec::new();
        let mut note = |what: &str, outcome: rustix::io::Result<()>| {
            refused.extend(outcome.err().map(|error| format!("{what}: {error}")));
        };
        // Where the machine runs out of memory this process goes, not the worker. A kernel may refuse; no wall falls then.
        std::fs::write("/proc/self/oom_score_adj", "1000").ok();
        // A script that never ends must not outlive the worker.
        note("parent-death signal", set_parent_process_death_signal(Some(Signal::KILL)));
        let limits = [
            (Resource::As, address_space() + memory + BESIDE_LUA, "limit of memory"),
            (Resource::Cpu, super::CPU.as_secs(), "limit of CPU time"),
            (Resource::Core, 0, "limit of core dumps"),
            (Resource::Fsize, 0, "limit of files"),
            (Resource::Nproc, 0, "limit of processes"),
            (Resource::Nofile, 0, "limit of descriptors"),
        ];
        for (resource, limit, what) in limits {
            // A tighter one of whoever started the worker stays: raising it would be refused.
            let limit = getrlimit(resource).maximum.map_or(limit, |hard| hard.min(limit));
            note(what, setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) }));
        }
        note("no_new_privs", set_no_new_privs(true));
        let filtered = filter()
            .map_err(|error| error.to_string())
            .and_then(|program| seccompiler::apply_filter(&program).map_err(|error| error.to_string()));
        refused.extend(filtered.err().map(|error| format!("seccomp: {error}")));
        if refused.is_empty() { Ok(()) } else { Err(refused.join(", ")) }
    }

    /// What is mapped already, most of it the program itself.
    fn address_space() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
        let kib = line.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok());
        // Where it cannot be read: as if the program were large.
        kib.map_or(1 << 30, |kib: u64| kib << 10)
    }

    /// The system calls that are left. Any other answers EPERM, which libraries take better than a signal.
    fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
        let argument = |index, operator, value| {
            SeccompRule::new(vec![SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)?])
        };
        let is = |index, value| argument(index, SeccompCmpOp::Eq, value);
        // Memory that can be run would make a hole in the interpreter a way to any code.
        let not_executable = || argument(2, SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64), 0);
        let own = u64::from(std::process::id());
        let mut rules = vec![
            (libc::SYS_read, vec![is(0, 0)?]),
            (libc::SYS_write, vec![is(0, 1)?, is(0, 2)?]),
            (libc::SYS_mmap, vec![not_executable()?]),
            (libc::SYS_mprotect, vec![not_executable()?]),
            // abort() signals itself; nobody else.
            (libc::SYS_tgkill, vec![is(0, own)?]),
        ];
        let free = [
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
        rules.extend(free.map(|call| (call, Vec::new())));
        SeccompFilter::new(
            rules.into_iter().collect(),
            SeccompAction::Errno(libc::EPERM.unsigned_abs()),
            SeccompAction::Allow,
            std::env::consts::ARCH.try_into()?,
        )?
        .try_into()
    }
}
