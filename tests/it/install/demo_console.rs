//! `make demo-console`: an instance that answers why an order did not arrive.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness::Process;
use crate::harness::http::{answer, client};

#[tokio::test(flavor = "multi_thread")]
async fn demo_has_an_order_that_did_not_arrive() {
    let mut command = Command::new("bash");
    command.arg("deploy/demo-console.sh").env("HOOKSTREAM_BIN", env!("CARGO_BIN_EXE_hookstream"));
    let demo = Process::start(command);
    let line = demo.wait_for_line(|line| line.starts_with("Console: "), Duration::from_secs(120)).await;
    let console = line.trim_start_matches("Console: ").to_owned();
    let api = console.trim_end_matches("/console/");
    let get = async |path: &str| answer(client().get(format!("{api}{path}"))).await;

    let (status, page) = get("/v1/namespaces/shop/deliveries?state=dead").await;
    assert_eq!(status, 200, "{page}");
    let dead: Vec<&Value> = page["items"].as_array().unwrap().iter().collect();
    assert_eq!(dead.len(), 1, "{page}");
    let attempts = dead[0]["attempts"].as_array().unwrap();
    assert!(dead[0]["hook"] == "warehouse" && attempts.len() == 3, "{page}");
    let event = dead[0]["event"].as_str().expect("the event's id");
    let (status, page) = get(&format!("/v1/namespaces/shop/events/{event}/explain")).await;
    assert!(status == 200 && page.to_string().contains("sales-alerts"), "{page}");

    assert_eq!(demo.terminate().await.code(), Some(0));
    assert!(client().get(&console).send().await.is_err(), "the worker has ended too");
    drop(demo);
}
