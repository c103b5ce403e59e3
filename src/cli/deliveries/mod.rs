//! `hookstream deliveries`: what became of events and deliveries, and replaying and cancelling them.

mod print;

use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::http::Answer;
use super::reach::Reach;
use super::{OrFail, Outcome, say};
use crate::core::time::{Millis, point};
use print::Output;

/// How often the progress of a replay is asked for.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// List, show, explain, replay and cancel deliveries.
///
/// Example: hookstream deliveries list -n shop --state dead --since 1h
#[derive(clap::Subcommand)]
#[command(verbatim_doc_comment)]
pub enum Command {
    List(List),
    Show(Show),
    Explain(Explain),
    Replay(Replay),
    Cancel(Cancel),
}

/// Which deliveries are meant.
#[derive(clap::Args)]
struct Which {
    /// Of this hook only.
    #[arg(long)]
    hook: Option<String>,
    /// In this state only.
    #[arg(long, value_enum)]
    state: Option<State>,
    /// Of the event with this id only.
    #[arg(long, value_name = "ID")]
    event: Option<String>,
    /// Accepted at or after: a time (2026-11-21T08:00:00Z) or how long ago (1h30m).
    #[arg(long, value_name = "TIME", value_parser = parse_point)]
    since: Option<Millis>,
    /// Accepted before.
    #[arg(long, value_name = "TIME", value_parser = parse_point)]
    until: Option<Millis>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum State {
    Pending,
    Delivered,
    Dead,
    Dropped,
    Cancelled,
}

/// List deliveries, the newest first.
///
/// Example: hookstream deliveries list -n shop --hook orders --state dead --since 1h
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct List {
    #[command(flatten)]
    target: Reach,
    #[command(flatten)]
    which: Which,
    /// How many, 1 to 500.
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// Go on where the last list ended: what it printed after --continue.
    #[arg(long = "continue", value_name = "TOKEN")]
    token: Option<String>,
    #[arg(short, long, value_enum, default_value_t = Output::Table, env = "HOOKSTREAM_OUTPUT", help = print::HELP)]
    output: Output,
}

/// Show a delivery with its attempts. Exit code 1: it is dead.
///
/// Example: hookstream deliveries show -n shop 01a201d0-e928-7748-a797-9272c188e8bd
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Show {
    #[command(flatten)]
    target: Reach,
    /// The delivery's id, which is its webhook-id.
    id: Uuid,
    /// With the event's data, which takes a right of its own (get deliveries/payload).
    #[arg(long)]
    payload: bool,
    #[arg(short, long, value_enum, default_value_t = Output::Table, env = "HOOKSTREAM_OUTPUT", help = print::HELP)]
    output: Output,
}

/// Tell what became of an event: how each delivery went, and why other hooks got none.
///
/// Example: hookstream deliveries explain -n shop order-1
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Explain {
    #[command(flatten)]
    target: Reach,
    /// The event's id.
    event: String,
    #[arg(short, long, value_enum, default_value_t = Output::Table, env = "HOOKSTREAM_OUTPUT", help = print::HELP)]
    output: Output,
}

/// Deliver again: one delivery, or many by hook, state and time. Its webhook-id stays, and it is marked as a replay.
///
/// Example: hookstream deliveries replay -n shop --hook orders --state dead --since 1h --rate 50 --wait
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
#[command(group = clap::ArgGroup::new("what").args(["id", "hook", "state", "event", "since", "until"]).multiple(true).required(true))]
pub struct Replay {
    #[command(flatten)]
    target: Reach,
    /// The delivery's id. Without it: which ones, by the flags; without --state those that are dead.
    #[arg(conflicts_with_all = ["hook", "state", "event", "since", "until", "rate", "wait"])]
    id: Option<Uuid>,
    #[command(flatten)]
    which: Which,
    /// How many a second, at most. Default: 50.
    #[arg(long)]
    rate: Option<u32>,
    /// Stay until all are on their way again, and tell how far it is.
    #[arg(long)]
    wait: bool,
}

/// End a delivery that waits. An attempt that is under way may still arrive.
///
/// Example: hookstream deliveries cancel -n shop 01a201d0-e928-7748-a797-9272c188e8bd
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Cancel {
    #[command(flatten)]
    target: Reach,
    /// The delivery's id.
    id: Uuid,
}

fn parse_point(text: &str) -> Result<Millis, String> {
    point(text, Millis::now()).map_err(ToOwned::to_owned)
}

impl Which {
    fn pairs(&self) -> impl Iterator<Item = (&'static str, String)> {
        let state = self.state.and_then(|state| state.to_possible_value());
        [
            ("hook", self.hook.clone()),
            ("state", state.map(|state| state.get_name().to_owned())),
            ("event", self.event.clone()),
            ("since", self.since.map(Millis::rfc3339)),
            ("until", self.until.map(Millis::rfc3339)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
    }
}

pub async fn run(command: Command) -> Outcome {
    match command {
        Command::List(args) => list(args).await,
        Command::Show(args) => show(args).await,
        Command::Explain(args) => explain(args).await,
        Command::Replay(args) => replay(args).await,
        Command::Cancel(args) => cancel(args).await,
    }
}

async fn list(args: List) -> Outcome {
    let worker = args.target.worker().await?;
    let mut url = worker.url(&args.target.caller.namespace, &["deliveries"])?;
    url.query_pairs_mut().extend_pairs(args.which.pairs()).append_pair("limit", &args.limit.to_string());
    if let Some(token) = &args.token {
        url.query_pairs_mut().append_pair("continue", token);
    }
    let answer = worker.get(url).await?.success(2)?;
    print::show(&answer, args.output, print::list)?;
    if args.output == Output::Table && print::is_empty(&answer)? {
        // A misspelt namespace looks just like an idle one.
        eprintln!("hookstream: no such delivery in the namespace {}", args.target.caller.namespace);
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(args: Show) -> Outcome {
    let worker = args.target.worker().await?;
    let mut url = worker.url(&args.target.caller.namespace, &["deliveries", &args.id.to_string()])?;
    if args.payload {
        url.set_query(Some("payload=true"));
    }
    let answer = worker.get(url).await?.success(2)?;
    print::show(&answer, args.output, print::delivery)?;
    let delivery: print::Delivery = answer.json()?;
    Ok(ExitCode::from(u8::from(delivery.state == "dead")))
}

async fn explain(args: Explain) -> Outcome {
    let worker = args.target.worker().await?;
    let url = worker.url(&args.target.caller.namespace, &["events", &args.event, "explain"])?;
    let answer = worker.get(url).await?.success(2)?;
    print::show(&answer, args.output, print::explanation)?;
    Ok(ExitCode::SUCCESS)
}

/// What is said of a replay of many.
#[derive(Deserialize)]
struct Progress {
    id: Uuid,
    replayed: u64,
    done: bool,
}

#[derive(Deserialize)]
struct Standing {
    state: String,
}

#[derive(Serialize)]
struct Many {
    #[serde(flatten)]
    which: std::collections::BTreeMap<&'static str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<u32>,
}

async fn replay(args: Replay) -> Outcome {
    let worker = args.target.worker().await?;
    let namespace = &args.target.caller.namespace;
    if let Some(id) = args.id {
        let url = worker.url(namespace, &["deliveries", &id.to_string(), "replay"])?;
        return one(&worker.post(url, Vec::new()).await?.success(2)?, id, "replayed");
    }
    let many = Many { which: args.which.pairs().collect(), rate: args.rate };
    let body = serde_json::to_vec(&many).or_fail(|| "writing the request".into())?;
    let url = worker.url(namespace, &["deliveries", "replay"])?;
    let mut progress: Progress = worker.post(url, body).await?.success(2)?.json()?;
    say(&format!("replay {} has begun", progress.id));
    let url = worker.url(namespace, &["replays", &progress.id.to_string()])?;
    if !args.wait {
        return Ok(ExitCode::SUCCESS);
    }
    let mut last = None;
    loop {
        if last != Some(progress.replayed) {
            say(&format!("{} replayed", progress.replayed));
            last = Some(progress.replayed);
        }
        if progress.done {
            say("done");
            break;
        }
        tokio::time::sleep(ASK_AGAIN).await;
        progress = worker.get(url.clone()).await?.success(2)?.json()?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn cancel(args: Cancel) -> Outcome {
    let worker = args.target.worker().await?;
    let url = worker.url(&args.target.caller.namespace, &["deliveries", &args.id.to_string(), "cancel"])?;
    // One that is finished cannot be cancelled: that is found out, not a failure to ask.
    let answer = worker.post(url, Vec::new()).await?;
    let refused = if answer.status.as_u16() == 409 { 1 } else { 2 };
    one(&answer.success(refused)?, args.id, "cancelled")
}

fn one(answer: &Answer, id: Uuid, done: &str) -> Outcome {
    let standing: Standing = answer.json()?;
    say(&format!("{id} {done}: it is {}", print::clean(&standing.state)));
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(subcommand)]
        command: Command,
    }

    #[test]
    fn one_or_many_are_replayed_never_all_by_mistake() {
        let id = "01a201d0-e928-7748-a797-9272c188e8bd";
        for (args, fine) in [
            (&["replay", "-n", "x", id][..], true),
            (&["replay", "-n", "x"], false),
            (&["replay", "-n", "x", "--rate", "5"], false),
            (&["replay", "-n", "x", "--state", "dead", "--rate", "5", "--wait"], true),
            (&["replay", "-n", "x", id, "--hook", "h"], false),
            (&["replay", "-n", "x", id, "--wait"], false),
            (&["replay", "-n", "x", "no-id"], false),
            (&["list", "-n", "x", "--since", "1d"], false),
            (&["list", "-n", "x", "--since", "1h", "--state", "dropped"], true),
            (&["list"], false),
        ] {
            let parsed = Cli::try_parse_from(["deliveries"].iter().chain(args));
            assert_eq!(parsed.is_ok(), fine, "{args:?}");
        }
    }
}
