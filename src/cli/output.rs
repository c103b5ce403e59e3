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

/// Returns the lines of a table. Each column is as wide as its longest cell.
pub fn table_lines<H: Into<String>, const N: usize>(
    header: [H; N],
    rows: impl Iterator<Item = [String; N]>,
) -> Vec<String> {
    let rows: Vec<[String; N]> = std::iter::once(header.map(Into::into)).chain(rows).collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    rows.iter()
        .map(|row| {
            let cells: Vec<String> =
                row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            cells.join("  ").trim_end().to_owned()
        })
        .collect()
}

/// Replaces control characters by spaces, so that text from other systems cannot control a terminal.
pub fn strip_control_chars(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
