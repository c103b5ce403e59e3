//! Measures a healthy hook on a filled store beside hostile neighbours: hooks with dead receivers and large events, tarpits that hold every
//! connection, and clients that read the history of another namespace. It should keep most of its rate.

use std::net::TcpListener;
use std::time::Duration;

use crate::common::CONCURRENCY;
use crate::common::history;
use crate::common::hostile::{hook, start_tarpit};
use crate::common::load;
use crate::common::preload::Size;
use crate::common::process::{Ports, Subject, folder_with_store, start_on_folder};
use crate::common::publish::Publisher;
use crate::common::sink::Sink;

/// The healthy receiver's response time. With `CONCURRENCY` attempts in flight it allows 640 deliveries per second, which
/// leaves CPU to spare: a lower rate shows unfairness and not load.
const RESPONSE_TIME: Duration = Duration::from_millis(100);
const EVENTS: usize = 3000;
const CONNECTIONS: usize = 16;
const ROUNDS: usize = 3;
/// Goal for the rate beside the neighbours divided by the rate alone.
const GOAL: f64 = 0.8;

const DEAD_HOOKS: usize = 24;
const DEAD_EVENTS: usize = 10;
const DEAD_EVENT_BYTES: usize = 1_000_000;
const TARPITS: usize = 2;
const TARPIT_CONCURRENCY: usize = 1024;
const HISTORY_ROWS: usize = 100_000;
const READERS: usize = 8;

pub fn run(_: &Sink) -> usize {
    let sink = Sink::start_delayed(RESPONSE_TIME);
    let mut lost = 0;
    let alone = start(&sink, "").0;
    let baseline = measure(&alone, &sink, &mut lost);
    drop(alone);
    println!(
        "a healthy hook alone: {baseline:.0} events/s (concurrency {CONCURRENCY}, receiver answers in {RESPONSE_TIME:?})"
    );
    for (neighbours, run) in [
        ("24 dead receivers with ten events of 1 MB each", beside_dead as fn(&Sink, &mut usize) -> f64),
        ("two tarpits with concurrency 1024", beside_tarpits),
        ("eight readers of a history of 100,000 deliveries of deleted hooks", beside_readers),
    ] {
        let rate = run(&sink, &mut lost);
        println!("  beside {neighbours}: {rate:.0} events/s, ratio {:.2} (goal {GOAL})", rate / baseline);
    }
    lost
}

/// Returns the median rate of the healthy hook, after a first round that is not counted.
fn measure(subject: &Subject, sink: &Sink, lost: &mut usize) -> f64 {
    let mut rates = Vec::new();
    for round in 0..=ROUNDS {
        let events = if round == 0 { EVENTS / 5 } else { EVENTS };
        let figures = load::run_round(subject, sink, CONNECTIONS, events);
        *lost += figures.lost;
        if round > 0 {
            rates.push(figures.rate);
        }
    }
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn beside_dead(sink: &Sink, lost: &mut usize) -> f64 {
    // A port that refuses connections.
    let refused = TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port");
    let dead: String = (0..DEAD_HOOKS)
        .map(|number| {
            hook("dead", &format!("dead-{number}"), refused, &format!("concurrency: {CONCURRENCY}"))
        })
        .collect();
    let (subject, _) = start(sink, &dead);
    let mut publisher = Publisher::connect(subject.address, "/v1/namespaces/dead/events");
    for number in 0..DEAD_HOOKS * DEAD_EVENTS {
        publisher.publish(&format!("dead-{}", number % DEAD_HOOKS), DEAD_EVENT_BYTES);
    }
    measure(&subject, sink, lost)
}

fn beside_tarpits(sink: &Sink, lost: &mut usize) -> f64 {
    let tarpit = start_tarpit();
    let delivery = format!("concurrency: {TARPIT_CONCURRENCY}, timeout: 10m");
    let hooks: String =
        (0..TARPITS).map(|number| hook("tarpit", &format!("tarpit-{number}"), tarpit, &delivery)).collect();
    let (subject, _) = start(sink, &hooks);
    let mut publisher = Publisher::connect(subject.address, "/v1/namespaces/tarpit/events");
    for number in 0..TARPITS * TARPIT_CONCURRENCY * 2 {
        publisher.publish(&format!("tarpit-{}", number % TARPITS), 100);
    }
    measure(&subject, sink, lost)
}

fn beside_readers(sink: &Sink, lost: &mut usize) -> f64 {
    let dir = folder_with_store(Size::medium());
    history::fill(&dir.path().join("data"), "history", HISTORY_ROWS);
    let (subject, ports) = start_on_folder(dir, Size::medium(), &manifests(sink, ""), 1);
    let readers = history::Readers::start(ports.api, "history", READERS);
    let rate = measure(&subject, sink, lost);
    println!("  the readers received {} lists", readers.stop());
    rate
}

fn start(sink: &Sink, neighbours: &str) -> (Subject, Ports) {
    start_on_folder(folder_with_store(Size::medium()), Size::medium(), &manifests(sink, neighbours), 1)
}

fn manifests(sink: &Sink, neighbours: &str) -> String {
    let delivery = format!("concurrency: {CONCURRENCY}");
    hook("default", "bench-0", sink.address(), &delivery) + neighbours
}
