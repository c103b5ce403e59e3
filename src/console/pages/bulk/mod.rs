//! Changes of many deliveries: first a page that says how many they are, then the change.

mod filter;
mod matching;
mod selected;

use maud::{Markup, html};

pub use self::filter::replayable;
pub use self::matching::{cancel_matching, matching, replay_matching};
pub use self::selected::{change_selected, selected};
use crate::console::model::DryRun;
use crate::console::problem::Problem;
use crate::console::request::{PageRequest, local_path};
use crate::console::view::{Page, Section, count, notice, plural};

/// What is done to each delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Replay,
    Cancel,
}

impl Action {
    fn parse(text: &str) -> Result<Self, Problem> {
        match text {
            "replay" => Ok(Action::Replay),
            "cancel" => Ok(Action::Cancel),
            _ => Err(Problem::new(400, "BadAction", "the form names no known action")),
        }
    }

    /// Returns the name of the action in paths, forms and the audit log.
    fn name(self) -> &'static str {
        match self {
            Action::Replay => "replay",
            Action::Cancel => "cancel",
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Action::Replay => "Replay",
            Action::Cancel => "Cancel",
        }
    }

    /// Returns the class of its button. `delivered`: those among the deliveries that arrived before.
    fn class(self, delivered: DryRun) -> &'static str {
        match self {
            Action::Replay if delivered.matching == 0 => "primary",
            Action::Replay | Action::Cancel => "danger",
        }
    }

    /// Says what it does to one delivery, or to each of several.
    fn effect(self, is_one: bool) -> &'static str {
        match (self, is_one) {
            (Action::Replay, true) => {
                "A replay makes new attempts. A receiver that accepted the delivery before gets it twice, with the same webhook-id."
            }
            (Action::Replay, false) => {
                "A replay makes new attempts of each. A receiver that accepted one before gets it twice, with the same webhook-id."
            }
            (Action::Cancel, _) => "Pending deliveries are not sent any more. Others are left as they are.",
        }
    }
}

/// Says how many deliveries are changed. A count that ended early may have found none yet.
fn describe_count(found: DryRun) -> String {
    match (found.matching as u64, found.is_exact) {
        (number, true) => plural(number, "delivery", "deliveries"),
        (0, false) => "all deliveries that match".to_owned(),
        (1, false) => "at least 1 delivery".to_owned(),
        (number, false) => format!("at least {} deliveries", count(number)),
    }
}

/// Warns of a replay of deliveries that arrived before, with their number. Nothing if there are none.
fn repeated(action: Action, delivered: DryRun) -> Markup {
    let number = describe_count(delivered);
    let again = match delivered.matching {
        1 => "Its receiver gets it a second time",
        _ => "Their receivers get them a second time",
    };
    html! {
        @if action == Action::Replay && delivered.matching > 0 {
            (notice("warn", format!("Already arrived: {number}. {again}.")))
        }
    }
}

/// Returns the address that a form came from, or that of the list.
fn origin_or_list(page: &PageRequest, origin: &str) -> String {
    match origin {
        "" => page.scope.page("deliveries").to_string(),
        address => local_path(address).to_owned(),
    }
}

fn confirm_page(title: String, main: Markup) -> Page {
    Page { id: "confirm", title, section: Section::Deliveries, main, is_live: false }
}

/// Shows why the rest of a change failed. `done`: what was done before; it stays.
fn failed_part(done: &str, problem: &Problem) -> Markup {
    notice("bad", html! { "The rest failed: " (problem.detail) " " code { (problem.reason) } ". " (done) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_that_ended_early_is_no_exact_number() {
        for (matching, is_exact, want) in [
            (0, true, "0 deliveries"),
            (1, true, "1 delivery"),
            (0, false, "all deliveries that match"),
            (1, false, "at least 1 delivery"),
            (10_000, false, "at least 10,000 deliveries"),
        ] {
            assert_eq!(describe_count(DryRun { matching, is_exact }), want);
        }
    }

    #[test]
    fn replay_of_delivered_ones_is_no_primary_action_and_says_their_number() {
        let delivered = |matching| DryRun { matching, is_exact: true };
        assert_eq!(Action::Replay.class(delivered(0)), "primary");
        assert_eq!(Action::Replay.class(delivered(1)), "danger");
        let text = |action, matching| repeated(action, delivered(matching)).into_string();
        assert!(text(Action::Replay, 1).contains("Already arrived: 1 delivery. Its receiver gets it"));
        assert!(text(Action::Replay, 2).contains("Already arrived: 2 deliveries. Their receivers"));
        assert_eq!((text(Action::Replay, 0), text(Action::Cancel, 2)), (String::new(), String::new()));
    }
}
