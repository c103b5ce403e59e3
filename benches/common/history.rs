//! A store with the history of deleted hooks, and clients that read it.

use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hookstream::core::delivery_reason::DeliveryReason;
use hookstream::core::event::{Event, Origin};
use hookstream::core::gate::GateRequest;
use hookstream::core::time::Millis;
use hookstream::worker::store::sqlite::SqliteStore;
use hookstream::worker::store::{HookId, IngestStore, MaintenanceStore, NewDelivery, NewEvent};
use serde_json::value::RawValue;

use super::publish::read_response;

/// Stores `rows` dead deliveries in a namespace, each of a hook of its own that does not exist.
pub fn fill(data: &Path, namespace: &str, rows: usize) {
    std::fs::create_dir_all(data).expect("a folder");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let store = SqliteStore::open(data).expect("a store");
        let now = Millis::now();
        for batch in 0..rows.div_ceil(BATCH) {
            let numbers = batch * BATCH..((batch + 1) * BATCH).min(rows);
            let events = numbers.map(|number| dead_event(namespace, number, now)).collect();
            let (sender, accepted) = tokio::sync::oneshot::channel();
            store.accept_then(events, now, Box::new(|_, result| drop(sender.send(result))));
            accepted.await.expect("a result").expect("the store accepts");
        }
        store.close().await;
    });
}

/// Events that are stored in one commit.
const BATCH: usize = 500;

fn dead_event(namespace: &str, number: usize, now: Millis) -> NewEvent {
    let event = Event {
        id: format!("old-{number}"),
        namespace: namespace.into(),
        origin: Origin::Api,
        source: "old".into(),
        event: "e".into(),
        time: now.rfc3339(),
        data: RawValue::from_string(format!(r#"{{"number":{number}}}"#)).expect("JSON").into(),
        attributes: [].into(),
    };
    let hook = HookId {
        uid: format!("deleted-{number}").into(),
        namespace: namespace.into(),
        name: format!("deleted-{number}").into(),
    };
    let delivery = NewDelivery {
        epoch: None,
        hook,
        id: uuid::Uuid::now_v7(),
        due: now,
        gate_request: GateRequest::default(),
        dead: Some(DeliveryReason::HookDeleted),
    };
    NewEvent { event: Arc::new(event), dedup: None, deliveries: vec![delivery] }
}

/// Clients that list deliveries without pause.
pub struct Readers {
    stop: Arc<AtomicBool>,
    lists: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    pub fn start(api: SocketAddr, namespace: &str, count: usize) -> Readers {
        let (stop, lists) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let threads = (0..count)
            .map(|number| {
                let (stop, lists) = (stop.clone(), lists.clone());
                // Of the deliveries, all are dead and none is pending.
                let state = if number % 2 == 0 { "dead" } else { "pending" };
                let path = format!("/v1/namespaces/{namespace}/deliveries?state={state}&limit=100");
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        match list(api, &path) {
                            Ok(200) => drop(lists.fetch_add(1, Ordering::Relaxed)),
                            // A rejected client waits.
                            _ => std::thread::sleep(Duration::from_millis(100)),
                        }
                    }
                })
            })
            .collect();
        Readers { stop, lists, threads }
    }

    /// Stops the clients and returns the number of lists that they received.
    pub fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().ok();
        }
        self.lists.load(Ordering::Relaxed)
    }
}

fn list(api: SocketAddr, path: &str) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect(api)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes(),
    )?;
    read_response(&mut BufReader::new(stream))
}
