//! A control plane for developers: `make cluster`.

use crate::harness::{control_plane, tool};

/// Keeps the control plane of the tests running, with the CRDs applied, until the process is interrupted.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "runs until Ctrl-C, for `make cluster`"]
async fn keeps_a_control_plane_running() {
    let cluster = control_plane();
    cluster.start_controller_manager();
    println!("export KUBECONFIG={}", cluster.admin_kubeconfig().display());
    println!("alias kubectl={}", tool("kubectl").display());
    println!("Press Ctrl-C to stop it.");
    tokio::signal::ctrl_c().await.expect("a signal handler");
}
