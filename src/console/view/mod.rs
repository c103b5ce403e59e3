//! The parts that pages share. Only `maud` builds markup, so that every text is escaped.

mod icon;
mod json;
mod layout;
mod parts;
mod spark;
mod text;

use axum::response::Html;
pub use icon::{icon, verdict_icon};
pub use json::json_viewer;
pub use layout::{Page, Section, Shell, content_hash, document, done_message, login, problem};
use maud::Markup;
pub use parts::{
    button, command, copy_button, csrf_field, definition, empty, hint, link_button, notice, pager, post_form,
    prose, state_class, state_pill, time,
};
pub use spark::sparkline;
pub use text::{attempt_result, count, duration, elapsed, plural, shorten};

/// Responds with markup.
pub fn html_response(markup: Markup) -> Html<String> {
    Html(markup.into_string())
}
