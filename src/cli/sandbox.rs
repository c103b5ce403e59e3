//! `hookstream sandbox`: the child process in which scripts run. Started by the worker, never by hand.

use std::process::ExitCode;

/// Run scripts that the worker sends on standard input.
///
/// Example: none; the worker starts it
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Lua's memory in bytes.
    #[arg(long, value_name = "BYTES")]
    memory: u64,
    /// Go on where the kernel refuses to confine the process.
    #[arg(long)]
    unsandboxed: bool,
}

pub fn run(args: &Args) -> ExitCode {
    crate::sandbox::child::run(args.memory, args.unsandboxed)
}
