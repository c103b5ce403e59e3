//! The frame of every page: navigation, namespace, search, and the document around it.

use maud::{DOCTYPE, Markup, html};
use sha2::{Digest, Sha256};

use super::icon::{Icon, icon};
use super::parts::{csrf_field, notice};
use crate::console::path::Path;
use crate::console::problem::Problem;
use crate::console::request::Scope;
use crate::console::{ROOT, assets};

/// A page without its frame.
pub struct Page {
    /// The name of the page, also for tests and scripts.
    pub id: &'static str,
    pub title: String,
    pub section: Section,
    pub main: Markup,
    /// True if an open page is updated while it changes.
    pub is_live: bool,
}

/// A part of the navigation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    None,
    Overview,
    Hooks,
    Events,
    Deliveries,
    Replays,
    Connections,
    Catalogue,
}

const SECTIONS: [(Section, &str, &str, Icon); 7] = [
    (Section::Overview, "", "Overview", Icon::Overview),
    (Section::Hooks, "hooks", "Hooks", Icon::Hook),
    (Section::Events, "events", "Events", Icon::Event),
    (Section::Deliveries, "deliveries", "Deliveries", Icon::Delivery),
    (Section::Replays, "replays", "Replays", Icon::Replay),
    (Section::Connections, "connections", "Connections", Icon::Plug),
    (Section::Catalogue, "catalogue", "Catalogue", Icon::Book),
];

/// What the frame shows of the request.
#[derive(Default)]
pub struct Shell<'a> {
    pub scope: Scope,
    /// The path and the query of the page.
    pub address: &'a str,
    /// None: the port accepts clients without a token.
    pub user: Option<String>,
    pub can_log_out: bool,
    /// The searched text.
    pub search: &'a str,
    /// What the last action did.
    pub done: Option<&'static str>,
}

impl<'a> Shell<'a> {
    /// The frame for a request without a user.
    pub fn anonymous(address: &'a str) -> Self {
        Shell { address, ..Shell::default() }
    }
}

/// Returns the sentence for the result of an action that an address names. An address cannot carry any other sentence.
pub fn done_message(done: &str) -> Option<&'static str> {
    Some(match done {
        "replayed" => "The delivery is replayed now.",
        "cancelled" => "The delivery was cancelled.",
        "replay-started" => "The replay has started.",
        "replay-cancelled" => "The replay was cancelled.",
        "sent" => "The event was accepted.",
        "paused" => "The hook is paused: its deliveries are kept until it is resumed.",
        "resumed" => "The hook was resumed.",
        "reconciled" => "A reconcile was requested.",
        _ => return None,
    })
}

/// Returns a hash by which a content is recognized.
pub fn content_hash(content: &str) -> String {
    let mut hash = hex::encode(Sha256::digest(content));
    hash.truncate(32);
    hash
}

/// Builds the document of a page.
pub fn document(page: &Page, shell: &Shell<'_>) -> Markup {
    let live = page.is_live.then(|| {
        Path::new("/console/live").query("path", shell.address).query("seen", &content_hash(&page.main.0))
    });
    let main = html! {
        main #main tabindex="-1" {
            @if let Some(done) = shell.done { (notice("good", done)) }
            div #content data-live=[live] { (page.main) }
        }
    };
    frame(
        page.id,
        &page.title,
        &html! {
            a.skip href="#main" { "Skip to the content" }
            (header(shell))
            div.columns { (navigation(shell, page.section)) (main) }
        },
    )
}

/// Builds the document of a problem.
pub fn problem(shell: &Shell<'_>, problem: &Problem, request_id: &str) -> Markup {
    let title = match problem.status {
        403 => "Not permitted",
        404 => "Not found",
        429 => "Too many requests",
        503 => "Not available at the moment",
        status if status < 500 => "The request cannot be answered",
        _ => "The request failed",
    };
    let main = html! {
        main #main tabindex="-1" {
            h1 { (title) }
            div #problem.notice.bad role="alert" { (icon(Icon::Cross)) div { (problem.detail) " " code { (problem.reason) } } }
            @if problem.is_forbidden() && problem.reason == "Forbidden" { (permission_help(shell, problem.role.as_deref())) }
            @if !request_id.is_empty() {
                p.hint { "Request " code #request-id { (request_id) } " in the worker's log." }
            }
            p { a.button href=(ROOT) { "Overview" } }
        }
    };
    frame(
        "error",
        title,
        &html! {
            a.skip href="#main" { "Skip to the content" }
            (header(shell))
            div.columns { (navigation(shell, Section::None)) (main) }
        },
    )
}

/// Says what a user without a permission can do. `role`: the one that has it, if the API named it.
fn permission_help(shell: &Shell<'_>, role: Option<&str>) -> Markup {
    let role = html! { @match role { Some(role) => { "the role " code { (role) } }, None => "a role that has this right" } };
    html! {
        @match shell.scope.namespace() {
            None => p {
                "You may not read all namespaces at once. Choose a namespace above, or ask for a ClusterRoleBinding of " (role) "."
            },
            Some(namespace) => p {
                "Ask for a RoleBinding of " (role) " in the namespace " code { (namespace) } "."
            },
        }
    }
}

fn header(shell: &Shell<'_>) -> Markup {
    let namespace = shell.scope.namespace().unwrap_or_default();
    html! {
        header.top {
            a.brand href=(shell.scope.page("")) {
                img src=(assets::path("icon.svg")) alt="" width="22" height="22";
                span { "Hookstream" }
            }
            form.namespace method="get" action="/console/go" {
                label for="namespace" { "Namespace" }
                input type="hidden" name="from" value=(shell.address);
                input #namespace name="namespace" value=(namespace) placeholder="All namespaces" autocomplete="off"
                    spellcheck="false" maxlength="63" size="18";
                button.button.quiet type="submit" { "Show" }
                @if !namespace.is_empty() { a.button.quiet href="/console/" { "All" } }
            }
            form #search.search role="search" method="get" action=(shell.scope.page("search")) {
                label.visually-hidden for="q" { "Search for an event, a delivery or a hook" }
                (icon(Icon::Search))
                input #q type="search" name="q" value=(shell.search) placeholder="Order number, event id, hook…"
                    autocomplete="off" spellcheck="false" maxlength="256";
                kbd.shortcut aria-hidden="true" { "/" }
            }
            @if let Some(user) = &shell.user { span.user title=(user) { (user) } }
            @if shell.can_log_out {
                form.inline method="post" action="/console/logout" { button.button.quiet type="submit" { "Log out" } }
            }
        }
    }
}

fn navigation(shell: &Shell<'_>, current: Section) -> Markup {
    html! {
        nav.side aria-label="Pages of the console" {
            ul {
                @for (section, name, label, shown) in SECTIONS {
                    li {
                        a href=(shell.scope.page(name)) aria-current=[(section == current).then_some("page")] {
                            (icon(shown)) span { (label) }
                        }
                    }
                }
            }
        }
    }
}

/// Builds the page on which a user logs in.
pub fn login(csrf: &str, next: &str, problem: Option<&Problem>, is_local: bool) -> Markup {
    frame(
        "login",
        "Log in",
        &html! {
            main #main.login tabindex="-1" {
                p.brand { img src=(assets::path("icon.svg")) alt="" width="28" height="28"; span { "Hookstream" } }
                h1 { "Log in to the console" }
                @if let Some(problem) = problem {
                    div #problem.notice.bad role="alert" { (icon(Icon::Cross)) div { (problem.detail) } }
                }
                @if !is_local {
                    form method="post" action="/console/login" {
                        (csrf_field(csrf))
                        input type="hidden" name="next" value=(next);
                        label for="token" { "Token" }
                        input #token name="token" type="password" autocomplete="off" spellcheck="false" required autofocus;
                        button.button.primary type="submit" { "Log in" }
                    }
                    p.hint {
                        "A token of a ServiceAccount with the worker's audience: "
                        code { "kubectl create token NAME --audience hookstream" }
                        ". Without a token: " code { "hookstream console" } " opens the console with your kubeconfig."
                    }
                }
            }
        },
    )
}

fn frame(id: &str, title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex";
                title { (title) " · Hookstream" }
                link rel="icon" type="image/svg+xml" href=(assets::path("icon.svg"));
                link rel="stylesheet" href=(assets::path("style.css"));
                script type="module" src=(assets::path("console.js")) {}
            }
            body data-page=(id) { (body) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "</title><script>alert(1)</script>\"'";

    #[test]
    fn hostile_texts_are_escaped() {
        let shell = Shell {
            address: HOSTILE,
            user: Some(HOSTILE.to_owned()),
            search: HOSTILE,
            ..Shell::anonymous(HOSTILE)
        };
        let page = Page {
            id: "events",
            title: HOSTILE.to_owned(),
            section: Section::Events,
            main: html! { (HOSTILE) },
            is_live: true,
        };
        let found = Problem::new(404, HOSTILE, HOSTILE);
        for markup in [
            document(&page, &shell),
            problem(&shell, &found, HOSTILE),
            login(HOSTILE, HOSTILE, Some(&found), false),
        ] {
            let text = markup.into_string();
            // The one script is the console's own.
            assert_eq!(text.matches("<script").count(), 1, "{text}");
            assert!(!text.contains("style=") && !text.contains("onerror"), "no inline style or script");
        }
        assert_eq!(done_message(HOSTILE), None);
    }

    #[test]
    fn document_names_its_page_and_section() {
        let page = Page {
            id: "hooks",
            title: "Hooks".to_owned(),
            section: Section::Hooks,
            main: html! {},
            is_live: false,
        };
        let text = document(&page, &Shell { scope: Scope::of("shop"), ..Shell::default() }).into_string();
        assert!(text.contains("<body data-page=\"hooks\">"), "{text}");
        assert!(text.contains("href=\"/console/namespaces/shop/hooks\" aria-current=\"page\""), "{text}");
        assert_eq!(text.matches("aria-current").count(), 1);
        assert!(!text.contains("data-live"));
    }
}
