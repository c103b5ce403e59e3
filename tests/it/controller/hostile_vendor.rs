//! A vendor that answers with huge or endless lists and objects uses bounded memory, is reported, and harms no other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::DEADLINE;
use crate::harness::objects::{message, object};
use crate::harness::world::{Setup, World};

/// How much the process may grow: the share of admin responses with this budget is 18 MiB, and a body that grows is copied.
const BOUND: u64 = 128 << 20;
const FLAGS: &[&str] = &["--memory-budget", "128MiB"];

/// Small maps: parsed, they need about a hundred times their length.
fn nested(bytes: usize) -> String {
    format!("[{}0]", "{\"\":1},".repeat(bytes / 7))
}

/// What the stub answers to a request below `/NAME/`, by name.
fn answer(name: &str, line: &str, page: usize) -> String {
    let is_list = line.contains("/event-hooks?");
    match name {
        _ if line.starts_with(&format!("GET /{name}/ ")) => json!({"version": "3.14.0.0"}).to_string(),
        "names" if is_list => {
            let name = "x".repeat(200);
            let items = (0..50_000).map(|n| format!("{{\"id\":\"{page}-{n}\",\"name\":\"{n}{name}\"}}"));
            format!("{{\"data\":[{}],\"offset\":\"{page}\"}}", items.collect::<Vec<_>>().join(","))
        }
        // A list that is fine, and then objects that are not.
        "objects" if is_list => "{\"data\":[]}".to_owned(),
        "pages" => {
            format!("{{\"data\":[{{\"id\":\"{page}\",\"x\":{}}}],\"offset\":\"{page}\"}}", nested(10 << 20))
        }
        _ => format!("{{\"id\":\"a\",\"config\":{}}}", nested(3 << 20)),
    }
}

/// Answers one request and closes the connection.
async fn serve(mut socket: TcpStream, page: usize) -> std::io::Result<()> {
    let mut head = vec![0; 64 << 10];
    let length = socket.read(&mut head).await?;
    let line = String::from_utf8_lossy(&head[..length]).lines().next().unwrap_or_default().to_owned();
    let name = line.split('/').nth(1).unwrap_or_default().to_owned();
    socket.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n").await?;
    if name == "endless" && line.contains("/event-hooks?") {
        socket.write_all(b"9\r\n{\"data\":[\r\n").await?;
        for n in 0.. {
            let objects: String = (0..1000).map(|m| format!("{{\"id\":\"{n}-{m}\"}},")).collect();
            socket.write_all(format!("{:x}\r\n{objects}\r\n", objects.len()).as_bytes()).await?;
        }
    }
    let body = answer(&name, &line, page);
    socket.write_all(format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).as_bytes()).await
}

/// Starts the stub. Returns its URL.
async fn start_stub() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let pages = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve(socket, pages.fetch_add(1, Ordering::Relaxed)));
        }
    });
    url
}

/// Returns a size of a process in bytes: `VmRSS`, its resident memory, or `VmHWM`, the peak of that.
fn memory(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn hostile_lists_use_bounded_memory_and_stop_no_other_connection() {
    let world = World::with("hostile-lists", Setup { flags: FLAGS, ..Setup::default() }).await;
    let stub = start_stub().await;
    world.apply(&[world.connection(), world.hook("good")]).await;
    world.ready("eventhooks/good").await;
    let before = memory(world.operator_pid(), "VmRSS");

    let names = ["endless", "names", "pages", "objects"];
    let mut objects: Vec<Value> = Vec::new();
    for name in names {
        let kong = json!({"adminUrl": format!("{stub}/{name}")});
        objects.push(object("Connection", name, json!({ "kong": kong })));
        objects.push(world.hook_with(name, json!({"connectionRef": {"name": name}})));
    }
    world.apply(&objects).await;
    for name in names {
        for path in [format!("eventhooks/{name}"), format!("connections/{name}")] {
            // The four share a small part of the memory. A list whose next page finds none is read again from its start, so
            // the one with the largest pages may have to wait until the others retry more rarely.
            let object = world.not_ready_within(&path, "ResponseTooLarge", 4 * DEADLINE).await;
            assert!(message(&object).contains("too large"), "{object:#}");
        }
    }
    let grown = memory(world.operator_pid(), "VmHWM").saturating_sub(before);
    assert!(grown < BOUND, "the process grew by {} MiB", grown >> 20);

    // Meanwhile an edit of another Connection's hook is applied.
    world.edit("evh/good", json!({"event": "routes"})).await;
    world.kong.until_hooks("the edit", |h| h.len() == 1 && h[0]["event"] == "routes").await;
    world.ready("eventhooks/good").await;

    // A Connection recovers with its vendor.
    let kong = json!({"spec": {"kong": {"adminUrl": world.kong.url}}}).to_string();
    world.kubectl(&["patch", "connection/endless", "--type=merge", "-p", &kong]).await;
    world.ready("eventhooks/endless").await;
    world.ready("connections/endless").await;
}
