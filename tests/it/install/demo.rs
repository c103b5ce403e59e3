//! `make demo`, the first command of the README.

use std::process::{Command, Stdio};

#[tokio::test(flavor = "multi_thread")]
async fn demo_delivers_all_events() {
    let output = tokio::task::spawn_blocking(|| {
        Command::new("bash")
            .arg("deploy/demo.sh")
            .env("HOOKSTREAM_BIN", env!("CARGO_BIN_EXE_hookstream"))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    })
    .await
    .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("50 of 50 delivered"), "{text}");
}
