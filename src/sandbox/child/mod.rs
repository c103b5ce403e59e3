//! The inside of a child: the hidden subcommand `sandbox`.
//!
//! Purpose: runs one call after the other, as the worker asks on standard input, until that ends.
//!
//! Invariants: no script is read before the process is confined (or the worker was told that it is not, and asked for it
//! all the same); nothing of one call is there in the next.
//!
//! Left to others: deadlines that Lua cannot see, such as a pattern that never ends (the worker kills).

mod confine;
mod json;
mod native;
mod vm;

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use serde::Serialize;

use super::protocol::{self, Failed, Hello, Reply};
use vm::{Log, Vm};

/// Runs calls until standard input ends. `memory`: Lua's, in bytes. `unsandboxed`: also where the kernel refuses.
pub fn run(memory: u64, unsandboxed: bool) -> ExitCode {
    let lua_memory = usize::try_from(memory).unwrap_or(usize::MAX);
    let vm = Vm::new(lua_memory);
    // After the interpreter and before the first script.
    let unconfined = confine::confine(memory).err();
    let refused = unconfined.is_some() && !unsandboxed;
    if say(&Hello { unconfined }).is_none() || refused {
        return ExitCode::FAILURE;
    }
    let Ok(mut vm) = vm else { return ExitCode::FAILURE };
    loop {
        let Some(body) = protocol::listen(std::io::stdin().lock(), protocol::MAX_REQUEST) else {
            return ExitCode::SUCCESS;
        };
        let started = Instant::now();
        // The worker never writes another: there is no call to answer.
        let (outcome, logs) = match protocol::asked(&body) {
            Some((budget, job)) => vm.run(&job, started + budget),
            None => return ExitCode::FAILURE,
        };
        // What ran out of something may have left the interpreter in any state.
        let broken = matches!(outcome, Err(Failed::Timeout | Failed::Memory));
        let last = confine::cpu_used() > confine::CPU / 2;
        let logs = logs.into_iter().map(|Log { level, text }| protocol::Log { level, text }).collect();
        if say(&Reply { outcome, logs, last }).is_none() || last {
            return ExitCode::SUCCESS;
        }
        drop(body);
        if broken {
            match Vm::new(lua_memory) {
                Ok(fresh) => vm = fresh,
                Err(_) => return ExitCode::FAILURE,
            }
        } else {
            vm.tidy();
        }
    }
}

fn say<T: Serialize>(message: &T) -> Option<()> {
    let frame = protocol::frame(message, protocol::MAX_REPLY)?;
    let mut output = std::io::stdout().lock();
    output.write_all(&frame).and_then(|()| output.flush()).ok()
}
