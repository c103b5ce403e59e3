//! Shows how far a command is: a bar on a terminal, lines elsewhere.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

use super::output::print_line;

/// The progress of a command that handles many things one after another.
pub enum ProgressDisplay {
    /// On standard error, so that standard output stays readable for programs.
    Bar(ProgressBar),
    /// On standard output.
    Lines {
        done: &'static str,
        last: Option<u64>,
    },
    Hidden,
}

impl ProgressDisplay {
    /// `done`: what has happened to the counted things, such as `replayed`. `total`: their number, if it is known.
    pub fn new(done: &'static str, total: Option<u64>) -> Self {
        ProgressDisplay::bar(done, total).unwrap_or(ProgressDisplay::Lines { done, last: None })
    }

    /// Shows nothing if standard error is no terminal.
    pub fn bar_only(done: &'static str, total: Option<u64>) -> Self {
        ProgressDisplay::bar(done, total).unwrap_or(ProgressDisplay::Hidden)
    }

    fn bar(done: &str, total: Option<u64>) -> Option<Self> {
        if !std::io::stderr().is_terminal() || !std::io::stdout().is_terminal() {
            return None;
        }
        let (bar, template) = match total {
            Some(total) => (
                ProgressBar::new(total),
                format!("{{bar:30}} {{pos}}/{{len}} {done}, {{per_sec}}, {{eta}} left"),
            ),
            None => (ProgressBar::new_spinner(), format!("{{spinner}} {{pos}} {done}, {{per_sec}}")),
        };
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        Some(ProgressDisplay::Bar(bar))
    }

    pub fn show(&mut self, count: u64) {
        match self {
            ProgressDisplay::Bar(bar) => bar.set_position(count),
            ProgressDisplay::Lines { done, last } => {
                if last.replace(count) != Some(count) {
                    print_line(&format!("{count} {done}"));
                }
            }
            ProgressDisplay::Hidden => {}
        }
    }

    /// Prints a line on standard error, above the bar.
    pub fn message(&self, line: &str) {
        match self {
            ProgressDisplay::Bar(bar) => bar.suspend(|| eprintln!("{line}")),
            ProgressDisplay::Lines { .. } | ProgressDisplay::Hidden => eprintln!("{line}"),
        }
    }

    /// Leaves the last number on the terminal.
    pub fn finish(self) {
        if let ProgressDisplay::Bar(bar) = self {
            bar.abandon();
        }
    }

    /// Removes the bar from the terminal.
    pub fn clear(self) {
        if let ProgressDisplay::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
