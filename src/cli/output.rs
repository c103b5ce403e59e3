//! Output of commands: tables for people, JSON or YAML for programs.

use std::io::IsTerminal;

use clap::ValueEnum;
use serde::Serialize;
use serde_json::value::RawValue;

use super::failure::{Failure, OrFail};
use crate::core::event::data::Data;

/// The help text of `--output`.
pub const HELP: &str = "The output format";

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    Table,
    Json,
    Yaml,
}

/// The output formats of commands that list deliveries or events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    Table,
    /// A table with more columns.
    Wide,
    /// The ids, one on each line.
    Name,
    Json,
    /// The items as JSON, one on each line.
    Jsonl,
    Yaml,
}

/// The flag `--output` of commands that list deliveries or events.
#[derive(clap::Args)]
pub struct ListOutputArgs {
    /// The output format. Default: table, or HOOKSTREAM_OUTPUT.
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<ListFormat>,
    // A flag of its own, because the variable has the formats that every command has.
    #[arg(long, hide = true, value_enum, default_value_t = OutputFormat::Table, env = "HOOKSTREAM_OUTPUT", help = HELP)]
    default_output: OutputFormat,
}

impl ListOutputArgs {
    pub fn format(&self) -> ListFormat {
        self.output.unwrap_or(match self.default_output {
            OutputFormat::Table => ListFormat::Table,
            OutputFormat::Json => ListFormat::Json,
            OutputFormat::Yaml => ListFormat::Yaml,
        })
    }
}

/// Returns true if text on this stream may have colours: it is a terminal that can show them, and NO_COLOR
/// (<https://no-color.org>) is not set.
pub fn has_colour(stream: &impl IsTerminal) -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Prints a line on standard output. Ignores errors: a reader that closed the pipe (`| head`) is no failure, and
/// `println!` would panic.
pub fn print_line(line: &str) {
    use std::io::Write;
    writeln!(std::io::stdout().lock(), "{line}").ok();
}

/// Writes bytes to standard output. Ignores errors, as `print_line` does.
pub fn print_bytes(bytes: &[u8]) {
    use std::io::Write;
    std::io::stdout().lock().write_all(bytes).ok();
}

/// Prints a value as YAML, or as JSON for both other formats; commands print their tables themselves.
pub fn print_value(format: OutputFormat, value: &impl Serialize) -> Result<(), Failure> {
    match format {
        OutputFormat::Json | OutputFormat::Table => {
            print_line(&serde_json::to_string(value).or_fail(|| "writing JSON".into())?);
        }
        OutputFormat::Yaml => {
            print_line(serde_saphyr::to_string(value).or_fail(|| "writing YAML".into())?.trim_end());
        }
    }
    Ok(())
}

/// Prints JSON that contains an event's data: unchanged, so that numbers keep their digits, or as YAML with sorted members.
pub fn print_json(format: OutputFormat, json: &RawValue) -> Result<(), Failure> {
    match format {
        OutputFormat::Json | OutputFormat::Table => print_line(json.get()),
        OutputFormat::Yaml => {
            print_value(format, &Data::parse(json.get()).or_fail(|| "reading JSON".into())?)?
        }
    }
    Ok(())
}

/// A list in JSON and YAML. Every command that lists has this shape.
#[derive(Serialize)]
pub struct ItemList<T> {
    pub items: Vec<T>,
}

/// The narrowest column of a table that is too wide for the terminal.
const MIN_COLUMN: usize = 10;

/// Returns the lines of a table. Each column is as wide as its longest cell; on a terminal that is narrower, the widest columns
/// are narrowed, and their cells continue in further lines.
pub fn table_lines<H: Into<String>, R: IntoIterator<Item = String>>(
    header: impl IntoIterator<Item = H>,
    rows: impl Iterator<Item = R>,
) -> Vec<String> {
    let header: Vec<String> = header.into_iter().map(Into::into).collect();
    let rows = rows.map(|row| row.into_iter().collect());
    let rows: Vec<Vec<String>> = std::iter::once(header).chain(rows).collect();
    format_table(&rows, terminal_width())
}

/// Returns the columns of the terminal to which the standard output leads; None for a pipe or a file.
fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// The first row is the header.
fn format_table(rows: &[Vec<String>], limit: Option<usize>) -> Vec<String> {
    let widths = column_widths(rows.iter(), limit);
    rows.iter().flat_map(|row| row_lines(row, &widths)).collect()
}

/// Returns the width of each column. The first row is the header.
fn column_widths<'a>(mut rows: impl Iterator<Item = &'a Vec<String>>, limit: Option<usize>) -> Vec<usize> {
    let width = |cell: &String| cell.chars().count();
    let mut widths: Vec<usize> = rows.next().into_iter().flatten().map(width).collect();
    for row in rows {
        for (widest, cell) in widths.iter_mut().zip(row) {
            *widest = width(cell).max(*widest);
        }
    }
    if let Some(limit) = limit {
        let gaps = 2 * widths.len().saturating_sub(1);
        narrow(&mut widths, limit.saturating_sub(gaps));
    }
    widths
}

/// Narrows the widest columns until all fit together, or until they are as narrow as columns may be.
fn narrow(widths: &mut [usize], limit: usize) {
    while widths.iter().sum::<usize>() > limit {
        let Some(widest) = widths.iter_mut().max().filter(|width| **width > MIN_COLUMN) else { return };
        *widest -= 1;
    }
}

/// Returns the lines of one row. Cells that are wider than their column are wrapped.
fn row_lines(row: &[String], widths: &[usize]) -> Vec<String> {
    let mut cells =
        row.iter().zip(widths).map(|(cell, width)| wrap(cell, *width).into_iter()).collect::<Vec<_>>();
    let mut lines = Vec::new();
    loop {
        let parts: Vec<Option<String>> = cells.iter_mut().map(Iterator::next).collect();
        if parts.iter().all(Option::is_none) && !lines.is_empty() {
            return lines;
        }
        lines.push(padded(parts.iter().map(|part| part.as_deref().unwrap_or("")), widths));
    }
}

/// Joins cells to a line.
fn padded<C: AsRef<str>>(cells: impl IntoIterator<Item = C>, widths: &[usize]) -> String {
    let cells = cells.into_iter().zip(widths).map(|(cell, width)| format!("{:width$}", cell.as_ref()));
    cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
}

/// Breaks a text into lines of this width, at spaces where possible.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let (mut lines, mut rest) = (Vec::new(), text);
    while let Some((end, _)) = rest.char_indices().nth(width) {
        let (line, _) = rest.split_at_checked(end).unwrap_or((rest, ""));
        let at_space = line
            .rfind(' ')
            .filter(|at| *at > 0 && !rest.get(end..).is_some_and(|next| next.starts_with(' ')));
        let end = at_space.unwrap_or(end).max(1);
        let (line, next) = rest.split_at_checked(end).unwrap_or((rest, ""));
        lines.push(line.trim_end().to_owned());
        rest = next.trim_start();
    }
    lines.push(rest.to_owned());
    lines
}

/// A table that is printed while its rows arrive. The columns keep the widths of the first rows, so later rows align with
/// them; longer cells continue in further lines.
pub struct TableStream {
    header: Vec<String>,
    widths: Option<Vec<usize>>,
}

impl TableStream {
    pub fn new(header: Vec<String>) -> Self {
        TableStream { header, widths: None }
    }

    /// Returns the lines of further rows; of the first ones with the header.
    pub fn lines(&mut self, rows: &[Vec<String>]) -> Vec<String> {
        self.format(rows, terminal_width())
    }

    fn format(&mut self, rows: &[Vec<String>], limit: Option<usize>) -> Vec<String> {
        let mut lines = Vec::new();
        if rows.is_empty() {
            return lines;
        }
        let is_first = self.widths.is_none();
        let header = &self.header;
        let widths =
            self.widths.get_or_insert_with(|| column_widths(std::iter::once(header).chain(rows), limit));
        if is_first {
            lines.extend(row_lines(header, widths));
        }
        match limit {
            Some(_) => lines.extend(rows.iter().flat_map(|row| row_lines(row, widths))),
            // In a pipe, each row is one line.
            None => lines.extend(rows.iter().map(|row| padded(row, widths))),
        }
        lines
    }
}

/// Formats a duration for a table: one unit, as `kubectl` does.
pub fn short_duration(duration: std::time::Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// Replaces control characters by spaces, so that text from other systems cannot control a terminal.
pub fn strip_control_chars(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(limit: Option<usize>) -> Vec<String> {
        let rows = [
            ["ID", "STATE", "PROBLEM"],
            ["0123456789abcdef", "dead", "a text of many words"],
            ["1", "", "é"],
        ];
        format_table(&rows.map(|row| row.map(ToOwned::to_owned).to_vec()), limit)
    }

    #[test]
    fn keeps_to_the_width_of_the_terminal() {
        let wide = [
            "ID                STATE  PROBLEM",
            "0123456789abcdef  dead   a text of many words",
            "1                        é",
        ];
        assert_eq!(table(None), wide);
        assert_eq!(table(Some(80)), wide);
        assert_eq!(
            table(Some(35)),
            [
                "ID             STATE  PROBLEM",
                "0123456789abc  dead   a text of",
                "def                   many words",
                "1                     é",
            ]
        );
        for limit in 29..60 {
            let lines = table(Some(limit));
            assert!(lines.iter().all(|line| line.chars().count() <= limit), "{limit}: {lines:#?}");
        }
        assert!(!table(Some(1)).is_empty(), "columns stay readable");
    }

    #[test]
    fn a_streamed_table_keeps_its_columns() {
        let row = |cells: [&str; 2]| cells.map(ToOwned::to_owned).to_vec();
        let mut stream = TableStream::new(row(["HOOK", "ID"]));
        assert!(stream.format(&[], None).is_empty());
        assert_eq!(stream.format(&[row(["orders", "1"])], None), ["HOOK    ID", "orders  1"]);
        let later = [row(["a", "2"]), row(["long-name", "3"])];
        assert_eq!(stream.format(&later, None), ["a       2", "long-name  3"]);
        assert_eq!(stream.format(&later, Some(80)), ["a       2", "long-n  3", "ame"]);
    }

    #[test]
    fn short_durations_have_one_unit() {
        for (seconds, text) in [(0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (172_800, "2d")] {
            assert_eq!(short_duration(std::time::Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn wraps_without_losing_text() {
        for (text, width, lines) in [
            ("", 5, vec![""]),
            ("abc", 5, vec!["abc"]),
            ("abcdefg", 5, vec!["abcde", "fg"]),
            ("ab cdefg h", 5, vec!["ab", "cdefg", "h"]),
            ("abcde fg", 5, vec!["abcde", "fg"]),
            ("éééééé", 3, vec!["ééé", "ééé"]),
        ] {
            assert_eq!(wrap(text, width), lines, "{text}");
        }
    }
}
