//! The measured programs, and the rounds of each.

use crate::common::counters::SyscallCounter;
use crate::common::figures::Spread;
use crate::common::load::{Commits, Load, Round, run_load};
use crate::common::preload::{self, Size};
use crate::common::process::{self, Ports, Subject};
use crate::common::sink::Sink;

/// A program that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Signs and forwards.
    Bare,
    /// Appends each group of requests to a file and syncs it, then signs and forwards.
    Syncing,
    /// `hookstream standalone` on a filled store.
    Durable(Size),
    /// `hookstream standalone` on a new store in each round.
    OnEmptyStore,
}

impl Program {
    pub fn name(self) -> &'static str {
        match self {
            Program::Bare => "bare relay",
            Program::Syncing => "syncing relay",
            Program::Durable(_) => "Hookstream",
            Program::OnEmptyStore => "Hookstream, empty store",
        }
    }

    fn start(self, sink: &Sink, hooks: usize) -> (Subject, Option<Ports>) {
        match self {
            Program::Bare => (process::start_bare_relay(sink.address()), None),
            Program::Syncing => (process::start_syncing_relay(sink.address()), None),
            Program::Durable(size) => start_durable(sink, Some(size), hooks),
            Program::OnEmptyStore => start_durable(sink, None, hooks),
        }
    }
}

fn start_durable(sink: &Sink, size: Option<Size>, hooks: usize) -> (Subject, Option<Ports>) {
    let (subject, ports) = process::start_durable(sink.address(), size, hooks, preload::WINDOW);
    (subject, Some(ports))
}

/// A program with its rounds.
pub struct Measured {
    pub program: Program,
    hooks: usize,
    running: Option<(Subject, Option<Ports>)>,
    pub rounds: Vec<Round>,
    /// Operations of a group commit, of each round.
    pub operations: Vec<f64>,
    /// Deliveries that were lost in warm-up rounds.
    warm_up_lost: usize,
}

impl Measured {
    pub fn new(program: Program) -> Measured {
        Measured::with_hooks(program, 1)
    }

    /// Each event is delivered to `hooks` hooks.
    pub fn with_hooks(program: Program, hooks: usize) -> Measured {
        Measured {
            program,
            hooks,
            running: None,
            rounds: Vec::new(),
            operations: Vec::new(),
            warm_up_lost: 0,
        }
    }

    /// Measures a process that is already running.
    pub fn running(program: Program, subject: Subject, ports: Ports) -> Measured {
        Measured { running: Some((subject, Some(ports))), ..Measured::new(program) }
    }

    /// Runs one round. Starts the program first if it does not run, and warms it up.
    pub fn run(&mut self, sink: &Sink, load: &Load) {
        self.ensure_running(sink, load);
        let Some((subject, ports)) = &self.running else { return };
        let before = ports.as_ref().map(|ports| Commits::read(&ports.ops));
        let round = run_load(subject, sink, &Load { hooks: self.hooks, ..load.clone() });
        if let Some((before, ports)) = before.zip(ports.as_ref()) {
            self.operations.push(Commits::read(&ports.ops).operations_per_commit(before));
        }
        self.rounds.push(round);
        if self.program == Program::OnEmptyStore {
            // After a round its store is not empty any more.
            self.running = None;
        }
    }

    fn ensure_running(&mut self, sink: &Sink, load: &Load) {
        if self.running.is_some() {
            return;
        }
        let running = self.program.start(sink, self.hooks);
        // Warms up the connections, the caches and the store's first pages.
        let warm_up = Load { hooks: self.hooks, ..Load::full(load.connections.max(16), 4000) };
        self.warm_up_lost += run_load(&running.0, sink, &warm_up).lost;
        self.running = Some(running);
    }

    /// Forgets the rounds, before another load. The program keeps running.
    pub fn forget_rounds(&mut self) -> usize {
        let lost = self.lost();
        (self.rounds, self.operations, self.warm_up_lost) = (Vec::new(), Vec::new(), 0);
        lost
    }

    pub fn lost(&self) -> usize {
        self.rounds.iter().map(|round| round.lost).sum::<usize>() + self.warm_up_lost
    }

    pub fn rates(&self) -> Vec<f64> {
        self.rounds.iter().map(|round| round.rate).collect()
    }

    pub fn spread(&self, figure: fn(&Round) -> f64) -> Spread {
        Spread::of(self.rounds.iter().map(figure))
    }

    /// Counts the system calls per event of the threads whose names start with `threads`, in a round that is not measured,
    /// because counting costs time.
    pub fn count_system_calls(&mut self, sink: &Sink, load: &Load, threads: &str) -> Option<f64> {
        self.ensure_running(sink, load);
        let (subject, _) = self.running.as_ref()?;
        let counter = SyscallCounter::start(subject.pid(), threads)?;
        self.warm_up_lost += run_load(subject, sink, &Load { hooks: self.hooks, ..load.clone() }).lost;
        counter.stop().map(|calls| calls / load.events as f64)
    }
}
