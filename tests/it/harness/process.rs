//! The program itself, as a process.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::{DEADLINE, eventually, watchdog};

pub struct Process {
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `hookstream` with these arguments and variables and no others: what the person who runs the tests has in
    /// `KUBECONFIG` or `HOOKSTREAM_*` must not decide a test, let alone reach a real cluster.
    pub fn spawn<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>, envs: &[(&str, &str)]) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hookstream"));
        command.args(args);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("HOOKSTREAM_") || text.starts_with("KUBE") || text == "RUST_LOG" {
                command.env_remove(&name);
            }
        }
        command.env("HOME", watchdog::run_dir()).envs(envs.iter().copied());
        let log = watchdog::unique_path("hookstream.log");
        let child = watchdog::spawn(command, &log).expect("starting hookstream");
        Process { child, log, ended: None }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has written so far, standard output and standard error as they came.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("waiting for hookstream");
            if self.ended.is_some() {
                watchdog::forget(self.child.id());
            }
        }
        self.ended
    }

    /// The first line that fits; panics at the deadline, and at once when the process ends without it.
    pub async fn wait_for_line(&mut self, fits: impl Fn(&str) -> bool, deadline: Duration) -> String {
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

    /// Waits until it has ended by itself.
    pub async fn wait(&mut self, deadline: Duration) -> ExitStatus {
        eventually(deadline, "hookstream to end", async || self.ended().ok_or_else(|| tail(&self.log())))
            .await
    }

    /// SIGTERM, as Kubernetes does, then waits for the end.
    pub async fn terminate(&mut self) -> ExitStatus {
        if self.ended().is_none() {
            kill_process(pid(&self.child), Signal::TERM).expect("SIGTERM");
        }
        self.wait(DEADLINE).await
    }

    /// SIGKILL to this one process, as a crash would be: its own children must end by themselves.
    pub fn kill9(&mut self) {
        if self.ended().is_none() {
            self.child.kill().expect("SIGKILL");
            self.ended = Some(self.child.wait().expect("reaping hookstream"));
            watchdog::forget(self.child.id());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The whole group while its leader is not reaped: after that, the number may belong to somebody else.
        if self.ended().is_none() {
            kill_process_group(pid(&self.child), Signal::KILL).ok();
            self.child.wait().ok();
            watchdog::forget(self.child.id());
        }
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
