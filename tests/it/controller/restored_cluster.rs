//! An etcd that is restored from a backup: the versions of objects go back, and watches that continue receive nothing.

use std::path::Path;

use hookstream::api::EventHook;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::harness::own_cluster::{OwnCluster, SHOP};
use crate::harness::{DEADLINE, watchdog};

/// More than the API server writes by itself when it starts.
const LOST_CHANGES: usize = 1500;

fn copy(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_again_after_restore_of_etcd() {
    let cluster = OwnCluster::start(hookstream::api::crds()).await;
    let controller = cluster.controller(&["--watch-timeout", "9s"]).await;
    cluster.apply(&cluster.hook("kept", "consumers")).await;
    cluster.ready("eventhooks/kept").await;

    let backup = watchdog::unique_path("etcd-backup");
    cluster.control_plane.stop_servers();
    copy(&cluster.control_plane.etcd_data(), &backup);
    cluster.control_plane.start_servers().await.unwrap();
    cluster.apply(&cluster.hook("lost", "services")).await;
    cluster.ready("eventhooks/lost").await;
    let hooks: Api<EventHook> = Api::namespaced(cluster.control_plane.client().await, SHOP);
    let change = |n: usize| {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {"change": n.to_string()}}}));
        let hooks = hooks.clone();
        async move { hooks.patch("lost", &PatchParams::default(), &patch).await.map(drop) }
    };
    for chunk in (0..LOST_CHANGES).collect::<Vec<_>>().chunks(50) {
        futures::future::try_join_all(chunk.iter().map(|n| change(*n))).await.unwrap();
    }

    cluster.control_plane.stop_servers();
    std::fs::remove_dir_all(cluster.control_plane.etcd_data()).unwrap();
    copy(&backup, &cluster.control_plane.etcd_data());
    cluster.control_plane.start_servers().await.unwrap();

    // Its version is older than the one from which the controller's watch continues.
    cluster.apply(&cluster.hook("kept", "routes")).await;
    cluster.apply(&cluster.hook("new", "plugins")).await;
    cluster.ready("eventhooks/kept").await;
    cluster.ready("eventhooks/new").await;
    let events: Vec<_> = cluster.kong.hooks().await.iter().map(|hook| hook["event"].clone()).collect();
    assert!(events.contains(&json!("routes")) && !events.contains(&json!("consumers")), "{events:?}");
    controller.wait_for_line(|line| line.contains("returned to an older resource version"), DEADLINE).await;
    assert!(controller.ended().is_none(), "the process need not be restarted");
}
