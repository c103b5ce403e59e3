//! Leaves no process and no folder behind, even when the test binary is killed with -9.
//!
//! A child `sh` reads a pipe whose only writing end is here. When this process ends, however it ends, the pipe ends too,
//! and the child kills what it was told of. (PDEATHSIG would fire when the spawning thread ends, which is every test.)

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};

/// Lines: `PID` to kill with its process group, `forget PID` once it was reaped (the number may be given to a stranger),
/// `rm DIR`. Signals are ignored, so that Ctrl-C or a closed terminal cannot end the watchdog before its work is done.
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
rm -rf -- "$@" || { sleep 1; rm -rf -- "$@"; }
"#;

/// Outlives this process: nothing waits for it.
static WATCHDOG: LazyLock<Mutex<Child>> = LazyLock::new(|| {
    // Its own process group, so that a signal to the test run's group does not reach it; no output, so that a
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

fn tell(line: &str) {
    let mut watchdog = WATCHDOG.lock().unwrap_or_else(|e| e.into_inner());
    let pipe = watchdog.stdin.as_mut().expect("its pipe");
    pipe.write_all(format!("{line}\n").as_bytes()).expect("the watchdog is gone");
}

/// The folder of this test run. `HOOKSTREAM_TEST_KEEP=1` keeps it, to look at logs.
pub fn run_dir() -> &'static Path {
    static DIR: LazyLock<PathBuf> = LazyLock::new(|| {
        let dir = tempfile::Builder::new().prefix("hookstream-it-").tempdir().expect("a folder").keep();
        if std::env::var_os("HOOKSTREAM_TEST_KEEP").is_some() {
            eprintln!("kept: {}", dir.display());
        } else {
            tell(&format!("rm {}", dir.display()));
        }
        dir
    });
    &DIR
}

/// A path in the run's folder that no other call gets.
pub fn unique_path(name: &str) -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    run_dir().join(format!("{}-{name}", COUNT.fetch_add(1, Ordering::Relaxed)))
}

/// Starts a program in a process group of its own, its output in `log`.
///
/// A shell waits for a line before it becomes the program: if this process dies between starting the child and telling
/// the watchdog, the line never comes and the program never starts.
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
    tell(&child.id().to_string());
    child.stdin.take().expect("the gate's pipe").write_all(b"go\n")?;
    Ok(child)
}

/// The process was reaped: its number means nothing any more.
pub fn forget(pid: u32) {
    tell(&format!("forget {pid}"));
}
