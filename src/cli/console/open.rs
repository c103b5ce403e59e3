//! Opens the browser, and watches the terminal for requests of a new link.

use std::io::{BufRead, IsTerminal};
use std::process::{Command, Stdio};

use tokio::sync::mpsc;

/// The program that opens a link in the user's browser.
const OPENER: &str = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };

/// Opens the link in the user's browser. Returns false if there is none that could be opened.
pub fn open_browser(link: &str) -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    // Without a display, xdg-open would start a browser of the terminal, which would take over this one.
    if !cfg!(target_os = "macos") && !is_set("DISPLAY") && !is_set("WAYLAND_DISPLAY") {
        return false;
    }
    let mut command = Command::new(OPENER);
    command.arg(link).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else { return false };
    // Some openers run as long as the browser.
    std::thread::spawn(move || child.wait());
    true
}

/// Reports each press of Enter. None if the standard input is no terminal.
pub fn watch_enter() -> Option<mpsc::Receiver<()>> {
    if !std::io::stdin().is_terminal() {
        return None;
    }
    let (sender, receiver) = mpsc::channel(1);
    // A read of the terminal cannot be cancelled; the thread ends with the process.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if line.is_err() || sender.blocking_send(()).is_err() {
                return;
            }
        }
    });
    Some(receiver)
}
