//! The receiver: records when each delivery arrives and responds with 200.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// An HTTP server written by hand, because it shares the cores with the measured process.
pub struct Sink {
    address: SocketAddr,
    shared: &'static Shared,
}

#[derive(Default)]
struct Shared {
    expected: Mutex<Expected>,
    count: AtomicUsize,
    /// All deliveries since the start, repeated ones included.
    total: AtomicUsize,
}

#[derive(Default)]
struct Expected {
    /// The hooks that receive each event. A hook's number is the path of its URL.
    hooks: usize,
    /// First arrival of each event at each hook: those of event 0, of event 1, and so on.
    arrivals: Vec<Option<Instant>>,
}

impl Sink {
    pub fn start() -> Sink {
        Sink::start_delayed(Duration::ZERO)
    }

    /// Starts a receiver that answers each request after a delay.
    pub fn start_delayed(delay: Duration) -> Sink {
        let shared: &'static Shared = Box::leak(Box::default());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        listener.set_nonblocking(true).expect("a listener");
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                loop {
                    let (stream, _) = listener.accept().await.expect("a connection");
                    stream.set_nodelay(true).expect("nodelay");
                    tokio::spawn(serve_connection(stream, shared, delay));
                }
            });
        });
        Sink { address, shared }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resets the arrivals, for the next `events` events of one hook each.
    pub fn expect(&self, events: usize) {
        self.expect_fan_out(events, 1);
    }

    /// Resets the arrivals, for the next `events` events of `hooks` hooks each.
    pub fn expect_fan_out(&self, events: usize, hooks: usize) {
        *self.shared.expected.lock().expect("a lock") =
            Expected { hooks, arrivals: vec![None; events * hooks] };
        self.shared.count.store(0, Ordering::SeqCst);
    }

    /// Returns the number of distinct deliveries that arrived.
    pub fn count(&self) -> usize {
        self.shared.count.load(Ordering::SeqCst)
    }

    /// Returns the number of all requests since the start.
    pub fn total(&self) -> usize {
        self.shared.total.load(Ordering::SeqCst)
    }

    /// Returns the first arrival of each event at each hook.
    pub fn arrivals(&self) -> Vec<Option<Instant>> {
        self.shared.expected.lock().expect("a lock").arrivals.clone()
    }
}

async fn serve_connection(mut stream: tokio::net::TcpStream, shared: &'static Shared, delay: Duration) {
    let mut buffer = Vec::with_capacity(8192);
    loop {
        while let Some((head, end)) = request_bounds(&buffer) {
            record(shared, &buffer[..head], &buffer[head..end]);
            buffer.drain(..end);
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
                return;
            }
        }
        match stream.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

fn record(shared: &Shared, head: &[u8], body: &[u8]) {
    shared.total.fetch_add(1, Ordering::SeqCst);
    let Some(number) = event_number(body) else { return };
    let mut expected = shared.expected.lock().expect("a lock");
    let hooks = expected.hooks;
    let index = if hooks > 1 { number * hooks + hook_number(head) } else { number };
    if let Some(arrival @ None) = expected.arrivals.get_mut(index) {
        *arrival = Some(Instant::now());
        shared.count.fetch_add(1, Ordering::SeqCst);
    }
}

/// Returns the ends of the head and of the body of the first complete request in the buffer.
fn request_bounds(buffer: &[u8]) -> Option<(usize, usize)> {
    let head = find(buffer, b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&buffer[..head]).ok()?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    })?;
    (buffer.len() >= head + length).then_some((head, head + length))
}

/// Returns the event's number, a member of its data.
fn event_number(body: &[u8]) -> Option<usize> {
    let at = find(body, br#""number":"#)? + br#""number":"#.len();
    leading_number(&body[at..])
}

/// Returns the hook's number, the path of a request such as `POST /7 HTTP/1.1`. 0 if the path has none.
fn hook_number(head: &[u8]) -> usize {
    find(head, b" /").and_then(|at| leading_number(&head[at + 2..])).unwrap_or(0)
}

fn leading_number(text: &[u8]) -> Option<usize> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&text[..digits]).ok()?.parse().ok()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
