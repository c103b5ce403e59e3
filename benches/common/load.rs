//! The load generator: sends events over several connections. Each connection sends its next event when it has received
//! a response.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::process::Subject;
use super::sink::Sink;

/// Missing events count as lost after this time without a delivery.
const LOST_AFTER: Duration = Duration::from_secs(20);
/// Bytes of a request body.
const SIZE: usize = 1024;

/// The figures of one round.
#[derive(Clone, Debug)]
pub struct Round {
    /// Events per second, from the first request to the last delivery.
    pub rate: f64,
    /// CPU microseconds per event.
    pub cpu_us: f64,
    /// Milliseconds from publish to delivery.
    pub p50: f64,
    pub p99: f64,
    /// Accepted events that were not delivered.
    pub lost: usize,
}

impl Round {
    /// Returns the median of each figure separately, and the sum of lost events.
    pub fn median(rounds: &[Round]) -> Round {
        let median = |figure: fn(&Round) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(figure).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let lost = rounds.iter().map(|round| round.lost).sum();
        Round {
            rate: median(|r| r.rate),
            cpu_us: median(|r| r.cpu_us),
            p50: median(|r| r.p50),
            p99: median(|r| r.p99),
            lost,
        }
    }
}

/// Runs one round at full speed and waits for every event.
pub fn run_round(subject: &Subject, sink: &Sink, connections: usize, events: usize) -> Round {
    run_paced(subject, sink, connections, events, Duration::ZERO, |_| true)
}

/// Runs one round with a pause before each event of a connection. Measures only the events whose number `is_counted`
/// accepts, and waits only for these.
pub fn run_paced(
    subject: &Subject,
    sink: &Sink,
    connections: usize,
    events: usize,
    pause: Duration,
    is_counted: fn(usize) -> bool,
) -> Round {
    let counted = (0..events).filter(|number| is_counted(*number)).count();
    sink.expect(events);
    let cpu_before = subject.cpu_us();
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let sent = runtime.block_on(send(subject, connections, events, pause));
    let mut last = (sink.count(), Instant::now());
    let delivered = || (0..).zip(&sink.arrivals()).filter(|(n, at)| is_counted(*n) && at.is_some()).count();
    while (last.0 < counted || delivered() < counted) && last.1.elapsed() < LOST_AFTER {
        std::thread::sleep(Duration::from_millis(1));
        let count = sink.count();
        if count > last.0 {
            last = (count, Instant::now());
        }
    }
    let arrivals = sink.arrivals();
    let end = arrivals.iter().flatten().max().copied().unwrap_or(started);
    let mut times: Vec<f64> = sent
        .iter()
        .zip(&arrivals)
        .enumerate()
        .filter(|(number, _)| is_counted(*number))
        .filter_map(|(_, (sent, arrived))| Some((*arrived)?.duration_since((*sent)?).as_secs_f64() * 1000.0))
        .collect();
    times.sort_by(f64::total_cmp);
    let percentile =
        |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    Round {
        rate: times.len() as f64 / end.duration_since(started).as_secs_f64(),
        cpu_us: (subject.cpu_us() - cpu_before) / events as f64,
        p50: percentile(0.5),
        p99: percentile(0.99),
        lost: counted - times.len(),
    }
}

/// Runs one round and returns the events per second by the worker's own counters, because a lambda sends nothing to the
/// receiver. `ops` is the address of the worker's metrics. Returns None if an event was not delivered.
pub fn run_counted(subject: &Subject, ops: &str, connections: usize, events: usize) -> Option<f64> {
    let before = read_delivered(ops);
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(send(subject, connections, events, Duration::ZERO));
    let mut last = (read_delivered(ops), Instant::now());
    while last.0 < before + events && last.1.elapsed() < LOST_AFTER {
        std::thread::sleep(Duration::from_millis(20));
        let count = read_delivered(ops);
        if count > last.0 {
            last = (count, Instant::now());
        }
    }
    (last.0 == before + events).then(|| events as f64 / last.1.duration_since(started).as_secs_f64())
}

/// Reads the worker's count of delivered events.
fn read_delivered(ops: &str) -> usize {
    let mut stream = std::net::TcpStream::connect(ops).expect("the metrics");
    let request = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    std::io::Write::write_all(&mut stream, request.as_bytes()).expect("the request is sent");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stream, &mut text).expect("metrics");
    let lines = text.lines().filter(|line| line.starts_with("hookstream_deliveries_finished_total{"));
    let delivered = lines.filter(|line| line.contains(r#"state="delivered""#));
    delivered.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum()
}

/// Sends every event once and returns when each was sent, by number.
async fn send(subject: &Subject, connections: usize, events: usize, pause: Duration) -> Vec<Option<Instant>> {
    let next: &'static AtomicUsize = Box::leak(Box::new(AtomicUsize::new(0)));
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..connections {
        let (address, path, sources) = (subject.address, subject.path, subject.sources);
        senders.spawn(async move {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            stream.set_nodelay(true).expect("nodelay");
            let mut sent = Vec::new();
            let mut buffer = Vec::with_capacity(1024);
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= events {
                    return sent;
                }
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                let request = event_request(path, number, number % sources);
                sent.push((number, Instant::now()));
                stream.write_all(&request).await.expect("sending");
                read_accepted(&mut stream, &mut buffer).await;
            }
        });
    }
    let mut sent_at = vec![None; events];
    while let Some(sent) = senders.join_next().await {
        for (number, at) in sent.expect("a sender") {
            sent_at[number] = Some(at);
        }
    }
    sent_at
}

fn event_request(path: &str, number: usize, source: usize) -> Vec<u8> {
    let head = format!(r#"{{"source":"bench-{source}","event":"e","data":{{"number":{number},"filler":""#);
    let body = format!("{head}{}\"}}}}", "x".repeat(SIZE - head.len() - 3));
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Reads one response, which must be a 202.
async fn read_accepted(stream: &mut TcpStream, buffer: &mut Vec<u8>) {
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
            assert!(text.starts_with("HTTP/1.1 202"), "{text}");
            return;
        }
    }
}
