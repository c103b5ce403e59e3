//! The progress of long commands, on a terminal and in a pipe.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::run;
use super::terminal::Terminal;
use crate::harness::http::answer;
use crate::harness::manifests::{event, hook, quick};
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Receiver, Reply, eventually, watchdog};

const DEAD: usize = 100;

/// Ctrl-C ends the wait for a replay and says how to end the replay; a replay that is waited for shows its end.
#[tokio::test(flavor = "multi_thread")]
async fn replay_shows_progress_and_outlives_ctrl_c() {
    let accepts = Arc::new(AtomicBool::new(false));
    let receiver = Receiver::start({
        let accepts = accepts.clone();
        move |_, _| Reply::status(if accepts.load(Ordering::SeqCst) { 200 } else { 422 })
    });
    let standalone = Standalone::start(&hook("h", &receiver.url(), quick()), &[]).await;
    for n in 0..DEAD {
        standalone.publish_accepted(&event(&format!("e{n}"))).await;
    }
    let api = format!("http://{}", standalone.api);
    let count_dead = async || {
        let list = format!("{api}/v1/namespaces/default/deliveries?state=dead&limit=100");
        let (_, page) = answer(standalone.client.get(&list)).await;
        page["items"].as_array().map_or(0, Vec::len)
    };
    eventually(DEADLINE, "dead letters", async || match count_dead().await {
        DEAD => Ok(()),
        n => Err(n.to_string()),
    })
    .await;
    accepts.store(true, Ordering::SeqCst);

    let replay = |rate| {
        ["deliveries", "replay", "-n", "default", "--hook", "h", "--rate", rate, "--wait", "--url", &api]
    };
    let in_terminal = |rate| Terminal::start(&replay(rate), &[("TERM", "xterm")], 100);
    let mut terminal = in_terminal("1");
    terminal.read_until(&format!("/{DEAD} replayed, "));
    terminal.interrupt();
    let text = terminal.read_to_end();
    assert!(text.contains("/s, ") && text.contains(" left"), "a rate and the time that is left: {text}");
    let hint = "the replay goes on; stop it with: hookstream replays cancel -n default ";
    let id = text.split(hint).nth(1).unwrap_or_else(|| panic!("{text}")).split_whitespace().next().unwrap();
    assert_eq!(terminal.exit_code(), Some(130), "{text}");
    let (code, out, error) = run(&["replays", "cancel", "-n", "default", id, "--url", &api]).await;
    assert!(code == 0 && out.contains("cancelled after"), "{out}{error}");
    let rest = count_dead().await;
    assert!(rest > 0, "at one a second, the replay is not done");

    let mut terminal = in_terminal("100");
    let text = terminal.read_to_end();
    assert!(text.contains(&format!("/{rest} replayed, ")) && text.contains("done"), "{text}");
    assert_eq!(terminal.exit_code(), Some(0), "{text}");
    let (code, out, error) = run(&replay("100")).await;
    assert!(code == 0 && out.contains("done"), "{out}{error}");
    assert!(!out.contains('\u{1b}') && !error.contains('\u{1b}'), "a bar in a pipe: {out:?}{error:?}");
}

/// While the worker does not answer, Ctrl-C ends the command at once.
#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_a_replay_that_the_worker_does_not_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let replay = ["deliveries", "replay", "-n", "default", "--hook", "h", "--url", &url];
    let mut terminal = Terminal::start(&replay, &[], 100);
    let mut connection = timeout(DEADLINE, listener.accept()).await.unwrap().unwrap().0;
    let mut request = [0; 4];
    timeout(DEADLINE, connection.read_exact(&mut request)).await.unwrap().unwrap();
    assert_eq!(&request, b"POST");
    terminal.interrupt();
    let text = terminal.read_to_end();
    assert_eq!(terminal.exit_code(), None, "ended by the signal: {text}");
}

/// On a terminal, `send --file` shows how many events it sent, and so it says after Ctrl-C; it keeps to its rate.
#[tokio::test(flavor = "multi_thread")]
async fn send_shows_progress_and_keeps_its_rate() {
    const EVENTS: u32 = 30;
    const RATE: u32 = 20;
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let standalone = Standalone::start(&hook("h", &receiver.url(), quick()), &[]).await;
    let file = watchdog::unique_path("events.jsonl");
    let lines: Vec<String> = (0..EVENTS).map(|n| format!("{}\n", event(&n.to_string()))).collect();
    std::fs::write(&file, lines.concat()).unwrap();
    let (file, url) = (file.display().to_string(), format!("http://{}", standalone.listen));
    let send = |rate| ["send", "-n", "default", "--file", &file, "--url", &url, "--rate", rate];
    let mut terminal = Terminal::start(&send("1"), &[("TERM", "xterm")], 100);
    terminal.read_until(&format!("/{EVENTS} sent, "));
    terminal.interrupt();
    let text = terminal.read_to_end();
    assert!(text.contains("interrupted (") && text.contains(" events were sent before)"), "{text}");
    assert_eq!(terminal.exit_code(), Some(130), "{text}");

    let started = Instant::now();
    let (code, out, error) = run(&send(&RATE.to_string())).await;
    let least = Duration::from_secs(1) / RATE * (EVENTS - 1);
    assert!(started.elapsed() >= least, "{:?} for {EVENTS} events at {RATE} a second", started.elapsed());
    assert!(code == 0 && out.starts_with(&format!("{EVENTS} sent: ")), "{out}{error}");
    assert!(!out.contains('\u{1b}') && !error.contains('\u{1b}'), "a bar in a pipe: {out:?}{error:?}");
}
