//! One round: so many connections send so many events as fast as they are answered.
#![allow(dead_code, reason = "two programs use it, each a part")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::Subject;
use crate::sink::Sink;

/// After this without a delivery, what is missing is lost.
const LOST_AFTER: Duration = Duration::from_secs(20);
const SIZE: usize = 1024;

#[derive(Clone, Debug)]
pub struct Round {
    /// Events a second, from the first request to the last delivery.
    pub rate: f64,
    /// CPU microseconds an event.
    pub cpu: f64,
    /// Milliseconds from publish to delivered.
    pub p50: f64,
    pub p99: f64,
    pub lost: usize,
}

impl Round {
    /// The median of every figure by itself.
    pub fn median(rounds: &[Round]) -> Round {
        let of = |figure: fn(&Round) -> f64| {
            let mut all: Vec<f64> = rounds.iter().map(figure).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        let lost = rounds.iter().map(|round| round.lost).sum();
        Round { rate: of(|r| r.rate), cpu: of(|r| r.cpu), p50: of(|r| r.p50), p99: of(|r| r.p99), lost }
    }
}

pub fn round(subject: &Subject, sink: &Sink, connections: usize, events: usize) -> Round {
    paced(subject, sink, connections, events, Duration::ZERO, |_| true)
}

/// The same with a pause before each event of a connection, and only those events counted and waited for.
pub fn paced(
    subject: &Subject,
    sink: &Sink,
    connections: usize,
    events: usize,
    pause: Duration,
    counts: fn(usize) -> bool,
) -> Round {
    let counted = (0..events).filter(|number| counts(*number)).count();
    sink.expect(events);
    let cpu = subject.cpu();
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let sent = runtime.block_on(send(subject, connections, events, pause));
    let mut last = (sink.count(), Instant::now());
    let all = || (0..).zip(&sink.came()).filter(|(number, came)| counts(*number) && came.is_some()).count();
    while (last.0 < counted || all() < counted) && last.1.elapsed() < LOST_AFTER {
        std::thread::sleep(Duration::from_millis(1));
        let count = sink.count();
        if count > last.0 {
            last = (count, Instant::now());
        }
    }
    let came = sink.came();
    let end = came.iter().flatten().max().copied().unwrap_or(started);
    let mut times: Vec<f64> = sent
        .iter()
        .zip(&came)
        .enumerate()
        .filter(|(number, _)| counts(*number))
        .filter_map(|(_, (sent, came))| Some((*came)?.duration_since((*sent)?).as_secs_f64() * 1000.0))
        .collect();
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    Round {
        rate: times.len() as f64 / end.duration_since(started).as_secs_f64(),
        cpu: (subject.cpu() - cpu) / events as f64,
        p50: at(0.5),
        p99: at(0.99),
        lost: counted - times.len(),
    }
}

/// Events a second of a handler whose deliveries are counted by the worker itself (`ops`: where its metrics are), for a
/// lambda ends in the worker. None: some did not arrive.
pub fn counted(subject: &Subject, ops: &str, connections: usize, events: usize) -> Option<f64> {
    let before = delivered(ops);
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(send(subject, connections, events, Duration::ZERO));
    let mut last = (delivered(ops), Instant::now());
    while last.0 < before + events && last.1.elapsed() < LOST_AFTER {
        std::thread::sleep(Duration::from_millis(20));
        let count = delivered(ops);
        if count > last.0 {
            last = (count, Instant::now());
        }
    }
    (last.0 == before + events).then(|| events as f64 / last.1.duration_since(started).as_secs_f64())
}

fn delivered(ops: &str) -> usize {
    let mut stream = std::net::TcpStream::connect(ops).expect("the metrics");
    let request = "GET /metrics HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n";
    std::io::Write::write_all(&mut stream, request.as_bytes()).expect("asking");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stream, &mut text).expect("metrics");
    let lines = text.lines().filter(|line| line.starts_with("hookstream_deliveries_finished_total{"));
    let delivered = lines.filter(|line| line.contains(r#"state="delivered""#));
    delivered.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum()
}

/// Sends every event once; when each was sent.
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
                let request = request(path, number, number % sources);
                sent.push((number, Instant::now()));
                stream.write_all(&request).await.expect("sending");
                answer(&mut stream, &mut buffer).await;
            }
        });
    }
    let mut all = vec![None; events];
    while let Some(sent) = senders.join_next().await {
        for (number, at) in sent.expect("a sender") {
            all[number] = Some(at);
        }
    }
    all
}

fn request(path: &str, number: usize, source: usize) -> Vec<u8> {
    let head = format!(r#"{{"source":"bench-{source}","event":"e","data":{{"number":{number},"filler":""#);
    let body = format!("{head}{}\"}}}}", "x".repeat(SIZE - head.len() - 3));
    format!(
        "POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Reads one answer, which must be a 202.
async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) {
    buffer.clear();
    loop {
        assert!(stream.read_buf(buffer).await.expect("an answer") > 0, "the connection was closed");
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
