//! Shows how far a replay is: a bar on a terminal, lines elsewhere.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

use super::output::print_line;

const WITH_TOTAL: &str = "{bar:30} {pos}/{len} replayed, {per_sec}, {eta} left";
const WITHOUT_TOTAL: &str = "{spinner} {pos} replayed, {per_sec}";

/// The progress of one replay.
pub enum ProgressDisplay {
    /// On standard error, so that standard output stays readable for programs.
    Bar(ProgressBar),
    Lines {
        last: Option<u64>,
    },
}

impl ProgressDisplay {
    /// `total`: the number of deliveries, if it is known.
    pub fn new(total: Option<u64>) -> Self {
        if !std::io::stderr().is_terminal() || !std::io::stdout().is_terminal() {
            return ProgressDisplay::Lines { last: None };
        }
        let (bar, template) = match total {
            Some(total) => (ProgressBar::new(total), WITH_TOTAL),
            None => (ProgressBar::new_spinner(), WITHOUT_TOTAL),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        ProgressDisplay::Bar(bar)
    }

    pub fn show(&mut self, replayed: u64) {
        match self {
            ProgressDisplay::Bar(bar) => bar.set_position(replayed),
            ProgressDisplay::Lines { last } => {
                if last.replace(replayed) != Some(replayed) {
                    print_line(&format!("{replayed} replayed"));
                }
            }
        }
    }

    /// Leaves the last number on the terminal.
    pub fn finish(self) {
        if let ProgressDisplay::Bar(bar) = self {
            bar.abandon();
        }
    }
}
