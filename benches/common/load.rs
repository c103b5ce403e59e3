//! Rounds of load on a subject, and their figures.

use std::time::{Duration, Instant};

use super::counters::Usage;
use super::figures::percentile;
use super::generator;
use super::process::Subject;
use super::sink::Sink;

/// Missing deliveries count as lost after this time without any.
const LOST_AFTER: Duration = Duration::from_secs(20);

/// The load of a round.
#[derive(Clone, Debug)]
pub struct Load {
    pub connections: usize,
    pub events: usize,
    /// Events of a request. More than 1: the requests are batches.
    pub batch: usize,
    pub pace: Pace,
    /// Hooks that receive each event. Hook N has the URL path `/N`.
    pub hooks: usize,
}

/// When the requests are sent.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// Each connection sends when it has received a response.
    Full,
    /// The same, after a pause.
    Pause(Duration),
    /// Events per second over all connections, whether or not earlier ones were answered.
    Rate(f64),
}

impl Load {
    /// Returns a load at full speed, with one event a request and one hook.
    pub fn full(connections: usize, events: usize) -> Load {
        Load { connections, events, batch: 1, pace: Pace::Full, hooks: 1 }
    }
}

/// The figures of one round. Shares of an event include those of its deliveries.
#[derive(Debug)]
pub struct Round {
    /// Deliveries per second, from the first request to the last delivery.
    pub rate: f64,
    /// CPU microseconds of the subject per event.
    pub cpu_us: f64,
    /// CPU microseconds of the generator and the receiver per event.
    pub own_cpu_us: f64,
    /// Bytes that the subject wrote to the disk per event.
    pub written: f64,
    /// Milliseconds from publish to delivery, sorted.
    pub latencies: Vec<f64>,
    /// The longest time from a request to its 202, in milliseconds.
    pub longest_accept: f64,
    /// Requests that were refused for a moment and repeated.
    pub refused: usize,
    /// Deliveries of accepted events that did not arrive.
    pub lost: usize,
}

impl Round {
    pub fn p50(&self) -> f64 {
        percentile(&self.latencies, 0.5)
    }

    pub fn p99(&self) -> f64 {
        percentile(&self.latencies, 0.99)
    }
}

/// Runs one round at full speed and waits for every event.
pub fn run_round(subject: &Subject, sink: &Sink, connections: usize, events: usize) -> Round {
    run(&[subject], sink, &Load::full(connections, events), |_| true)
}

/// Runs one round and waits for every delivery.
pub fn run_load(subject: &Subject, sink: &Sink, load: &Load) -> Round {
    run(&[subject], sink, load, |_| true)
}

/// Runs one round on several processes that share a store: the connections are divided between them. Usage is their sum.
pub fn run_load_on(subjects: &[&Subject], sink: &Sink, load: &Load) -> Round {
    run(subjects, sink, load, |_| true)
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
    run(&[subject], sink, &Load { pace: Pace::Pause(pause), ..Load::full(connections, events) }, is_counted)
}

fn run(subjects: &[&Subject], sink: &Sink, load: &Load, is_counted: fn(usize) -> bool) -> Round {
    let counted = (0..load.events).filter(|number| is_counted(*number)).count() * load.hooks;
    sink.expect_fan_out(load.events, load.hooks);
    let usage = || subjects.iter().map(|subject| subject.usage()).sum::<Usage>();
    let (before, own_before, started) = (usage(), Usage::own(), Instant::now());
    let sent = generator::send_all(subjects, load);
    let is_counted_delivery = |index: usize| is_counted(index / load.hooks);
    let mut last = (sink.count(), Instant::now());
    let delivered =
        || (0..).zip(&sink.arrivals()).filter(|(n, at)| is_counted_delivery(*n) && at.is_some()).count();
    while (last.0 < counted || delivered() < counted) && last.1.elapsed() < LOST_AFTER {
        std::thread::sleep(Duration::from_millis(1));
        let count = sink.count();
        if count > last.0 {
            last = (count, Instant::now());
        }
    }
    let used = usage().since(before);
    let own = Usage::own().since(own_before);
    let arrivals = sink.arrivals();
    let end = arrivals.iter().flatten().max().copied().unwrap_or(started);
    let arrived = arrivals.iter().enumerate().filter(|(index, _)| is_counted_delivery(*index));
    let mut latencies: Vec<f64> = arrived
        .filter_map(|(index, at)| {
            let sent = sent.at[index / load.hooks]?;
            Some((*at)?.duration_since(sent).as_secs_f64() * 1000.0)
        })
        .collect();
    latencies.sort_by(f64::total_cmp);
    let events = load.events as f64;
    Round {
        rate: latencies.len() as f64 / end.duration_since(started).as_secs_f64(),
        cpu_us: used.cpu_us / events,
        own_cpu_us: own.cpu_us / events,
        written: used.written / events,
        longest_accept: sent.longest_accept.as_secs_f64() * 1000.0,
        refused: sent.refused,
        lost: counted - latencies.len(),
        latencies,
    }
}

/// Runs one round and returns the events per second by the worker's own counters, because a lambda sends nothing to the
/// receiver. `ops` is the address of the worker's metrics. Returns None if an event was not delivered.
pub fn run_counted(subject: &Subject, ops: &str, connections: usize, events: usize) -> Option<f64> {
    let before = read_delivered(ops);
    let started = Instant::now();
    generator::send_all(&[subject], &Load::full(connections, events));
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
    let text = read_metrics(ops);
    let lines = text.lines().filter(|line| line.starts_with("hookstream_deliveries_finished_total{"));
    let delivered = lines.filter(|line| line.contains(r#"state="delivered""#));
    delivered.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum()
}

/// The group commits of a worker since it started.
#[derive(Clone, Copy, Debug)]
pub struct Commits {
    count: f64,
    operations: f64,
}

impl Commits {
    pub fn read(ops: &str) -> Commits {
        let text = read_metrics(ops);
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().parse().ok()).unwrap_or(f64::NAN)
        };
        Commits {
            count: value("hookstream_store_commit_operations_count "),
            operations: value("hookstream_store_commit_operations_sum "),
        }
    }

    /// Returns the operations of a commit since an earlier reading.
    pub fn operations_per_commit(self, before: Commits) -> f64 {
        (self.operations - before.operations) / (self.count - before.count)
    }
}

fn read_metrics(ops: &str) -> String {
    let mut stream = std::net::TcpStream::connect(ops).expect("the metrics");
    let request = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    std::io::Write::write_all(&mut stream, request.as_bytes()).expect("the request is sent");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stream, &mut text).expect("metrics");
    text
}
