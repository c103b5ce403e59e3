//! `hookstream deliveries list --follow`: polls the newest deliveries and prints each change once.

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::value::RawValue;
use url::Url;

use super::list::{ListArgs, ListBody, parse};
use super::row::{Columns, DeliveryRow, Fingerprint};
use crate::cli::failure::{CommandResult, Failure};
use crate::cli::output::{ListFormat, TableStream, print_line, strip_control_chars};
use crate::cli::signals::interrupts;
use crate::cli::worker_client::WorkerClient;
use crate::core::time::Millis;

/// The time between two polls.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The deliveries of one request.
const PAGE: usize = 500;
/// The newest deliveries whose changes are noticed. Bounds memory, and the work of one poll.
const MAX_FOLLOWED: usize = 1000;
/// The most requests of one poll. A request examines a bounded number of deliveries, and may return fewer than a page.
const MAX_REQUESTS: usize = 10;

pub async fn run(args: ListArgs, format: ListFormat) -> CommandResult {
    let mut printer = match format {
        ListFormat::Json | ListFormat::Yaml => {
            return Err(Failure::new(
                "--follow prints a line for each change: use -o table, wide, name or jsonl",
            ));
        }
        ListFormat::Jsonl => Printer::Jsonl,
        ListFormat::Name => Printer::Name,
        ListFormat::Table | ListFormat::Wide => {
            let columns = Columns::of(args.scope.all_namespaces, format == ListFormat::Wide);
            Printer::Table(columns, TableStream::new(columns.header()))
        }
    };
    let worker = args.scope.connect().await?;
    let mut url = args.scope.url(&worker, "deliveries")?;
    url.query_pairs_mut().extend_pairs(args.selection.query_pairs());
    let mut interrupts = interrupts()?;
    let first = usize::try_from(args.limit).unwrap_or(PAGE);
    tokio::select! {
        ended = follow(&worker, &url, first, &mut printer) => ended,
        _ = interrupts.recv() => Ok(ExitCode::SUCCESS),
    }
}

/// Prints the `first` newest deliveries, then each change. Ends only with an error.
async fn follow(worker: &WorkerClient, url: &Url, first: usize, printer: &mut Printer) -> CommandResult {
    let mut window = Window::default();
    let (items, is_complete) = read(worker, url).await?;
    let mut changed = window.update(items, is_complete)?;
    changed.drain(..changed.len().saturating_sub(first));
    loop {
        printer.print(&changed, Millis::now())?;
        tokio::time::sleep(POLL_INTERVAL).await;
        let (items, is_complete) = read(worker, url).await?;
        changed = window.update(items, is_complete)?;
    }
}

/// Reads the newest deliveries. The flag is true if there are no others.
async fn read(worker: &WorkerClient, url: &Url) -> Result<(Vec<Box<RawValue>>, bool), Failure> {
    let (mut items, mut token) = (Vec::new(), None::<String>);
    for _ in 0..MAX_REQUESTS {
        let mut page_url = url.clone();
        page_url.query_pairs_mut().append_pair("limit", &PAGE.to_string());
        if let Some(token) = &token {
            page_url.query_pairs_mut().append_pair("continue", token);
        }
        let response = worker.get(page_url).await?.success(2)?;
        let page: ListBody<'_> = response.json()?;
        items.extend(page.items.into_iter().map(ToOwned::to_owned));
        token = page.next;
        if token.is_none() || items.len() >= MAX_FOLLOWED {
            break;
        }
    }
    Ok((items, token.is_none()))
}

/// The deliveries of the last poll.
#[derive(Default)]
struct Window {
    seen: HashMap<String, Fingerprint>,
    /// Older deliveries were not read: one that moves into the window, because newer ones left the list, has not changed.
    /// None: all were read.
    oldest: Option<Millis>,
}

impl Window {
    /// Returns the new and changed deliveries, oldest first.
    fn update(
        &mut self,
        items: Vec<Box<RawValue>>,
        is_complete: bool,
    ) -> Result<Vec<Box<RawValue>>, Failure> {
        let (mut seen, mut changed) = (HashMap::with_capacity(items.len()), Vec::new());
        let mut oldest = None;
        for item in items {
            let row: DeliveryRow = parse(&item)?;
            let (fingerprint, accepted) = (row.fingerprint(), row.accepted());
            oldest = accepted;
            let is_change = match self.seen.get(&row.id) {
                Some(known) => *known != fingerprint,
                None => self.oldest.is_none_or(|oldest| accepted.is_none_or(|accepted| accepted >= oldest)),
            };
            if is_change && !seen.contains_key(&row.id) {
                changed.push(item);
            }
            seen.insert(row.id, fingerprint);
        }
        self.seen = seen;
        self.oldest = oldest.filter(|_| !is_complete);
        changed.reverse();
        Ok(changed)
    }
}

enum Printer {
    Jsonl,
    Name,
    Table(Columns, TableStream),
}

impl Printer {
    fn print(&mut self, items: &[Box<RawValue>], now: Millis) -> Result<(), Failure> {
        let rows = items.iter().map(|item| parse(item)).collect::<Result<Vec<DeliveryRow>, _>>()?;
        let lines = match self {
            Printer::Jsonl => items.iter().map(|item| item.get().to_owned()).collect(),
            Printer::Name => rows.iter().map(|row| strip_control_chars(&row.id)).collect(),
            Printer::Table(columns, stream) => {
                stream.lines(&rows.iter().map(|row| columns.cells(row, now)).collect::<Vec<_>>())
            }
        };
        lines.iter().for_each(|line| print_line(line));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn item(id: u32, state: &str) -> Box<RawValue> {
        let accepted = Millis(i64::from(id) * 1000).rfc3339();
        let value = json!({"id": id.to_string(), "event": "e", "hook": "h", "state": state, "reason": null,
            "acceptedTime": accepted, "attempts": [], "nextAttemptTime": null});
        serde_json::value::to_raw_value(&value).unwrap()
    }

    fn ids(window: &mut Window, items: &[(u32, &str)], is_complete: bool) -> Vec<String> {
        let items = items.iter().map(|(id, state)| item(*id, state)).collect();
        let changed = window.update(items, is_complete).unwrap();
        changed.iter().map(|item| parse::<DeliveryRow>(item).unwrap().id).collect()
    }

    #[test]
    fn each_change_is_reported_once_and_oldest_first() {
        let mut window = Window::default();
        assert_eq!(ids(&mut window, &[(2, "pending"), (1, "pending")], true), ["1", "2"]);
        assert!(ids(&mut window, &[(2, "pending"), (1, "pending")], true).is_empty());
        assert_eq!(ids(&mut window, &[(3, "pending"), (2, "dead"), (1, "pending")], true), ["2", "3"]);
        assert!(ids(&mut window, &[(3, "pending"), (2, "dead"), (1, "pending")], true).is_empty());
        // An old delivery begins to match the filter.
        assert_eq!(
            ids(&mut window, &[(3, "pending"), (2, "dead"), (1, "pending"), (0, "dead")], true),
            ["0"]
        );
    }

    #[test]
    fn a_delivery_that_moves_into_the_window_is_no_change() {
        let mut window = Window::default();
        assert_eq!(ids(&mut window, &[(9, "pending"), (8, "pending")], false), ["8", "9"]);
        assert!(ids(&mut window, &[(9, "pending"), (7, "pending")], false).is_empty());
        assert_eq!(ids(&mut window, &[(10, "pending"), (9, "dead")], false), ["9", "10"]);
    }
}
