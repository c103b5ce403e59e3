//! Where events end: notes when each came, answers 200.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Written by hand, for it shares the cores with what is measured.
pub struct Sink {
    address: SocketAddr,
    shared: &'static Shared,
}

#[derive(Default)]
struct Shared {
    /// By the event's number, when it came first.
    came: Mutex<Vec<Option<Instant>>>,
    count: AtomicUsize,
}

impl Sink {
    pub fn start() -> Sink {
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
                    tokio::spawn(connection(stream, shared));
                }
            });
        });
        Sink { address, shared }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Forgets what came, and makes room for so many.
    pub fn expect(&self, events: usize) {
        *self.shared.came.lock().expect("a lock") = vec![None; events];
        self.shared.count.store(0, Ordering::SeqCst);
    }

    /// How many different events came.
    pub fn count(&self) -> usize {
        self.shared.count.load(Ordering::SeqCst)
    }

    pub fn came(&self) -> Vec<Option<Instant>> {
        self.shared.came.lock().expect("a lock").clone()
    }
}

async fn connection(mut stream: tokio::net::TcpStream, shared: &'static Shared) {
    let mut buffer = Vec::with_capacity(8192);
    loop {
        while let Some(end) = request(&buffer) {
            if let Some(number) = number(&buffer[..end]) {
                let mut came = shared.came.lock().expect("a lock");
                if let Some(place @ None) = came.get_mut(number) {
                    *place = Some(Instant::now());
                    shared.count.fetch_add(1, Ordering::SeqCst);
                }
            }
            buffer.drain(..end);
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

/// Where the first whole request ends.
fn request(buffer: &[u8]) -> Option<usize> {
    let head = find(buffer, b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&buffer[..head]).ok()?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    })?;
    (buffer.len() >= head + length).then_some(head + length)
}

/// The event's number, which its data carries.
fn number(request: &[u8]) -> Option<usize> {
    let at = find(request, br#""number":"#)? + br#""number":"#.len();
    let digits: Vec<u8> = request[at..].iter().copied().take_while(u8::is_ascii_digit).collect();
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
