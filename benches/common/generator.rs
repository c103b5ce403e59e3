//! The load generator: sends events over several connections. Each connection sends its next request when it has
//! received a response.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::load::{Load, Pace};
use super::process::Subject;

/// Bytes of an event: a structured CloudEvent.
pub const EVENT_BYTES: usize = 1024;
const FILLER: [u8; EVENT_BYTES] = [b'x'; EVENT_BYTES];
/// How often the pacer releases due requests. Each release wakes the generator.
const PACER_TICK: Duration = Duration::from_micros(200);
/// The pause after a response that asks the client to send again later.
const RETRY_PAUSE: Duration = Duration::from_millis(2);

/// What the generator observed.
#[derive(Default)]
pub struct Sent {
    /// When each event was due or sent, by number.
    pub at: Vec<Option<Instant>>,
    /// The longest time from sending a request to its 202.
    pub longest_accept: Duration,
    /// Requests that were refused for a moment (429, 503) and repeated.
    pub refused: usize,
}

/// The state that the connections of a round share.
struct Shared {
    /// The next event's number.
    next: AtomicUsize,
    /// One permit for each request that is due. Only a paced load uses it.
    due: Semaphore,
    is_done: AtomicBool,
    started: Instant,
    refused: AtomicUsize,
}

/// Sends every event once. Connections are divided between the subjects.
pub fn send_all(subjects: &[&Subject], load: &Load) -> Sent {
    let shared = Arc::new(Shared {
        next: AtomicUsize::new(0),
        due: Semaphore::new(0),
        is_done: AtomicBool::new(false),
        started: Instant::now(),
        refused: AtomicUsize::new(0),
    });
    let pacer = match load.pace {
        Pace::Rate(rate) => {
            let (shared, requests) = (shared.clone(), rate / load.batch as f64);
            Some(std::thread::spawn(move || release_due(&shared, requests)))
        }
        Pace::Full | Pace::Pause(_) => None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let sent = runtime.block_on(async {
        let mut senders = tokio::task::JoinSet::new();
        for subject in subjects.iter().cycle().take(load.connections) {
            let (address, path, sources) = (subject.address, subject.path, subject.sources);
            senders.spawn(run_connection(shared.clone(), load.clone(), address, path, sources));
        }
        let mut all = Sent { at: vec![None; load.events], ..Sent::default() };
        while let Some(sent) = senders.join_next().await {
            let (sent, longest) = sent.expect("a sender");
            all.longest_accept = all.longest_accept.max(longest);
            for (first, at) in sent {
                let end = (first + load.batch).min(load.events);
                all.at[first..end].fill(Some(at));
            }
        }
        all
    });
    shared.is_done.store(true, Ordering::Relaxed);
    if let Some(pacer) = pacer {
        pacer.join().expect("the pacer");
    }
    Sent { refused: shared.refused.load(Ordering::Relaxed), ..sent }
}

/// Releases requests at a rate until the round is done. A thread of its own, because the runtime's timer has a resolution
/// of a millisecond.
fn release_due(shared: &Shared, rate: f64) {
    let mut released = 0;
    while !shared.is_done.load(Ordering::Relaxed) {
        std::thread::sleep(PACER_TICK);
        let due = (shared.started.elapsed().as_secs_f64() * rate) as usize;
        shared.due.add_permits(due - released);
        released = due;
    }
}

/// Sends over one connection until no event is left. Returns the first event of each request and when it was due, and
/// the longest time to a response.
async fn run_connection(
    shared: Arc<Shared>,
    load: Load,
    address: std::net::SocketAddr,
    path: &'static str,
    sources: usize,
) -> (Vec<(usize, Instant)>, Duration) {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.set_nodelay(true).expect("nodelay");
    let (mut sent, mut longest) = (Vec::new(), Duration::ZERO);
    let mut request = Vec::with_capacity(2048);
    let mut buffer = Vec::with_capacity(1024);
    let mut random = fastrand::Rng::new();
    loop {
        if let Pace::Rate(_) = load.pace {
            shared.due.acquire().await.expect("a semaphore").forget();
        }
        let first = shared.next.fetch_add(load.batch, Ordering::Relaxed);
        if first >= load.events {
            // Another connection may wait for this permit.
            shared.due.add_permits(1);
            return (sent, longest);
        }
        if let Pace::Pause(pause) = load.pace {
            tokio::time::sleep(pause).await;
        }
        let numbers = first..(first + load.batch).min(load.events);
        write_request(&mut request, path, numbers, sources, load.batch > 1, &mut random);
        let sent_at = Instant::now();
        let due_at = match load.pace {
            // A request that had to wait for a connection was late from the client's point of view.
            Pace::Rate(rate) => shared.started + Duration::from_secs_f64(first as f64 / rate),
            Pace::Full | Pace::Pause(_) => sent_at,
        };
        sent.push((first, due_at.min(sent_at)));
        loop {
            stream.write_all(&request).await.expect("sending");
            if is_accepted(&mut stream, &mut buffer).await {
                break;
            }
            shared.refused.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        longest = longest.max(sent_at.elapsed());
    }
}

fn write_request(
    request: &mut Vec<u8>,
    path: &str,
    numbers: std::ops::Range<usize>,
    sources: usize,
    is_batch: bool,
    random: &mut fastrand::Rng,
) {
    request.clear();
    let (content_type, length) = if is_batch {
        ("application/cloudevents-batch+json", numbers.len() * (EVENT_BYTES + 1) + 1)
    } else {
        ("application/cloudevents+json", EVENT_BYTES)
    };
    write!(
        request,
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n"
    )
    .expect("memory");
    let first = numbers.start;
    for number in numbers {
        if is_batch {
            request.push(if number == first { b'[' } else { b',' });
        }
        append_event(request, random.u128(..), number, number % sources);
    }
    if is_batch {
        request.push(b']');
    }
}

/// Appends an event of exactly `EVENT_BYTES` bytes.
fn append_event(request: &mut Vec<u8>, id: u128, number: usize, source: usize) {
    let end = request.len() + EVENT_BYTES;
    write!(
        request,
        r#"{{"specversion":"1.0","id":"{id:032x}","source":"bench-{source}","type":"e","data":{{"number":{number},"filler":""#
    )
    .expect("memory");
    let filler = end - request.len() - 3;
    request.extend_from_slice(&FILLER[..filler]);
    request.extend_from_slice(b"\"}}");
}

/// Reads one response. True: 202. False: the client should repeat the request later. Panics at any other response.
async fn is_accepted(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> bool {
    buffer.clear();
    loop {
        assert!(stream.read_buf(buffer).await.expect("a response") > 0, "the connection was closed");
        let text = std::str::from_utf8(buffer).expect("text");
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().ok())?
        });
        if body.len() >= length.expect("a length") {
            let status = text.get(9..12).unwrap_or_default();
            assert!(["202", "429", "503"].contains(&status), "{text}");
            return status == "202";
        }
    }
}
