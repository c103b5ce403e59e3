//! The code that runs in a child: the hidden subcommand `sandbox`.
//!
//! Purpose: reads invocations from standard input and runs them one after the other, until the worker closes the pipe.
//!
//! Invariants: the process is confined before it reads the first script, unless `unsandboxed` allows otherwise; the
//! handshake reports it. No state of one invocation is visible to the next.
//!
//! Out of scope: deadlines that Lua cannot check, such as a pattern match that never ends (the worker kills the child).

mod confine;
mod json;
mod native;
mod pcre;
mod regex;
mod vm;

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use serde::Serialize;

use super::protocol::{self, Handshake, InvocationError, Reply};
use vm::Vm;

/// Runs invocations until standard input is closed. `memory`: the limit of Lua's memory in bytes. `unsandboxed`: run even if
/// the kernel does not confine the process.
pub fn run(memory: u64, unsandboxed: bool) -> ExitCode {
    let lua_memory = usize::try_from(memory).unwrap_or(usize::MAX);
    let vm = Vm::new(lua_memory);
    // Confine after creating the interpreter, which needs more system calls, and before the first script.
    let unconfined = confine::confine(memory).err();
    let refused = unconfined.is_some() && !unsandboxed;
    if send(&Handshake { unconfined }).is_none() || refused {
        return ExitCode::FAILURE;
    }
    let Ok(mut vm) = vm else { return ExitCode::FAILURE };
    loop {
        let Some(body) = protocol::read_message(std::io::stdin().lock(), protocol::MAX_REQUEST) else {
            return ExitCode::SUCCESS;
        };
        let started = Instant::now();
        // The worker never sends an invalid request, so exit without a reply.
        let (outcome, logs) = match protocol::parse_request(&body) {
            Some((budget, request)) => vm.run(&request, started + budget),
            None => return ExitCode::FAILURE,
        };
        // An invocation that ran out of time or memory may have left the interpreter in any state.
        let broken = matches!(outcome, Err(InvocationError::Timeout | InvocationError::Memory));
        let last = confine::cpu_used() > confine::CPU / 2;
        if send(&Reply { outcome, logs, last }).is_none() || last {
            return ExitCode::SUCCESS;
        }
        drop(body);
        if broken {
            match Vm::new(lua_memory) {
                Ok(fresh) => vm = fresh,
                Err(_) => return ExitCode::FAILURE,
            }
        } else {
            vm.collect_garbage();
        }
    }
}

fn send<T: Serialize>(message: &T) -> Option<()> {
    let frame = protocol::encode(message, protocol::MAX_REPLY)?;
    let mut output = std::io::stdout().lock();
    output.write_all(&frame).and_then(|()| output.flush()).ok()
}
