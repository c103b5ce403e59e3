//! A soak of hostile load: dead receivers with large events, tarpits, templates that grow without bound, hungry scripts,
//! stalled clients and readers of the history, all at once. The worker must stay within its memory budget plus a fixed
//! overhead, and deliver every event of the healthy hook. `SOAK_SECONDS` sets the duration.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::common::hostile::{hook, hook_with_handler, stall, start_tarpit};
use crate::common::process::{Subject, start_with_flags, temp_folder};
use crate::common::publish::Publisher;
use crate::common::sink::Sink;
use crate::common::{history, load};

/// The default duration in seconds.
const SECONDS: u64 = 600;
/// The memory budget of the worker in MiB.
const BUDGET_MIB: f64 = 128.0;
/// The memory besides the budget: the program, its threads and caches, and what the allocator keeps.
const OVERHEAD_MIB: f64 = 128.0;
/// Memory of the sandbox processes, which the budget does not include: two with 64 MiB each.
const SANDBOX_MIB: f64 = 128.0;
const LARGE: usize = 1_000_000;
/// Events of the healthy hook in one round.
const EVENTS: usize = 2000;

pub fn run(sink: &Sink) -> usize {
    let seconds = std::env::var("SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SECONDS);
    let end = Instant::now() + Duration::from_secs(seconds);
    let dir = temp_folder();
    history::fill(&dir.path().join("data"), "history", 100_000);
    let budget = format!("{BUDGET_MIB}MiB");
    let (subject, ports) = start_with_flags(dir, &manifests(sink), 1, &["--memory-budget", &budget]);
    let idle = subject.resident_mib();
    let stop = Arc::new(AtomicBool::new(false));
    let publish = |namespace: &'static str, sources: &'static [&'static str], bytes, pause| {
        start_publisher(subject.address, namespace, sources, bytes, pause, stop.clone())
    };
    let mut publishers = vec![
        publish("dead", &["dead-0", "dead-1", "dead-2", "dead-3", "dead-4", "dead-5"], LARGE, 300),
        publish("tarpit", &["tarpit-0", "tarpit-1"], 100, 5),
        publish("tarpit", &["tarpit-0", "tarpit-1"], LARGE, 500),
        publish("scripts", &["template", "lambda"], 100_000, 100),
    ];
    publishers.push(start_stalling(subject.address, stop.clone()));
    let readers = history::Readers::start(ports.api, "history", 4);
    let (mut lost, mut delivered, mut peak, mut family) = (0, 0, 0.0_f64, 0.0_f64);
    while Instant::now() < end {
        let round = load::run_paced(&subject, sink, 4, EVENTS, Duration::from_millis(5), |_| true);
        lost += round.lost;
        delivered += EVENTS - round.lost;
        (peak, family) = (peak.max(subject.peak_mib()), family.max(subject.family_resident_mib()));
        println!(
            "  {:.0} events/s to the healthy hook, p99 {:.0} ms; resident {:.0} MiB",
            round.rate,
            round.p99(),
            subject.resident_mib()
        );
    }
    stop.store(true, Ordering::Relaxed);
    let hostile: usize = publishers.into_iter().filter_map(|thread| thread.join().ok()).sum();
    report(&subject, seconds, delivered, hostile, readers.stop());
    println!(
        "memory: {idle:.0} MiB when idle, {peak:.0} MiB at most; goal: the budget of {BUDGET_MIB:.0} MiB plus {OVERHEAD_MIB:.0} MiB"
    );
    println!(
        "with the sandbox processes: {family:.0} MiB at most; goal: {:.0} MiB",
        BUDGET_MIB + OVERHEAD_MIB + SANDBOX_MIB
    );
    if peak > BUDGET_MIB + OVERHEAD_MIB {
        println!("FAILED: the worker exceeded its memory budget");
        lost += 1;
    }
    lost
}

fn report(subject: &Subject, seconds: u64, delivered: usize, hostile: usize, lists: usize) {
    println!(
        "soak of {seconds} s: {delivered} events delivered to the healthy hook beside {hostile} hostile requests and {lists} lists; {:.0} s of CPU",
        subject.usage().cpu_us / 1e6
    );
}

fn manifests(sink: &Sink) -> String {
    let refused = TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port");
    let tarpit = start_tarpit();
    let mut all = hook("default", "bench-0", sink.address(), "concurrency: 64");
    for number in 0..6 {
        all += &hook("dead", &format!("dead-{number}"), refused, "concurrency: 64, retry: {maxAge: 60s}");
    }
    for number in 0..2 {
        let delivery = "concurrency: 1024, timeout: 10m, retry: {maxAge: 60s}";
        all += &hook("tarpit", &format!("tarpit-{number}"), tarpit, delivery);
    }
    let body = "{*filler*}".repeat(5000);
    let template = format!("webhookCustom: {{url: 'http://{}/', body: '{body}'}}", sink.address());
    all += &hook_with_handler("scripts", "template", &template, "concurrency: 64, retry: {maxAge: 60s}");
    let function = "return function (data) local t = {} while true do t[#t + 1] = data.filler .. #t end end";
    let lambda = format!("lambda: {{functions: ['{function}']}}");
    all + &hook_with_handler("scripts", "lambda", &lambda, "concurrency: 64, retry: {maxAge: 60s}")
}

/// Publishes events in turn to the sources with a pause in milliseconds until `stop`. Returns the number of requests.
fn start_publisher(
    address: SocketAddr,
    namespace: &str,
    sources: &'static [&'static str],
    bytes: usize,
    pause: u64,
    stop: Arc<AtomicBool>,
) -> JoinHandle<usize> {
    let path = format!("/v1/namespaces/{namespace}/events");
    std::thread::spawn(move || {
        let requests = AtomicUsize::new(0);
        let mut publisher = Publisher::connect(address, &path);
        while !stop.load(Ordering::Relaxed) {
            let number = requests.fetch_add(1, Ordering::Relaxed);
            let source = sources[number % sources.len()];
            // The worker may reject an event, or close the connection of a client that it limits.
            if publisher.try_publish(source, bytes).is_err() {
                publisher = Publisher::connect(address, &path);
            }
            std::thread::sleep(Duration::from_millis(pause));
        }
        requests.into_inner()
    })
}

/// Keeps connections open that never finish a head or a body, until `stop`. Returns their number.
fn start_stalling(address: SocketAddr, stop: Arc<AtomicBool>) -> JoinHandle<usize> {
    let head = format!(
        "POST /v1/namespaces/default/events HTTP/1.1\r\nhost: localhost\r\nx-filler: {}",
        "x".repeat(30_000)
    );
    let body = format!(
        "POST /v1/namespaces/default/relays/unknown HTTP/1.1\r\nhost: localhost\r\ncontent-length: 900000\r\n\r\n{}",
        "x".repeat(500_000)
    );
    std::thread::spawn(move || {
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            let silent = stall(address, b"", 200);
            let heads = stall(address, head.as_bytes(), 200);
            let bodies = stall(address, body.as_bytes(), 60);
            count += silent.len() + heads.len() + bodies.len();
            std::thread::sleep(Duration::from_secs(3));
        }
        count
    })
}
