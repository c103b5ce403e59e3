//! Small parts of pages.

use maud::{Markup, Render, html};

use super::icon::{Icon, icon};
use crate::console::form::Form;
use crate::console::path::Path;
use crate::console::rights::{Right, Rights};
use crate::core::time::Millis;

/// Shows a state with its colour and icon.
pub fn state_pill(state: &str) -> Markup {
    let (class, shown) = appearance(state);
    let state = if state == "notReady" { "not ready" } else { state };
    html! { span class={ "pill " (class) } { (icon(shown)) (state) } }
}

/// Returns the class of a state, which decides its colour everywhere.
pub fn state_class(state: &str) -> &'static str {
    appearance(state).0
}

fn appearance(state: &str) -> (&'static str, Icon) {
    match state {
        "delivered" | "delivering" | "healthy" | "ready" | "enabled" | "done" | "accepts" | "leading" => {
            ("good", Icon::Check)
        }
        "dead" | "failing" | "failed" | "disabled" | "invalid" => ("bad", Icon::Cross),
        "pending" | "running" | "unknown" => ("busy", Icon::Clock),
        "held" | "paused" | "suspended" => ("held", Icon::Pause),
        "dropped" | "no hook" | "matched" | "idle" | "rejects" => ("off", Icon::Dash),
        "cancelled" => ("off", Icon::Ban),
        // Worth a look, and no failed delivery: not ready, being deleted.
        _ => ("warn", Icon::Alert),
    }
}

/// Shows a point in time: in UTC, which a script changes to the viewer's zone.
pub fn time(rfc3339: &str) -> Markup {
    let shown = match Millis::parse(rfc3339) {
        Some(_) => {
            // `2026-11-30T17:50:14.123Z`, or with another fraction.
            let text = rfc3339.replacen('T', " ", 1);
            format!("{} UTC", text.get(..19).unwrap_or(&text))
        }
        None => rfc3339.to_owned(),
    };
    html! { time datetime=(rfc3339) title=(rfc3339) { (shown) } }
}

/// Shows a sentence. Points in time within it become those of the viewer's zone.
pub fn prose(text: &str) -> Markup {
    const PUNCTUATION: [char; 7] = [' ', ',', ';', '.', ':', '(', ')'];
    html! {
        @for word in text.split_inclusive(' ') {
            @let core = word.trim_matches(PUNCTUATION);
            // Millis reads other forms too: a number or a date alone is no point in time of a sentence.
            @if core.contains('T') && core.ends_with('Z') && Millis::parse(core).is_some() {
                @let (before, after) = word.split_once(core).unwrap_or((word, ""));
                (before) (time(core)) (after)
            } @else { (word) }
        }
    }
}

/// Shows what to do first where there is nothing to show.
pub fn empty(title: &str, what: Markup) -> Markup {
    html! { div.empty { p.empty-title { (title) } (what) } }
}

/// Shows a message.
pub fn notice(class: &str, text: impl Render) -> Markup {
    let shown = match class {
        "good" => Icon::Check,
        "bad" => Icon::Cross,
        _ => Icon::Alert,
    };
    html! { div class={ "notice " (class) } role="status" { (icon(shown)) div { (text) } } }
}

/// Says which role grants what a page does not offer.
pub fn hint(rights: &Rights, what: &str, right: Right) -> Markup {
    html! {
        p.hint {
            (what)
            @match rights.role(right) {
                Some(role) => { " needs the role " code { (role) } " in this namespace." },
                None => " needs a right that you do not have in this namespace.",
            }
        }
    }
}

/// Shows a row of a definition list.
pub fn definition(term: &str, value: impl Render) -> Markup {
    html! { div { dt { (term) } dd { (value) } } }
}

/// The hidden field without which no form is accepted.
pub fn csrf_field(csrf: &str) -> Markup {
    html! { input type="hidden" name="csrf" value=(csrf); }
}

/// A form that consists of one button.
pub fn post_form(action: &Path, csrf: &str, fields: &[(&str, &str)], label: &str, class: &str) -> Markup {
    html! {
        form.inline method="post" action=(action) {
            (csrf_field(csrf))
            @for (name, value) in fields { input type="hidden" name=(name) value=(value); }
            (button(label, class))
        }
    }
}

pub fn button(label: &str, class: &str) -> Markup {
    html! { button type="submit" class={ "button " (class) } { (label) } }
}

pub fn link_button(target: &Path, label: &str, class: &str) -> Markup {
    html! { a class={ "button " (class) } href=(target) { (label) } }
}

/// A button that copies the text of the element with this id. Scripts show it.
pub fn copy_button(id: &str, what: &str) -> Markup {
    html! {
        button.button.quiet.copy type="button" data-copy=(id) hidden {
            (icon(Icon::Copy)) span { "Copy" } span.visually-hidden { " " (what) }
        }
    }
}

/// Shows a text to copy: a command to run in a terminal, a manifest, a body.
pub fn command(id: &str, what: &str, text: &str) -> Markup {
    html! {
        div.command { pre tabindex="0" { code id=(id) { (text) } } (copy_button(id, what)) }
    }
}

/// The links below a list: to its first and its next page.
pub fn pager(path: Path, query: &Form, next: Option<&str>) -> Markup {
    let page = |token: &str| {
        let kept = query.fields().filter(|(name, _)| !matches!(*name, "continue" | "done"));
        let path = kept.fold(path.clone(), |path, (name, value)| path.query_some(name, value));
        path.query_some("continue", token)
    };
    let is_first = query.get("continue").is_empty();
    html! {
        @if !is_first || next.is_some() {
            nav.pager aria-label="Pages" {
                @if !is_first { a.button rel="first" href=(page("")) { "Newest" } }
                @if let Some(next) = next { a.button rel="next" href=(page(next)) { "Older" } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "\"><script>alert(1)</script>";

    #[test]
    fn hostile_texts_are_escaped_everywhere() {
        let path = Path::new("/console/").segment(HOSTILE).query("a", HOSTILE);
        let query = Form::parse(b"hook=%22%3E%3Cscript%3E");
        let markups = [
            state_pill(HOSTILE),
            time(HOSTILE),
            empty(HOSTILE, html! { (HOSTILE) }),
            notice("bad", HOSTILE),
            definition(HOSTILE, HOSTILE),
            post_form(&path, HOSTILE, &[("x", HOSTILE)], HOSTILE, "x"),
            link_button(&path, HOSTILE, "x"),
            copy_button(HOSTILE, HOSTILE),
            command(HOSTILE, HOSTILE, HOSTILE),
            pager(path.clone(), &query, Some(HOSTILE)),
        ];
        for markup in markups {
            let text = markup.into_string();
            assert!(!text.contains("<script"), "{text}");
            assert!(!text.contains("\"\">"), "{text}");
        }
    }

    #[test]
    fn time_has_the_exact_value() {
        let text = time("2026-11-30T17:50:14.123Z").into_string();
        assert_eq!(
            text,
            "<time datetime=\"2026-11-30T17:50:14.123Z\" title=\"2026-11-30T17:50:14.123Z\">2026-11-30 17:50:14 UTC</time>"
        );
    }

    #[test]
    fn prose_shows_its_times_as_times() {
        let text =
            prose("attempt 7 is scheduled for 2026-11-30T19:56:09.263Z, not <b> (2026-11-30T19:56:10Z).");
        let text = text.into_string();
        assert_eq!(text.matches("<time").count(), 2, "{text}");
        assert!(
            text.starts_with("attempt 7 is scheduled for <time") && text.ends_with("</time>)."),
            "{text}"
        );
        assert!(text.contains("UTC</time>, not &lt;b&gt; (<time"), "{text}");
        assert_eq!(prose("TZ 7 Z").into_string(), "TZ 7 Z");
    }

    #[test]
    fn pager_keeps_the_filter() {
        let query = Form::parse(b"hook=h&continue=a&done=replayed");
        let text = pager(Path::new("/console/deliveries"), &query, Some("b")).into_string();
        assert!(text.contains("href=\"/console/deliveries?hook=h\""), "{text}");
        assert!(text.contains("href=\"/console/deliveries?hook=h&amp;continue=b\""), "{text}");
        assert_eq!(pager(Path::new("/x"), &Form::default(), None).into_string(), "");
    }
}
