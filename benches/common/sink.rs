//! The receiver: records when each event arrives and responds with 200.

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
    /// First arrival of each event, by number.
    arrivals: Mutex<Vec<Option<Instant>>>,
    count: AtomicUsize,
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

    /// Resets the arrivals, for the next `events` events.
    pub fn expect(&self, events: usize) {
        *self.shared.arrivals.lock().expect("a lock") = vec![None; events];
        self.shared.count.store(0, Ordering::SeqCst);
    }

    /// Returns the number of distinct events that arrived.
    pub fn count(&self) -> usize {
        self.shared.count.load(Ordering::SeqCst)
    }

    /// Returns the first arrival of each event, by number.
    pub fn arrivals(&self) -> Vec<Option<Instant>> {
        self.shared.arrivals.lock().expect("a lock").clone()
    }
}

async fn serve_connection(mut stream: tokio::net::TcpStream, shared: &'static Shared, delay: Duration) {
    let mut buffer = Vec::with_capacity(8192);
    loop {
        while let Some(end) = request_end(&buffer) {
            if let Some(number) = event_number(&buffer[..end]) {
                let mut arrivals = shared.arrivals.lock().expect("a lock");
                if let Some(arrival @ None) = arrivals.get_mut(number) {
                    *arrival = Some(Instant::now());
                    shared.count.fetch_add(1, Ordering::SeqCst);
                }
            }
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

/// Returns the end of the first complete request in the buffer.
fn request_end(buffer: &[u8]) -> Option<usize> {
    let head = find(buffer, b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&buffer[..head]).ok()?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    })?;
    (buffer.len() >= head + length).then_some(head + length)
}

/// Returns the event's number, a member of its data.
fn event_number(request: &[u8]) -> Option<usize> {
    let at = find(request, br#""number":"#)? + br#""number":"#.len();
    let digits: Vec<u8> = request[at..].iter().copied().take_while(u8::is_ascii_digit).collect();
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
