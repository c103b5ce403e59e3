//! `hookstream sandbox`: the child process in which scripts run. Only the worker starts it.

use std::process::ExitCode;

/// Run scripts that the worker sends on standard input.
///
/// Example: none; the worker starts it
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The Lua memory limit in bytes.
    #[arg(long, value_name = "BYTES")]
    memory: u64,
    /// Run even if the kernel cannot confine the process.
    #[arg(long)]
    unsandboxed: bool,
}

pub fn run(args: &Args) -> ExitCode {
    crate::sandbox::child::run(args.memory, args.unsandboxed)
}
