//! What every integration test stands on: a control plane, processes of ours, receivers, and waiting with a deadline.
//!
//! Invariants: nothing static holds a client or a task of a test's runtime (each test has its own); nothing sleeps for
//! a guessed time; whatever was started is gone when the test binary is, however that ended (`watchdog`).
//!
//! Left to others: what is promised, which is what the tests say.
// Each helper has its users in some modules only, and modules come and go.
#![allow(dead_code, unused_imports)]

mod accounts;
mod controlplane;
mod namespace;
mod process;
mod receiver;
mod tools;
pub mod watchdog;

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub use accounts::Accounts;
pub use controlplane::{ControlPlane, client_of, control_plane};
pub use namespace::Namespace;
pub use process::Process;
pub use receiver::{Receiver, Recorded, Reply};
pub use tools::{run, tool};

/// Long enough for a loaded machine; a test that passes never waits for it.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Asks until the answer is `Ok`, and panics with the last refusal when the deadline has passed.
pub async fn eventually<T>(
    deadline: Duration,
    what: &str,
    mut ask: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        let last = match ask().await {
            Ok(value) => return value,
            Err(last) => last,
        };
        assert!(start.elapsed() < deadline, "not within {deadline:?}: {what}\nlast seen: {last}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// A port that was free a moment ago, never the same twice: two servers started together would fight for it. Below those
/// that the system gives to connections, one of which could take it while its server is restarted.
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
