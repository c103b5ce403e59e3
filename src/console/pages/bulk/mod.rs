//! Changes of many deliveries: first a page that says how many they are, then the change.

mod filter;
mod matching;
mod selected;

use maud::{Markup, html};

pub use self::filter::replayable;
pub use self::matching::{cancel_matching, matching, replay_matching};
pub use self::selected::{change_selected, selected};
use crate::console::problem::Problem;
use crate::console::request::{PageRequest, local_path};
use crate::console::view::{Page, Section, notice};

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

    /// Returns the class of its button.
    fn class(self) -> &'static str {
        match self {
            Action::Replay => "primary",
            Action::Cancel => "danger",
        }
    }

    /// Says what it does to one delivery, or to each of several.
    fn effect(self, is_one: bool) -> &'static str {
        match (self, is_one) {
            (Action::Replay, true) => {
                "It is sent again, with new attempts. A receiver that accepted it before gets it twice, with the same webhook-id."
            }
            (Action::Replay, false) => {
                "Each is sent again, with new attempts. A receiver that accepted one before gets it twice, with the same webhook-id."
            }
            (Action::Cancel, _) => "Pending deliveries are not sent any more. Others are left as they are.",
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
