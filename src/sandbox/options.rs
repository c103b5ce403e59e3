//! Configuration of the sandbox.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::memory::MemoryPool;
use crate::metrics::MemoryShareMetrics;

/// The memory of inputs, and that of replies, without a memory budget (`hookstream test` and tests).
const DEFAULT_MESSAGE_MEMORY: u64 = 128 << 20;

/// Limits of scripts, and how child processes are started.
#[derive(Clone, Debug)]
pub struct SandboxOptions {
    /// The deadline of one invocation.
    pub timeout: Duration,
    /// The Lua memory of one child, in bytes.
    pub memory: u64,
    /// The most children; each runs one invocation at a time.
    pub processes: usize,
    /// The program that the children run, with the subcommand `sandbox`.
    pub program: PathBuf,
    /// Bounds the inputs of all queued and running invocations together.
    pub input_memory: Arc<MemoryPool>,
    /// Bounds the replies of all invocations together. Not one pool with the inputs: a running invocation that waits for
    /// the memory of its reply would wait for queued ones, which wait for its process.
    pub reply_memory: Arc<MemoryPool>,
    /// Run scripts even if the kernel refuses to confine the children.
    pub allow_unsandboxed: bool,
}

impl Default for SandboxOptions {
    fn default() -> Self {
        let memory = || Arc::new(MemoryPool::new(DEFAULT_MESSAGE_MEMORY, MemoryShareMetrics::default()));
        SandboxOptions {
            timeout: Duration::from_secs(1),
            memory: 64 << 20,
            processes: std::thread::available_parallelism().map_or(1, usize::from),
            program: PathBuf::from("/proc/self/exe"),
            input_memory: memory(),
            reply_memory: memory(),
            allow_unsandboxed: false,
        }
    }
}
