//! Measures the latency of healthy hooks on a filled store while one of a hundred receivers hangs. It should not change.

use std::net::SocketAddr;
use std::time::Duration;

use crate::common::load;
use crate::common::preload::Size;
use crate::common::process::start_on_store;
use crate::common::sink::Sink;

const HOOKS: usize = 100;
const EVENTS: usize = 10_000;
const CONNECTIONS: usize = 16;
/// Pause before each event of a connection. About 1,500 events per second leave CPU to spare, so that the latency shows
/// contention between hooks and not load.
const PAUSE: Duration = Duration::from_millis(10);
const ROUNDS: usize = 3;
/// Goal for the p99 latency with a hanging receiver divided by the latency without one.
const GOAL: f64 = 1.2;

/// Returns true for events of hooks with a healthy receiver: all but the last hook.
fn is_for_healthy_receiver(number: usize) -> bool {
    number % HOOKS != HOOKS - 1
}

pub fn run(sink: &Sink) -> usize {
    // The kernel accepts connections into the backlog, and no process reads from them.
    let hanging = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = hanging.local_addr().expect("an address");
    let subjects = [sink.address(), address]
        .map(|last| start_on_store(Size::medium(), &manifests(sink.address(), last), HOOKS).0);
    let (mut lost, mut p99) = (0, [Vec::new(), Vec::new()]);
    for round in 0..=ROUNDS {
        for (subject, times) in subjects.iter().zip(&mut p99) {
            let events = if round == 0 { EVENTS / 5 } else { EVENTS };
            let figures = load::run_paced(subject, sink, CONNECTIONS, events, PAUSE, is_for_healthy_receiver);
            lost += figures.lost;
            if round > 0 {
                times.push(figures.p99());
            }
        }
    }
    let median = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let [without, with] = &mut p99;
    let (without, with) = (median(without), median(with));
    println!(
        "one of {HOOKS} receivers hangs: p99 to delivery of the other hooks {with:.1} ms, {without:.1} ms without a hanging receiver: ratio {:.2} (goal {GOAL})",
        with / without
    );
    lost
}

fn manifests(sink: SocketAddr, last: SocketAddr) -> String {
    let hook = |number: usize| {
        let receiver = if number == HOOKS - 1 { last } else { sink };
        format!(
            "---\napiVersion: hookstream.dev/v1alpha1\nkind: EventHook\nmetadata: {{name: h{number}}}\n\
             spec: {{source: bench-{number}, handler: {{webhook: {{url: 'http://{receiver}/'}}}}, delivery: {{timeout: 5s}}}}\n"
        )
    };
    (0..HOOKS).map(hook).collect()
}
