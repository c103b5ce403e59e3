//! The progress of long commands, on a terminal and in a pipe.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::run;
use super::terminal::Terminal;
use crate::harness::http::answer;
use crate::harness::manifests::{event, hook, quick};
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Receiver, Reply, eventually};

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
