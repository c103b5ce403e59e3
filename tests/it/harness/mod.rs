//! The foundation of the integration tests: a control plane, processes, receivers, and waiting with a deadline.
//!
//! Invariants: nothing static holds a client or a task of a test's runtime, because each test has its own. No helper
//! sleeps for a guessed time. Everything that a test started ends with the test binary, however that ends (`watchdog`).
// Each helper is used by some test modules, by some benchmarks and by the browser tests only.
#![allow(dead_code, unused_imports)]

mod accounts;
pub mod auth0;
pub mod auth0_objects;
mod controlplane;
pub mod deliveries;
pub mod helm;
pub mod http;
mod kong;
pub mod manifests;
pub mod metrics;
mod namespace;
pub mod objects;
pub mod own_cluster;
pub mod postgres;
mod process;
mod receiver;
mod response_gate;
pub mod standalone;
mod tools;
pub mod watchdog;
pub mod worker;
pub mod world;

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub use accounts::Accounts;
pub use auth0::Auth0;
pub use controlplane::{ControlPlane, client_of, control_plane};
pub use kong::Kong;
pub use namespace::Namespace;
pub use process::Process;
pub use receiver::{Receiver, Recorded, Reply};
pub use response_gate::ResponseGate;
pub use tools::{run, tool};

/// Long enough for a loaded machine. A passing test never waits for it.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Polls `check` until it returns `Ok`. Panics with its last error when the deadline has passed.
pub async fn eventually<T>(
    deadline: Duration,
    what: &str,
    mut check: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        let error = match check().await {
            Ok(value) => return value,
            Err(error) => error,
        };
        assert!(start.elapsed() < deadline, "not within {deadline:?}: {what}\nlast error: {error}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Sleeps until `length` has passed since `start`.
///
/// For periods that the test itself configured, such as a snooze period or a delivery's maximum age: the clock proves that
/// they are over. It must not stand for work of a process; wait for the result of that work instead.
pub async fn elapse(start: Instant, length: Duration) {
    tokio::time::sleep(length.saturating_sub(start.elapsed())).await;
}

/// Returns the seed for a test's random choices, and prints it: `SOAK_SEED`, otherwise a random one.
pub fn seed() -> u64 {
    let seed = number("SOAK_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("SOAK_SEED={seed} repeats the random choices of this test");
    seed
}

/// Returns the number in an environment variable, or None if it is not set.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

/// Returns a port that was free a moment ago, and never the same one twice, because two servers that start together would
/// compete for it. The range is below the system's ephemeral ports: a connection cannot take the port while its server
/// restarts.
pub fn free_port() -> u16 {
    static NEXT: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(fastrand::u32(..)));
    const PORTS: Range<u16> = 12_000..32_000;
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % u32::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(step).expect("less than the range is long");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
