//! Finds and runs programs of the control plane and other external tools.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

/// Runs a program to its end without blocking the test's runtime, which may have to serve the program's requests.
pub async fn run(mut command: Command, input: &str) -> Result<String, String> {
    let input = input.to_owned();
    let work = move || {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{:?}: {e}", command.get_program()))?;
        let mut pipe = child.stdin.take().expect("a pipe");
        // Written while the output is read: a program that answers before it has read everything would block otherwise.
        let writer = std::thread::spawn(move || pipe.write_all(input.as_bytes()));
        let output = child.wait_with_output().map_err(|e| e.to_string())?;
        writer.join().ok();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    };
    tokio::task::spawn_blocking(work).await.expect("a thread")
}

/// Returns the path of a program of the control plane: from `KUBEBUILDER_ASSETS`, otherwise built from the pinned Go
/// modules.
pub fn tool(name: &str) -> PathBuf {
    static BUILT: LazyLock<PathBuf> = LazyLock::new(|| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/controlplane/build.sh");
        let output = Command::new(script).stderr(Stdio::inherit()).output().expect(script);
        let text = String::from_utf8(output.stdout).expect("a path");
        assert!(output.status.success(), "{script} failed; its output is above");
        text.lines().last().expect("a path").into()
    });
    let from_assets = std::env::var_os("KUBEBUILDER_ASSETS").map(|dir| Path::new(&dir).join(name));
    from_assets.filter(|path| path.exists()).unwrap_or_else(|| BUILT.join(name))
}
