//! Several workers on one PostgreSQL server.

mod checker;
mod figures;
mod hand_over;
mod old_primary;
mod record;
mod rolling_restart;
mod servers;
mod versions;

use std::path::Path;

use serde_json::Value;

use crate::harness::http::answer;
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, eventually};

/// Starts a further worker with the keys of another one.
async fn start_on_copy(manifests: &str, args: &[&str], data: &Path) -> Standalone {
    let mut worker = prepare_on_copy(manifests, args, data);
    worker.restart().await;
    worker
}

/// Prepares a further worker with the keys of another one. Starts nothing.
fn prepare_on_copy(manifests: &str, args: &[&str], data: &Path) -> Standalone {
    let worker = Standalone::prepare(manifests, args);
    copy_folder(data, &worker.data);
    worker
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        match path.is_dir() {
            true => copy_folder(&path, &target),
            // The running worker replaces files: a new version, before it has the file's name, may vanish.
            false => match std::fs::copy(&path, target) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                copied => assert!(copied.is_ok(), "{}: {copied:?}", path.display()),
            },
        }
    }
}

/// Waits until no delivery is pending, so that every repeat has arrived.
async fn wait_until_settled(worker: &Standalone) {
    let url = format!("http://{}/v1/namespaces/default/deliveries?state=pending", worker.api);
    eventually(DEADLINE, "all deliveries to be settled", async || {
        let (status, list): (u16, Value) = answer(worker.client.get(&url)).await;
        match list["items"].as_array() {
            Some(items) if items.is_empty() => Ok(()),
            _ => Err(format!("{status} {list}")),
        }
    })
    .await;
}

fn signal(pid: u32, name: &str) {
    let status = std::process::Command::new("kill").args([format!("-{name}"), pid.to_string()]).status();
    assert!(status.expect("kill").success());
}
