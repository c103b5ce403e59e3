//! The command line: one file for each subcommand.
//!
//! Purpose: reads flags and `HOOKSTREAM_*` variables, connects the components, and turns results into exit codes.
//!
//! Invariants: exit code 0 means success, 1 a negative finding, 2 and above that the command failed. An error is one line on
//! standard error that says what failed, where, and what to do. No subcommand contains logic that another component could
//! need.
//!
//! Out of scope: reconciling (`controller`), delivering (`worker`), and every other rule.

pub mod completion;
pub mod config;
pub mod console;
pub mod crds;
mod data_folder;
mod database_readiness;
pub mod deliveries;
pub mod diff;
pub mod emulate;
mod environment;
mod event_data;
pub mod events;
mod failure;
mod flags;
pub mod import;
mod kubeconfig;
mod log_json;
mod logging;
pub mod man;
mod objects;
pub mod operator;
pub mod orphans;
mod output;
pub mod ping;
mod profiles;
mod program;
mod progress;
pub mod receive;
pub mod release;
pub mod replays;
mod role_process;
mod sandbox;
pub mod send;
mod service;
mod service_token;
mod shared_state;
mod signals;
pub mod sources;
pub mod standalone;
pub mod status;
pub mod store;
mod target;
pub mod test;
pub mod uninstall_check;
mod unused_flags;
mod usage;
pub mod validate;
pub mod version;
mod worker_args;
mod worker_client;
mod worker_hints;

use std::future::Future;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tokio::runtime::Builder;

use crate::net::runtime::half_the_cores;
use failure::{CommandResult, Failure, OrFail};
use program::program_name;

/// Manages Kong event hooks and Auth0 event streams declaratively, and delivers their events durably.
#[derive(Parser)]
#[command(name = "hookstream", version, propagate_version = true, after_help = EXAMPLE)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLE: &str = "Example: hookstream standalone --manifests deploy/samples/quickstart --data ./data";

#[derive(Subcommand)]
enum Command {
    Run(operator::RunArgs),
    Controller(operator::ControllerRoleArgs),
    Worker(operator::WorkerOnlyArgs),
    Standalone(standalone::Args),
    Crds(crds::Args),
    Validate(validate::Args),
    Diff(diff::Args),
    Test(test::Args),
    Ping(ping::Args),
    Sources(sources::Args),
    #[command(subcommand)]
    Import(import::ImportCommand),
    #[command(subcommand)]
    Emulate(emulate::EmulateCommand),
    Orphans(orphans::Args),
    Receive(receive::Args),
    Release(release::Args),
    Send(send::Args),
    #[command(subcommand)]
    Deliveries(deliveries::DeliveriesCommand),
    #[command(subcommand)]
    Events(events::EventsCommand),
    #[command(subcommand)]
    Replays(replays::ReplaysCommand),
    UninstallCheck(uninstall_check::Args),
    #[command(subcommand)]
    Store(store::StoreCommand),
    Status(status::Args),
    Console(console::Args),
    Reconcile(objects::ReconcileArgs),
    Suspend(objects::SuspendArgs),
    Resume(objects::ResumeArgs),
    Version(version::Args),
    #[command(subcommand)]
    Config(config::ConfigCommand),
    Completion(completion::Args),
    Man(man::Args),
    #[command(hide = true)]
    Sandbox(sandbox::Args),
}

/// Returns the program's commands and flags without the hidden command.
fn visible_program() -> clap::Command {
    let full = Cli::command();
    let visible = full.get_subcommands().filter(|command| !command.is_hide_set());
    clap::Command::new("hookstream")
        .version(env!("CARGO_PKG_VERSION"))
        .propagate_version(true)
        .about(full.get_about().cloned().unwrap_or_default())
        .after_help(EXAMPLE)
        .subcommands(visible.cloned())
}

impl Command {
    /// Returns true for commands whose warnings are log lines, and for the sandbox, which inherits the worker's variables.
    fn has_logs(&self) -> bool {
        matches!(
            self,
            Command::Run(_)
                | Command::Controller(_)
                | Command::Worker(_)
                | Command::Standalone(_)
                | Command::Emulate(_)
                | Command::Release(_)
                | Command::Sandbox(_)
        )
    }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    // Install a crypto provider, because reqwest has none. An error means that one is installed already.
    rustls::crypto::ring::default_provider().install_default().ok();
    let parsed = Cli::command().bin_name(program_name()).try_get_matches();
    let parsed =
        parsed.and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, unused_flags::warning(&matches))));
    let (cli, unused_flags) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            let args: Vec<String> =
                std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
            let mut command = Cli::command();
            command.build();
            return usage::report(&error, &command, &args);
        }
    };
    if !cli.command.has_logs() {
        for warning in environment::unknown_variables(&Cli::command()).into_iter().chain(unused_flags) {
            eprintln!("hookstream: warning: {warning}");
        }
    }
    let result = match cli.command {
        Command::Run(args) => block_on_half_the_cores(operator::run(args)),
        Command::Controller(args) => block_on(operator::controller(args)),
        Command::Worker(args) => block_on_half_the_cores(operator::worker(args)),
        Command::Standalone(args) => block_on_half_the_cores(standalone::run(args)),
        Command::Crds(args) => crds::run(args),
        Command::Import(command) => block_on(import::run(command)),
        Command::Validate(args) => validate::run(&args),
        Command::Diff(args) => block_on(diff::run(args)),
        Command::Test(args) => block_on(test::run(args)),
        Command::Ping(args) => block_on(ping::run(args)),
        Command::Sources(args) => sources::run(args),
        Command::Emulate(command) => block_on(emulate::run(command)),
        Command::Orphans(args) => block_on(orphans::run(args)),
        Command::Receive(args) => block_on(receive::run(args)),
        Command::Release(args) => block_on(release::run(args)),
        Command::Send(args) => block_on(send::run(args)),
        Command::Deliveries(command) => block_on(deliveries::run(command)),
        Command::Events(command) => block_on(events::run(command)),
        Command::Replays(command) => block_on(replays::run(command)),
        Command::UninstallCheck(args) => block_on(uninstall_check::run(args)),
        Command::Store(command) => store::run(command),
        Command::Config(command) => config::run(command),
        Command::Reconcile(args) => block_on(objects::reconcile(args)),
        Command::Suspend(args) => block_on(objects::suspend(args)),
        Command::Resume(args) => block_on(objects::resume(args)),
        Command::Status(args) => block_on(status::run(args)),
        Command::Console(args) => block_on(console::run(args)),
        Command::Version(args) => block_on(version::run(args)),
        Command::Completion(args) => completion::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Sandbox(args) => return sandbox::run(&args),
    };
    result.unwrap_or_else(|failure| {
        eprintln!("hookstream: {failure}");
        ExitCode::from(failure.code)
    })
}

/// Runs an asynchronous command to completion on a new runtime.
fn block_on(command: impl Future<Output = CommandResult> + Send + 'static) -> CommandResult {
    run_on(&mut Builder::new_multi_thread(), command)
}

/// Runs a command that accepts events. Ingest runs on a separate runtime with the other half of the cores.
fn block_on_half_the_cores(command: impl Future<Output = CommandResult> + Send + 'static) -> CommandResult {
    run_on(Builder::new_multi_thread().worker_threads(half_the_cores()), command)
}

fn run_on(
    runtime: &mut Builder,
    command: impl Future<Output = CommandResult> + Send + 'static,
) -> CommandResult {
    let runtime = runtime.enable_all().build().or_fail(|| "starting the runtime".into())?;
    // Run the command on one of the runtime's own threads: from another thread, each message to its tasks would wake a
    // thread.
    let result =
        runtime.block_on(runtime.spawn(command)).unwrap_or_else(|ended| match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(ended) => Err(Failure::new(ended.to_string())),
        });
    // Do not wait for a read of standard input, which may never end.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use std::any::TypeId;

    use clap::error::ErrorKind;
    use std::collections::BTreeMap;

    use clap::{Arg, Command, CommandFactory};

    use super::Cli;
    use super::environment::{is_service_variable, known_names};
    use super::flags::ListenAddress;

    /// Collects every visible command with its words, such as `deliveries list`.
    fn collect_commands(command: &Command, words: &str, all: &mut Vec<(String, Command)>) {
        for subcommand in command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
            let words = format!("{words} {}", subcommand.get_name()).trim().to_owned();
            collect_commands(subcommand, &words, all);
            all.push((words, subcommand.clone()));
        }
    }

    fn all_commands() -> Vec<(String, Command)> {
        let mut all = vec![(String::new(), Cli::command())];
        collect_commands(&Cli::command(), "", &mut all);
        all
    }

    #[test]
    fn every_command_has_an_example() {
        for (words, mut command) in all_commands() {
            let help = command.render_long_help().to_string();
            assert!(help.contains(&format!("Example: hookstream {words}")), "{words}: {help}");
        }
    }

    /// Parses one flag of a command. Other required flags may be missing.
    fn accepts(command: &Command, flag: &str, value: &str) -> bool {
        match command.clone().try_get_matches_from(["hookstream", flag, value]) {
            Ok(_) => true,
            Err(error) => error.kind() != ErrorKind::ValueValidation,
        }
    }

    #[test]
    fn every_address_flag_is_parsed_alike() {
        let (mut listens, mut urls) = (0, 0);
        for (words, command) in all_commands() {
            for flag in command.get_arguments() {
                let Some(long) = flag.get_long() else { continue };
                let flag_name = format!("--{long}");
                let value_name = flag.get_value_names().and_then(|names| names.first());
                if long.ends_with("listen") {
                    listens += 1;
                    assert!(
                        flag.get_value_parser().type_id() == TypeId::of::<ListenAddress>(),
                        "{words} {flag_name}"
                    );
                    assert_eq!(value_name.map(|name| name.as_str()), Some("ADDRESS"), "{words} {flag_name}");
                } else if value_name.is_some_and(|name| name == "URL") && !FREE_URLS.contains(&long) {
                    urls += 1;
                    assert!(accepts(&command, &flag_name, "http://localhost:8082"), "{words} {flag_name}");
                    for wrong in ["localhost:8082", "ftp://a", "127.0.0.1", "http://", "http://u:p@a"] {
                        assert!(!accepts(&command, &flag_name, wrong), "{words} {flag_name} {wrong}");
                    }
                }
            }
        }
        assert!(listens > 10 && urls > 10, "{listens} {urls}");
    }

    /// A token's audience is an identifier. clap must not print the URLs of the proxy and of the database, which may contain a
    /// password.
    const FREE_URLS: [&str; 4] = ["audience", "egress-proxy", "otlp-endpoint", "store-url"];

    /// The values that a variable takes.
    fn values(arg: &Arg) -> String {
        let values: Vec<String> =
            arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
        format!(
            "{:?}, {:?}, separator {:?}, one of {values:?}",
            arg.get_value_parser().type_id(),
            arg.get_action(),
            arg.get_value_delimiter(),
        )
    }

    /// Variables of several commands whose descriptions differ, although they mean the same.
    const DESCRIBED_TWICE: [(&str, &str); 15] = [
        ("HOOKSTREAM_API_LISTEN", "the address of the API port"),
        ("HOOKSTREAM_API_SERVICE", "the Service of the API port"),
        ("HOOKSTREAM_API_URL", "the URL of the API port"),
        ("HOOKSTREAM_CONNECTION", "the Connection in the printed manifests"),
        ("HOOKSTREAM_DATA", "the data folder"),
        ("HOOKSTREAM_INGEST_URL", "the ingest port, as Kong reaches it"),
        ("HOOKSTREAM_INSTALLATION_ID", "the id of the installation"),
        ("HOOKSTREAM_LISTEN", "the address of the ingest port"),
        ("HOOKSTREAM_MANIFESTS", "the manifests of standalone"),
        ("HOOKSTREAM_NAMESPACE", "the namespaces of the custom resources"),
        ("HOOKSTREAM_PUBLIC_INGEST_URL", "the ingest port, as Auth0 reaches it"),
        ("HOOKSTREAM_STORE_URL", "the database with the events"),
        ("HOOKSTREAM_TOKEN_AUDIENCE", "the audience of the ports' tokens"),
        ("HOOKSTREAM_TOKEN_FILE", "the token of the ports"),
        ("POD_NAMESPACE", "the operator's namespace"),
    ];

    /// A variable of a shell or a Pod applies to every command, so it must not mean something else for another one.
    #[test]
    fn every_variable_has_one_meaning() {
        let (mut meanings, mut descriptions) = (BTreeMap::new(), BTreeMap::new());
        let mut different = Vec::new();
        for (words, command) in all_commands() {
            for arg in command.get_arguments() {
                let Some(name) = arg.get_env().map(|name| name.to_string_lossy().into_owned()) else {
                    continue;
                };
                let first = meanings.entry(name.clone()).or_insert((words.clone(), values(arg)));
                if first.1 != values(arg) {
                    different.push(format!(
                        "{name}:\n  {}: {}\n  {words}: {}",
                        first.0,
                        first.1,
                        values(arg)
                    ));
                }
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                let first = descriptions.entry(name.clone()).or_insert((words.clone(), help.clone()));
                if first.1 != help && !DESCRIBED_TWICE.iter().any(|(known, _)| *known == name) {
                    different.push(format!("{name}:\n  {}: {}\n  {words}: {help}", first.0, first.1));
                }
            }
        }
        assert!(different.is_empty(), "{}", different.join("\n"));
        for name in known_names(&Cli::command()) {
            assert!(!is_service_variable(&name, "tcp://10.0.0.1:80"), "Kubernetes sets {name}");
        }
    }

    /// Commands whose selection has no variables: a forgotten variable must not choose what is replayed, run or released.
    const FLAGS_ONLY: [&str; 18] = [
        "reconcile",
        "suspend",
        "resume",
        "status",
        "config set-profile",
        "events list",
        "deliveries list",
        "deliveries cancel",
        "deliveries show",
        "deliveries replay",
        "replays list",
        "test",
        "orphans",
        "release",
        "store backup",
        "store recover",
        "store copy",
        "store unseal",
    ];

    #[test]
    fn every_flag_has_a_variable_and_a_description() {
        let mut missing = Vec::new();
        for (words, command) in all_commands() {
            for flag in command.get_arguments() {
                let Some(long) = flag.get_long().filter(|long| !matches!(*long, "help" | "version")) else {
                    continue;
                };
                let name = format!("{words} --{long}");
                assert!(flag.get_help().is_some(), "{name} has no help text");
                let variable = flag.get_env().map(|env| env.to_string_lossy().into_owned());
                let has_variable =
                    variable.as_deref().is_some_and(|v| v.starts_with("HOOKSTREAM_") || v == "POD_NAMESPACE");
                let is_flag_only = variable.is_none() && FLAGS_ONLY.contains(&words.as_str());
                if !has_variable && !is_flag_only {
                    missing.push(name);
                }
            }
        }
        assert!(missing.is_empty(), "{missing:?}");
    }
}
