//! `hookstream man`: prints manual pages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Command;
use clap_mangen::Man;

use super::failure::{CommandResult, Failure, OrFail};
use super::output::print_bytes;
use super::visible_program;

/// Print the manual page of a command, or write all pages to a folder.
///
/// Example: hookstream man deliveries list | man -l -
/// Example: hookstream man --output /usr/local/share/man/man1
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The command, such as deliveries list. Default: hookstream itself.
    #[arg(value_name = "COMMAND")]
    words: Vec<String>,
    /// Write the pages of all commands into this folder instead of printing one. Created if it does not exist.
    #[arg(long, value_name = "DIR", conflicts_with = "words", env = "HOOKSTREAM_MAN_OUTPUT")]
    output: Option<PathBuf>,
}

pub fn run(args: &Args) -> CommandResult {
    let mut program = visible_program();
    // Gives each subcommand its full name and the flags of all.
    program.build();
    match &args.output {
        Some(folder) => {
            fs::create_dir_all(folder).or_fail(|| format!("creating {}", folder.display()))?;
            write_pages(&program, "hookstream", folder)?;
        }
        None => print_bytes(&page(find_command(&program, &args.words)?, &page_name(&args.words))?),
    }
    Ok(ExitCode::SUCCESS)
}

fn page_name(words: &[String]) -> String {
    std::iter::once("hookstream").chain(words.iter().map(String::as_str)).collect::<Vec<_>>().join("-")
}

fn find_command<'c>(program: &'c Command, words: &[String]) -> Result<&'c Command, Failure> {
    words.iter().try_fold(program, |command, word| {
        command.find_subcommand(word).ok_or_else(|| {
            Failure::new(format!(
                "there is no command `hookstream {}`: see `hookstream --help`",
                words.join(" ")
            ))
        })
    })
}

/// Renders the page of one command.
fn page(command: &Command, name: &str) -> Result<Vec<u8>, Failure> {
    let mut page = Vec::new();
    let source = concat!("hookstream ", env!("CARGO_PKG_VERSION"));
    Man::new(command.clone())
        .source(source)
        .render(&mut page)
        .or_fail(|| format!("rendering the page of {name}"))?;
    Ok(page)
}

/// Writes the page of a command and of its subcommands.
fn write_pages(command: &Command, name: &str, folder: &Path) -> Result<(), Failure> {
    let path = folder.join(format!("{name}.1"));
    fs::write(&path, page(command, name)?).or_fail(|| format!("writing {}", path.display()))?;
    let visible =
        command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help");
    for subcommand in visible {
        write_pages(subcommand, &format!("{name}-{}", subcommand.get_name()), folder)?;
    }
    Ok(())
}
