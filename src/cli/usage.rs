//! Reports errors of the command line in one line, with what is wrong and where to read more.

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Error};

use super::output::strip_control_chars;
use super::program::program_name;

/// Prints help and version as clap does, and any other error as one line on standard error. Returns the exit code.
pub fn report(error: &Error, command: &Command, args: &[String]) -> ExitCode {
    let is_help = matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    if is_help {
        // A reader that closed the pipe is no failure.
        error.print().ok();
    } else {
        eprintln!("hookstream: {}", one_line(error, command, args));
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// Joins the lines of clap's message, and names the command whose help has more.
fn one_line(error: &Error, command: &Command, args: &[String]) -> String {
    let rendered = error.render().to_string();
    let mut lines = rendered
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty());
    let mut text = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let mut separator = if text.ends_with(':') { " " } else { ": " };
    for line in lines {
        text.push_str(separator);
        text.push_str(line.strip_prefix("tip: ").unwrap_or(line));
        separator = ", ";
    }
    let (words, used) = used_command(command, args);
    if let Some(variable) = variable_of(error, used, args) {
        text.push_str(&format!(" (from the variable {variable})"));
    }
    format!("{}: see `{words} --help`", strip_control_chars(&text))
}

/// Returns the subcommand that the arguments name, with its words.
fn used_command<'c>(command: &'c Command, args: &[String]) -> (String, &'c Command) {
    let (mut words, mut used) = (program_name().to_owned(), command);
    for arg in args.iter().skip(1) {
        let Some(subcommand) = used.find_subcommand(arg) else { break };
        words.push(' ');
        words.push_str(subcommand.get_name());
        used = subcommand;
    }
    (words, used)
}

/// Returns the variable from which an invalid value came; None if it came from a flag.
fn variable_of(error: &Error, command: &Command, args: &[String]) -> Option<String> {
    let Some(ContextValue::String(invalid)) = error.get(ContextKind::InvalidArg) else { return None };
    let flag = invalid.split([' ', '=']).next()?;
    let arg = command.get_arguments().find(|arg| arg.get_long() == flag.strip_prefix("--"))?;
    let is_given = args.iter().any(|given| {
        let short = arg.get_short().is_some_and(|short| given.starts_with(&format!("-{short}")));
        short || given.split('=').next() == Some(flag)
    });
    let variable = arg.get_env()?;
    (!is_given && std::env::var_os(variable).is_some()).then(|| variable.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn command() -> Command {
        let list = Command::new("list")
            .arg(Arg::new("namespace").short('n').long("namespace").required(true))
            .arg(Arg::new("limit").long("limit").value_parser(clap::value_parser!(u8)))
            .arg(Arg::new("state").long("state").value_parser(["dead", "pending"]));
        Command::new("hookstream").subcommand(Command::new("deliveries").subcommand(list))
    }

    #[test]
    fn reports_one_line_with_cause_and_help() {
        for (args, expected) in [
            (
                "deliveries list",
                "the following required arguments were not provided: --namespace <namespace>: see `hookstream \
                 deliveries list --help`",
            ),
            (
                "deliveries list -n a --limit x",
                "invalid value 'x' for '--limit <limit>': invalid digit found in string: see `hookstream \
                 deliveries list --help`",
            ),
            (
                "deliveries list -n a --state ded",
                "invalid value 'ded' for '--state <state>': [possible values: dead, pending], a similar value \
                 exists: 'dead': see `hookstream deliveries list --help`",
            ),
            (
                "deliveries list -n a --limt 1",
                "unexpected argument '--limt' found: a similar argument exists: '--limit': see `hookstream \
                 deliveries list --help`",
            ),
            (
                "deliverys",
                "unrecognized subcommand 'deliverys': a similar subcommand exists: 'deliveries': see `hookstream \
                 --help`",
            ),
        ] {
            let args: Vec<String> =
                std::iter::once("hookstream").chain(args.split(' ')).map(ToOwned::to_owned).collect();
            let error = command().try_get_matches_from(&args).unwrap_err();
            assert_eq!(one_line(&error, &command(), &args), expected);
        }
    }
}
