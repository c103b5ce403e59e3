//! A program with its rounds.

use crate::Bench;
use crate::common::figures::Spread;
use crate::common::load::{Load, run_load_on};
use crate::programs::Program;

/// Events of the round that is not measured: it warms up connections, caches and plans.
const WARM_UP: usize = 2000;

/// The figures of one round, an event.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Deliveries per second, from the first request to the last delivery.
    pub rate: f64,
    /// CPU microseconds of the workers, or of the bare program.
    pub cpu_us: f64,
    /// CPU microseconds of the server.
    pub server_us: f64,
    /// Bytes of the server's log.
    pub wal: f64,
    /// CPU microseconds of the generator and the receiver.
    pub own_us: f64,
}

pub struct Measured {
    pub program: Program,
    pub rounds: Vec<Figures>,
    /// Accepted events that were not delivered, those of rounds that were not measured included.
    pub lost: usize,
    refused: usize,
}

impl Measured {
    /// Warms the program up.
    pub fn new(bench: &Bench, program: Program) -> Measured {
        let mut measured = Measured { program, rounds: Vec::new(), lost: 0, refused: 0 };
        measured.run(bench, &Load::full(16, WARM_UP));
        measured.forget_rounds();
        measured
    }

    /// Runs one round, and waits until its outcomes are committed.
    pub fn run(&mut self, bench: &Bench, load: &Load) {
        let subjects: Vec<_> = self.program.subjects.iter().collect();
        let workers_cpu = || subjects.iter().map(|subject| subject.usage().cpu_us).sum::<f64>();
        let (server, cpu) = (bench.server.usage(), workers_cpu());
        let round = run_load_on(&subjects, &bench.sink, load);
        if round.lost == 0 {
            self.program.wait_until_settled();
        }
        let (server, cpu) = (bench.server.usage().since(server), workers_cpu() - cpu);
        let events = load.events as f64;
        self.lost += round.lost;
        self.refused += round.refused;
        self.rounds.push(Figures {
            rate: round.rate,
            cpu_us: cpu / events,
            server_us: server.cpu_us / events,
            wal: server.wal_bytes / events,
            own_us: round.own_cpu_us,
        });
    }

    pub fn forget_rounds(&mut self) {
        self.rounds.clear();
        self.refused = 0;
    }

    pub fn rates(&self) -> Vec<f64> {
        self.rounds.iter().map(|round| round.rate).collect()
    }

    pub fn spread(&self, figure: fn(&Figures) -> f64) -> Spread {
        Spread::of(self.rounds.iter().map(figure))
    }

    /// Prints the medians.
    pub fn print(&self, name: &str) {
        println!(
            "  {name:28} {:.0}/s, CPU of it {:.0}, of the server {:.0}, of generator and receiver {:.0}; WAL {:.0} bytes/event",
            self.spread(|round| round.rate),
            self.spread(|round| round.cpu_us),
            self.spread(|round| round.server_us),
            self.spread(|round| round.own_us),
            self.spread(|round| round.wal),
        );
        if self.refused > 0 {
            println!("  {:28} refused {} requests for a moment", "", self.refused);
        }
    }
}
