//! Ends all processes and removes all folders of a test run, even when the test binary is killed with SIGKILL.
//!
//! A child `sh` reads a pipe whose only writing end is in this process. When this process ends, the pipe closes, and the
//! child kills the registered processes. (PDEATHSIG would fire when the spawning thread ends, which is every test.)

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};

/// Input lines: `PID` registers a process to kill with its group, `forget PID` removes one that was reaped (its number may
/// be reused), `rm DIR` registers a folder. Signals are ignored, so that Ctrl-C or a closed terminal cannot end it early.
const SCRIPT: &str = r#"
trap '' HUP INT QUIT TERM
cd /
pids=' '
while IFS= read -r line; do
  case $line in
    'rm '*) set -- "$@" "${line#rm }" ;;
    'forget '*) p=${line#forget }; case $pids in *" $p "*) pids="${pids%% $p *} ${pids#* $p }" ;; esac ;;
    *) pids="$pids$line " ;;
  esac
done
for p in $pids; do kill -9 "-$p" "$p"; done
# A killed process may write until it has ended, so the removal is repeated.
for _ in 1 2 3 4 5 6 7 8 9 10; do rm -rf -- "$@" && break; sleep 1; done
"#;

/// Outlives this process, which does not wait for it.
static WATCHDOG: LazyLock<Mutex<Child>> = LazyLock::new(|| {
    // In its own process group, so that a signal to the test run's group does not reach it. Without output, so that
    // `cargo test | tee` does not wait for it. Rust opens the pipe with CLOEXEC: no child inherits the writing end.
    let child = Command::new("sh")
        .args(["-c", SCRIPT, "watchdog"])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starting the watchdog");
    Mutex::new(child)
});

/// Writes a line of input to the watchdog.
fn send(line: &str) {
    let mut watchdog = WATCHDOG.lock().unwrap_or_else(|e| e.into_inner());
    let pipe = watchdog.stdin.as_mut().expect("its pipe");
    pipe.write_all(format!("{line}\n").as_bytes()).expect("the watchdog is gone");
}

/// Returns the folder of this test run. `HOOKSTREAM_TEST_KEEP=1` keeps it, so that its logs can be read.
pub fn run_dir() -> &'static Path {
    static DIR: LazyLock<PathBuf> = LazyLock::new(|| {
        let dir = tempfile::Builder::new().prefix("hookstream-it-").tempdir().expect("a folder").keep();
        if std::env::var_os("HOOKSTREAM_TEST_KEEP").is_some() {
            eprintln!("kept: {}", dir.display());
        } else {
            send(&format!("rm {}", dir.display()));
        }
        dir
    });
    &DIR
}

/// Returns a unique path in the run's folder.
pub fn unique_path(name: &str) -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    run_dir().join(format!("{}-{name}", COUNT.fetch_add(1, Ordering::Relaxed)))
}

/// Starts a program in a process group of its own, with its output in `log`.
///
/// A shell waits for a line before it becomes the program. If this process dies before it has registered the child with
/// the watchdog, the line never arrives and the program never starts.
pub fn spawn(mut command: Command, log: &Path) -> std::io::Result<Child> {
    let output = std::fs::File::create(log)?;
    let mut gate = Command::new("sh");
    gate.args(["-c", r#"read -r _ && exec "$@" </dev/null"#, "sh"]);
    gate.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => gate.env(name, value),
            None => gate.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        gate.current_dir(dir);
    }
    command = gate;
    let mut child =
        command.process_group(0).stdin(Stdio::piped()).stdout(output.try_clone()?).stderr(output).spawn()?;
    send(&child.id().to_string());
    child.stdin.take().expect("the gate's pipe").write_all(b"go\n")?;
    Ok(child)
}

/// Unregisters a process that was reaped, because its number may be reused.
pub fn forget(pid: u32) {
    send(&format!("forget {pid}"));
}
