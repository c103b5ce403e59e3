//! Workers of two versions on one database, as during a rollout and a rollback.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::figures::{Timings, manifests, publish};
use super::{prepare_on_copy, wait_until_settled};
use crate::harness::postgres::shared;
use crate::harness::standalone::{EVENTS, Standalone};
use crate::harness::{Receiver, Reply};

/// Events in a second.
const RATE: u64 = 60;
const SOME: usize = 120;

/// Lets the process of a worker be of the version that this program is.
fn run_with(mut worker: Standalone, program: &OsString) -> Standalone {
    let program = program.to_str().expect("a path in UTF-8");
    worker.wrapper = ["sh", "-c", &format!(r#"shift; exec "{program}" "$@""#)].map(String::from).into();
    worker
}

/// Two workers of the previous version are replaced by new ones, one of the new ones by the previous version again, and that by
/// a new one. `HOOKSTREAM_PREVIOUS` names the program of the previous version. No publish is refused, and everything is delivered
/// once.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a program of the previous version: HOOKSTREAM_PREVIOUS=PATH"]
async fn needs_previous_version_which_works_together_with_this_one() {
    let previous =
        std::env::var_os("HOOKSTREAM_PREVIOUS").expect("HOOKSTREAM_PREVIOUS, the path of a program");
    let record = Arc::new(Timings::default());
    let recording = record.clone();
    let receiver = Receiver::start(move |request, _| {
        let id = request.json()["id"].as_str().expect("an event's id").to_owned();
        recording.arrived.lock().unwrap().entry(id).or_insert(request.at);
        Reply::status(200)
    });
    let manifests = manifests(&receiver.url());
    let database = shared().new_database();
    let args = ["--store-url", &database, "--allow-unsafe-commits"];
    let mut first = run_with(Standalone::prepare(&manifests, &args), &previous);
    first.restart().await;
    let data = first.data.clone();
    let prepare = |is_new: bool| {
        let worker = prepare_on_copy(&manifests, &args, &data);
        if is_new { worker } else { run_with(worker, &previous) }
    };
    let mut second = prepare(false);
    second.restart().await;
    let mut workers = [first, second];

    let urls = Arc::new(Mutex::new(workers.iter().map(|worker| worker.url(EVENTS)).collect::<Vec<_>>()));
    let stop = Arc::new(AtomicBool::new(false));
    let sender = tokio::spawn(publish(RATE, urls.clone(), record.clone(), stop.clone(), "e"));
    for (place, is_new) in [(0, true), (1, true), (0, false), (0, true)] {
        record.wait_for(SOME).await;
        let mut replacement = prepare(is_new);
        replacement.restart().await;
        urls.lock().unwrap()[place] = replacement.url(EVENTS);
        // Requests that are on their way to the old one, as those of a load balancer.
        record.wait_for(SOME).await;
        std::mem::replace(&mut workers[place], replacement).process().terminate().await;
    }
    record.wait_for(SOME).await;
    stop.store(true, Ordering::SeqCst);
    sender.await.expect("the sender");
    println!("longest delivery {:?}", record.longest_delivery().await);
    wait_until_settled(&workers[0]).await;
    assert_eq!(*record.refused.lock().unwrap(), [""; 0]);
    let requests = receiver.requests();
    let ids: BTreeSet<&str> = requests.iter().map(|request| request.header("webhook-id")).collect();
    assert_eq!(ids.len(), record.accepted.lock().unwrap().len(), "each hook has each of its events");
    assert_eq!(requests.len(), ids.len(), "nothing is sent twice");
}
