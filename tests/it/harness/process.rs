//! `hookstream` as a process, or another program that must not outlive its test.

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};

use super::controlplane::ADMIN_KUBECONFIG;
use super::{DEADLINE, eventually, watchdog};

pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `hookstream` with exactly these arguments and variables. `KUBECONFIG` and `HOOKSTREAM_*` of the user's own
    /// environment must not influence a test, and never lead it to a real cluster.
    pub fn spawn<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>, envs: &[(&str, &str)]) -> Process {
        Process::start(Process::command(args, envs))
    }

    /// Returns the command that `spawn` starts. `HOOKSTREAM_BIN` names another build of the program, such as a release.
    pub fn command<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>, envs: &[(&str, &str)]) -> Command {
        let program = std::env::var_os("HOOKSTREAM_BIN");
        let mut command = Command::new(program.unwrap_or_else(|| env!("CARGO_BIN_EXE_hookstream").into()));
        command.args(args);
        // With all rights, a test of the operator would not notice a right that the chart does not grant.
        let is_role = command
            .get_args()
            .next()
            .is_some_and(|role| role == "run" || role == "controller" || role == "worker");
        let all_rights = envs.iter().any(|(_, value)| value.ends_with(ADMIN_KUBECONFIG));
        assert!(!(is_role && all_rights), "the operator runs under its own accounts: see `Accounts`");
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("HOOKSTREAM_") || text.starts_with("KUBE") || text == "RUST_LOG" {
                command.env_remove(&name);
            }
        }
        // Profiles and kubeconfigs of the user must not either.
        command.env_remove("XDG_CONFIG_HOME");
        command.env("HOME", watchdog::run_dir()).envs(envs.iter().copied());
        command
    }

    /// Starts any program, for example one that wraps `hookstream`.
    pub fn start(command: Command) -> Process {
        let log = watchdog::unique_path("process.log");
        let child = watchdog::spawn(command, &log).expect("starting a process");
        Process { child, log }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns its standard output and standard error so far, interleaved.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Returns the exit status if the process has ended.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.status(WaitIdOptions::NOHANG)
    }

    /// Queries the status without reaping the process. While the zombie exists, its process id is not reused, so that its
    /// process group can still be killed with the children that it left.
    fn status(&self, options: WaitIdOptions) -> Option<ExitStatus> {
        let options = options | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(pid(&self.child)), options).expect("waiting for a process")?;
        // In the encoding of waitpid: the exit code in the second byte, or the signal in the first.
        let code = status.exit_status().map(|code| code << 8);
        Some(ExitStatus::from_raw(code.or(status.terminating_signal()).unwrap_or_default()))
    }

    /// Waits for the first line that fits. Panics at the deadline, or at once when the process ends without that line.
    pub async fn wait_for_line(&self, fits: impl Fn(&str) -> bool, deadline: Duration) -> String {
        eventually(deadline, "a line in the log", async || {
            let ended = self.ended();
            let log = self.log();
            if let Some(line) = log.lines().find(|line| fits(line)) {
                return Ok(line.to_owned());
            }
            assert!(ended.is_none(), "hookstream ended ({ended:?}) before that line:\n{log}");
            Err(tail(&log))
        })
        .await
    }

    /// Waits until the process ends by itself.
    pub async fn wait(&self, deadline: Duration) -> ExitStatus {
        eventually(deadline, "hookstream to end", async || self.ended().ok_or_else(|| tail(&self.log())))
            .await
    }

    /// Sends SIGTERM, as Kubernetes does, and waits for the end.
    pub async fn terminate(&self) -> ExitStatus {
        if self.ended().is_none() {
            kill_process(pid(&self.child), Signal::TERM).expect("SIGTERM");
        }
        self.wait(DEADLINE).await
    }

    /// Sends SIGKILL to this one process, as a crash would; its children must end by themselves.
    pub fn kill9(&self) {
        if self.ended().is_none() {
            kill_process(pid(&self.child), Signal::KILL).expect("SIGKILL");
            self.status(WaitIdOptions::empty());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Kills the whole group even if the process has ended: children that it left would outlive the test run.
        kill_process_group(pid(&self.child), Signal::KILL).ok();
        self.child.wait().ok();
        watchdog::forget(self.child.id());
        if std::thread::panicking() {
            eprintln!("--- log of hookstream {} ---\n{}\n---", self.child.id(), tail(&self.log()));
        }
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
