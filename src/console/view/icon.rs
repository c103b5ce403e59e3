//! Icons, drawn with the colour of the text around them. They repeat what the text says, so screen readers skip them.

use maud::{Markup, html};

/// An icon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icon {
    Check,
    Cross,
    Clock,
    Pause,
    Ban,
    Dash,
    Alert,
    Search,
    Overview,
    Hook,
    Event,
    Delivery,
    Replay,
    Plug,
    Book,
    Copy,
}

impl Icon {
    /// The lines of the icon in a square of 16 by 16.
    fn lines(self) -> &'static str {
        match self {
            Icon::Check => "M3.5 8.5l3 3 6-7",
            Icon::Cross => "M4 4l8 8M12 4l-8 8",
            Icon::Clock => "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2zM8 5v3l2 2",
            Icon::Pause => "M6 4v8M10 4v8",
            Icon::Ban => "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2zM4 4l8 8",
            Icon::Dash => "M4 8h8",
            Icon::Alert => "M8 2.5l6 11H2zM8 7v3M8 11.8v.2",
            Icon::Search => "M7 2.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9zM10.5 10.5L14 14",
            Icon::Overview => "M2.5 2.5h4.5v4.5H2.5zM9 2.5h4.5v4.5H9zM2.5 9h4.5v4.5H2.5zM9 9h4.5v4.5H9z",
            Icon::Hook => "M9 2.5v6.5a3 3 0 1 1-3-3M9 2.5l3 3M9 2.5l-3 3",
            Icon::Event => "M9 1.5L3 9h4l-1 5.5L13 7H8.5z",
            Icon::Delivery => "M2 8h9M8 4.5L11.5 8 8 11.5M14 3v10",
            Icon::Replay => "M13 8a5 5 0 1 1-1.5-3.5L13 6M13 2.5V6H9.5",
            Icon::Plug => "M6 2v3M10 2v3M4 5h8v3a4 4 0 0 1-8 0zM8 12v2.5",
            Icon::Book => {
                "M3 3h4a1.5 1.5 0 0 1 1 .5A1.5 1.5 0 0 1 9 3h4v9H9a1.5 1.5 0 0 0-1 .5A1.5 1.5 0 0 0 7 12H3zM8 3.5v9"
            }
            Icon::Copy => "M5.5 5.5h8v8h-8zM10.5 5.5v-3h-8v8h3",
        }
    }
}

/// Returns the icon of a class of news.
pub fn verdict_icon(class: &str) -> Icon {
    match class {
        "good" => Icon::Check,
        "bad" => Icon::Cross,
        "busy" => Icon::Clock,
        "held" => Icon::Pause,
        "off" => Icon::Dash,
        _ => Icon::Alert,
    }
}

/// Draws an icon.
pub fn icon(icon: Icon) -> Markup {
    html! {
        svg.icon viewBox="0 0 16 16" width="16" height="16" aria-hidden="true" focusable="false" {
            path d=(icon.lines()) {}
        }
    }
}
