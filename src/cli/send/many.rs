//! `hookstream send --file`: publishes many events, several at a time.

use std::process::ExitCode;
use std::time::Duration;

use futures::StreamExt;
use reqwest::StatusCode;
use serde::Serialize;
use url::Url;

use super::lines::{EventLine, LineDefaults, count_lines, read_lines};
use super::{AcceptedEvent, Args};
use crate::cli::failure::{CommandResult, Failure};
use crate::cli::output::{OutputFormat, print_line, print_value, strip_control_chars};
use crate::cli::progress::ProgressDisplay;
use crate::cli::signals::interrupts;
use crate::cli::worker_args::WorkerPort;
use crate::cli::worker_client::{WorkerClient, WorkerResponse};

/// The messages about single events. All events are counted.
const MAX_MESSAGES: u64 = 20;
/// The attempts to send one event while the worker is busy, and the wait before the second one, which doubles.
const MAX_TRIES: u32 = 6;
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// The number of events by outcome.
#[derive(Debug, Default, Serialize)]
struct Totals {
    sent: u64,
    /// Hooks with a delivery of the event.
    matched: u64,
    unmatched: u64,
    /// Accepted before, so nothing was stored.
    duplicates: u64,
    rejected: u64,
    #[serde(skip)]
    messages: u64,
}

pub async fn run(args: &Args, file: &str) -> CommandResult {
    let worker = args.caller.connect(args.url.as_ref(), args.service.as_ref(), WorkerPort::Ingest).await?;
    let url = worker.url(&args.caller.namespace, &["events"])?;
    let defaults = LineDefaults { source: args.source.clone(), event: args.event.clone() };
    let lines = read_lines(file, defaults)?;
    let mut display = ProgressDisplay::bar_only("sent", count_lines(file));
    // Not before the lines are counted, which may take long in a large file and could not be interrupted.
    let mut interrupts = interrupts()?;
    let mut totals = Totals::default();
    let result = send_all(args, &worker, &url, lines, |outcome| {
        totals.record(outcome, &mut display);
    });
    let result = tokio::select! {
        result = result => result,
        _ = interrupts.recv() => Err(Failure { code: 130, message: "interrupted".into() }),
    };
    display.clear();
    totals.print(args.output)?;
    if let Err(Failure { code, message }) = result {
        let message = format!("{message} ({} events were sent before)", totals.sent);
        return Err(Failure { code, message });
    }
    if totals.rejected > 0 {
        return Err(Failure { code: 1, message: format!("{} events were rejected", totals.rejected) });
    }
    if args.strict && totals.duplicates + totals.unmatched > 0 {
        let message = format!(
            "{} duplicates and {} events that no hook matched (--strict)",
            totals.duplicates, totals.unmatched
        );
        return Err(Failure { code: 1, message });
    }
    Ok(ExitCode::SUCCESS)
}

/// The response to one event.
struct Outcome {
    line: EventLine,
    response: WorkerResponse,
}

/// Sends the events, up to `--concurrency` at a time and at most at the rate. Ends at the first line that is no event and
/// at the first response that says nothing about the event.
async fn send_all(
    args: &Args,
    worker: &WorkerClient,
    url: &Url,
    lines: tokio::sync::mpsc::Receiver<Result<EventLine, Failure>>,
    mut record: impl FnMut(&Outcome),
) -> Result<(), Failure> {
    let interval = args.rate.map(|rate| Duration::from_secs(1) / rate.max(1));
    let start = tokio::time::Instant::now();
    let paced = futures::stream::unfold((lines, start), |(mut lines, next)| async move {
        let line = lines.recv().await?;
        tokio::time::sleep_until(next).await;
        let now = tokio::time::Instant::now();
        // Time that was lost, because the worker was slow, is not caught up with a burst.
        let next =
            interval.map_or(now, |interval| (next + interval).max(now.checked_sub(interval).unwrap_or(now)));
        Some((line, (lines, next)))
    });
    let sending = paced.map(|line| async move {
        let line = line?;
        let response = send_one(worker, url, &line).await?;
        Ok::<_, Failure>(Outcome { line, response })
    });
    let mut outcomes = std::pin::pin!(sending.buffer_unordered(usize::from(args.concurrency)));
    while let Some(outcome) = outcomes.next().await {
        record(&outcome?);
    }
    Ok(())
}

/// Sends one event, again while the worker is busy. The event has an id, so it is accepted once.
async fn send_one(worker: &WorkerClient, url: &Url, line: &EventLine) -> Result<WorkerResponse, Failure> {
    let mut wait = FIRST_WAIT;
    for _ in 1..MAX_TRIES {
        let response = worker.post(url.clone(), line.body.clone()).await?;
        if !matches!(response.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            return settle(response);
        }
        tokio::time::sleep(wait).await;
        wait *= 2;
    }
    settle(worker.post(url.clone(), line.body.clone()).await?)
}

/// Returns a response that decides about this event. One about the caller or the worker ends the command.
fn settle(response: WorkerResponse) -> Result<WorkerResponse, Failure> {
    let is_about_event = matches!(response.status.as_u16(), 200..=299 | 400 | 413 | 415 | 422 | 508);
    if is_about_event { Ok(response) } else { response.success(1) }
}

impl Totals {
    fn record(&mut self, outcome: &Outcome, display: &mut ProgressDisplay) {
        let Outcome { line, response } = outcome;
        let accepted = match response.status.is_success() {
            true => response.json::<AcceptedEvent>().map_err(|failure| failure.message),
            false => Err(response.problem_text()),
        };
        self.sent += 1;
        let message = match accepted {
            Err(why) => {
                self.rejected += 1;
                Some(format!("line {}: rejected{why}", line.number))
            }
            Ok(AcceptedEvent { duplicate: true, .. }) => {
                self.duplicates += 1;
                Some(format!("line {}: {} is a duplicate: nothing was stored", line.number, line.id))
            }
            Ok(AcceptedEvent { deliveries: 0, .. }) => {
                self.unmatched += 1;
                Some(format!("line {}: no hook matched {}", line.number, line.id))
            }
            Ok(_) => {
                self.matched += 1;
                None
            }
        };
        if let Some(message) = message {
            self.messages += 1;
            match self.messages {
                1..=MAX_MESSAGES => {
                    display.message(&format!("hookstream: {}", strip_control_chars(&message)))
                }
                n if n == MAX_MESSAGES + 1 => display.message("hookstream: further messages are left out"),
                _ => {}
            }
        }
        display.show(self.sent);
    }

    fn print(&self, output: OutputFormat) -> Result<(), Failure> {
        match output {
            OutputFormat::Table => print_line(&format!(
                "{} sent: {} matched, {} unmatched, {} duplicates, {} rejected",
                self.sent, self.matched, self.unmatched, self.duplicates, self.rejected
            )),
            other => print_value(other, self)?,
        }
        Ok(())
    }
}
