//! `hookstream completion`: prints the completion script of a shell.

use std::process::ExitCode;

use clap_complete::{Shell, generate};

use super::failure::CommandResult;
use super::output::print_bytes;
use super::visible_program;

/// Print the completion script of a shell.
///
/// bash: put `source <(hookstream completion bash)` into ~/.bashrc. zsh: write the script to a file _hookstream in a folder of
/// $fpath. fish: write it to ~/.config/fish/completions/hookstream.fish. PowerShell: append it to $PROFILE.
///
/// Example: hookstream completion zsh
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The shell.
    shell: Shell,
}

pub fn run(args: &Args) -> CommandResult {
    // clap_complete panics if a reader has closed the pipe, so it writes into memory.
    let mut script = Vec::new();
    generate(args.shell, &mut visible_program(), "hookstream", &mut script);
    print_bytes(&script);
    Ok(ExitCode::SUCCESS)
}
