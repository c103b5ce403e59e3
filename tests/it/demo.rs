//! `make demo`, the README's first command.

use std::process::{Command, Stdio};

#[tokio::test(flavor = "multi_thread")]
async fn all_of_it_happens() {
    let shown = tokio::task::spawn_blocking(|| {
        Command::new("bash")
            .arg("deploy/demo.sh")
            .env("HOOKSTREAM_BIN", env!("CARGO_BIN_EXE_hookstream"))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    })
    .await
    .unwrap();
    let text = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.status.success(), "{text}\n{}", String::from_utf8_lossy(&shown.stderr));
    assert!(text.contains("50 of 50 delivered"), "{text}");
}
