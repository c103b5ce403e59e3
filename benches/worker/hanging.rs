//! One receiver of a hundred hangs: the others shall not notice.

use std::net::SocketAddr;
use std::time::Duration;

use crate::load;
use crate::process::{folder, standalone_with};
use crate::sink::Sink;

const HOOKS: usize = 100;
const EVENTS: usize = 10_000;
const CONNECTIONS: usize = 16;
/// Before each event of a connection: some 1,500 events a second, which leave the machine room, so that what is measured
/// is the waiting for each other.
const PAUSE: Duration = Duration::from_millis(10);
const ROUNDS: usize = 3;
const GOAL: f64 = 1.2;

/// All but the last one's events.
fn of_the_others(number: usize) -> bool {
    number % HOOKS != HOOKS - 1
}

pub fn run(sink: &Sink) -> usize {
    // Connections are taken by the kernel, and nobody ever answers.
    let hanging = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = hanging.local_addr().expect("an address");
    let subjects = [sink.address(), address]
        .map(|last| standalone_with(folder(), &manifests(sink.address(), last), HOOKS).0);
    let (mut lost, mut p99) = (0, [Vec::new(), Vec::new()]);
    for round in 0..=ROUNDS {
        for (subject, times) in subjects.iter().zip(&mut p99) {
            let events = if round == 0 { EVENTS / 5 } else { EVENTS };
            let round_of = load::paced(subject, sink, CONNECTIONS, events, PAUSE, of_the_others);
            lost += round_of.lost;
            if round > 0 {
                times.push(round_of.p99);
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
        "one of {HOOKS} receivers hangs: p99 to delivered of the others {with:.1} ms, without it {without:.1} ms: {:.2} (goal {GOAL})",
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
