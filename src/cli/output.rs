//! How commands print what they list: a table for people, JSON or YAML for programs.

use clap::ValueEnum;
use serde::Serialize;

use super::{Failure, OrFail, say};

pub const HELP: &str = "How it is printed";

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
    Yaml,
}

/// Prints a value for programs; a table is made by who knows what is in it.
pub fn print(output: Output, value: &impl Serialize) -> Result<(), Failure> {
    match output {
        Output::Json | Output::Table => say(&serde_json::to_string(value).or_fail(|| "writing JSON".into())?),
        Output::Yaml => say(serde_saphyr::to_string(value).or_fail(|| "writing YAML".into())?.trim_end()),
    }
    Ok(())
}

/// The lines of a table, its columns as wide as what is in them.
pub fn table<H: Into<String>, const N: usize>(
    head: [H; N],
    rows: impl Iterator<Item = [String; N]>,
) -> Vec<String> {
    let rows: Vec<[String; N]> = std::iter::once(head.map(Into::into)).chain(rows).collect();
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

/// Ids and answers are strangers' texts: they must not steer a terminal.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
