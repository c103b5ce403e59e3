use std::os::fd::AsRawFd;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hookstream::sandbox::ScriptError;
use rustix::io::{FdFlags, fcntl_setfd};
use serde_json::json;

use super::{Scripts, kill, runs};
use crate::harness::{DEADLINE, eventually};

fn proc(pid: i32, name: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap()
}

/// Three descriptors, no environment, no privileges, seccomp.
#[tokio::test]
async fn a_child_has_nothing() {
    // As if a library had opened it without a thought of children.
    let open = std::fs::File::open("/proc/self/status").unwrap();
    fcntl_setfd(&open, FdFlags::empty()).unwrap();
    let scripts = Scripts::start(10, |options| options.processes = 1).await;
    assert_eq!(scripts.sandbox.unavailable(), None);
    assert_eq!(scripts.run("hook", "return true").await, Ok(json!(true)));
    let pid = scripts.only_child();

    let mut descriptors: Vec<(i32, String)> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let target = std::fs::read_link(entry.path()).unwrap();
            (entry.file_name().to_str().unwrap().parse().unwrap(), target.display().to_string())
        })
        .collect();
    descriptors.sort();
    let numbers: Vec<i32> = descriptors.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [0, 1, 2], "{descriptors:?} (left open: {})", open.as_raw_fd());
    assert!(
        descriptors[0].1.starts_with("pipe:") && descriptors[1].1.starts_with("pipe:"),
        "{descriptors:?}"
    );
    assert_eq!(descriptors[2].1, "/dev/null");

    assert_eq!(proc(pid, "environ"), "");
    assert_eq!(proc(pid, "oom_score_adj"), "1000\n");
    let status = proc(pid, "status");
    for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "Threads:\t1"] {
        assert!(status.lines().any(|found| found == line), "{line}\n{status}");
    }
    let limits = proc(pid, "limits");
    for (limit, value) in [
        ("Max core file size", "0"),
        ("Max open files", "0"),
        ("Max processes", "0"),
        ("Max file size", "0"),
        ("Max cpu time", "600"),
    ] {
        let line = limits.lines().find(|line| line.starts_with(limit)).unwrap();
        let found = line[limit.len()..].split_whitespace().next().unwrap();
        assert_eq!(found, value, "{limit}\n{limits}");
    }
    let space = limits.lines().find(|line| line.starts_with("Max address space")).unwrap();
    assert!(!space.contains("unlimited"), "{space}");
}

/// A child that is killed while it waits costs nothing; one that is killed while it works costs that call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_child_is_replaced() {
    let scripts = Scripts::start(11, |options| {
        (options.processes, options.timeout) = (1, Duration::from_secs(120));
    })
    .await;
    assert_eq!(scripts.run("hook", "return 1").await, Ok(json!(1)));
    let first = scripts.only_child();
    kill(first);
    eventually(DEADLINE, "it is dead", async || {
        let state = proc(first, "stat");
        if state.contains(") Z ") { Ok(()) } else { Err(state) }
    })
    .await;
    assert_eq!(scripts.run("hook", "return 2").await, Ok(json!(2)));
    let second = eventually(DEADLINE, "the first is buried", async || match scripts.children()[..] {
        [pid] if pid != first => Ok(pid),
        _ => Err(format!("{:?}", scripts.children())),
    })
    .await;

    let killed = async {
        runs(second).await;
        kill(second);
    };
    let (outcome, ()) = tokio::join!(scripts.run("hook", "while true do end"), killed);
    assert_eq!(outcome, Err(ScriptError::ScriptCrashed));
    assert_eq!(scripts.run("hook", "return 3").await, Ok(json!(3)));
}

/// Who stops waiting ends the script; the last who lets go of the sandbox ends the children.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_runs_for_nobody() {
    let scripts = Scripts::start(12, |options| {
        (options.processes, options.timeout) = (1, Duration::from_secs(120));
    })
    .await;
    assert_eq!(scripts.run("hook", "return 1").await, Ok(json!(1)));
    let pid = scripts.only_child();
    tokio::select! {
        outcome = scripts.run("hook", "while true do end") => panic!("{outcome:?}"),
        () = runs(pid) => {}
    }
    let gone = async |pid: i32| {
        eventually(DEADLINE, "the child is gone", async || {
            if std::path::Path::new(&format!("/proc/{pid}")).exists() {
                Err("it is there".into())
            } else {
                Ok(())
            }
        })
        .await;
    };
    gone(pid).await;
    assert_eq!(scripts.run("hook", "return 2").await, Ok(json!(2)));
    let last = scripts.only_child();
    drop(scripts);
    gone(last).await;
}

/// Hooks take turns, and one that fills its share leaves a child to the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_take_turns() {
    let scripts = Scripts::start(13, |options| {
        (options.processes, options.timeout) = (2, Duration::from_secs(60));
    })
    .await;
    let endless = async || scripts.run("hog", "while true do end").await;
    tokio::select! {
        // None of them ends within this test.
        _ = async { tokio::join!(endless(), endless(), endless()) } => panic!("an endless loop has ended"),
        answers = async {
            let first = scripts.run("good", "return 1").await;
            (first, scripts.run("other", "return 2").await)
        } => assert_eq!(answers, (Ok(json!(1)), Ok(json!(2)))),
    }

    // With one child the one whose calls are short goes first, however many calls of the other wait.
    let scripts = Scripts::start(14, |options| {
        (options.processes, options.timeout) = (1, Duration::from_millis(300));
    })
    .await;
    let order = parking_lot::Mutex::new(Vec::new());
    let call = async |hook: &str, body: &str| {
        scripts.run(hook, body).await.ok();
        order.lock().push(hook.to_owned());
    };
    let loops = "while true do end";
    let calls = [("hog", loops), ("hog", loops), ("hog", loops), ("good", "return true")];
    // In the order in which they end, also where this thread comes late.
    let mut calls: FuturesUnordered<_> = calls.into_iter().map(|(hook, body)| call(hook, body)).collect();
    while calls.next().await.is_some() {}
    drop(calls);
    assert_eq!(order.into_inner(), ["hog", "good", "hog", "hog"]);
}

/// Many hooks that run into their deadlines have all their calls waiting; one whose calls are short is not behind them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_slow_hooks_holds_up_no_other() {
    let scripts = Scripts::start(17, |options| {
        (options.processes, options.timeout) = (2, Duration::from_millis(300));
    })
    .await;
    let ended = std::sync::atomic::AtomicUsize::new(0);
    let hogs = (0..20).map(|number| {
        let (scripts, ended) = (&scripts, &ended);
        async move {
            let hook = format!("hog-{number}");
            loop {
                scripts.run(&hook, "while true do end").await.ok();
                ended.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
        }
    });
    let good = async {
        // What each of them costs is known when it ran once.
        eventually(DEADLINE, "every hog to have had a turn", async || {
            let ended = ended.load(std::sync::atomic::Ordering::SeqCst);
            if ended >= 20 { Ok(()) } else { Err(ended.to_string()) }
        })
        .await;
        let before = ended.load(std::sync::atomic::Ordering::SeqCst);
        for _ in 0..5 {
            assert_eq!(scripts.run("good", "return 1").await, Ok(json!(1)));
        }
        ended.load(std::sync::atomic::Ordering::SeqCst) - before
    };
    tokio::select! {
        _ = futures::future::join_all(hogs) => unreachable!("they never end"),
        // By turns it would be a hundred.
        meanwhile = good => assert!(meanwhile <= 10, "{meanwhile} calls of others came before five"),
    }
}

/// Where no child can be had, that is said, and what needs none goes on.
#[tokio::test]
async fn without_a_sandbox_no_lua_runs() {
    for program in ["/nonexistent", "/bin/false"] {
        let scripts = Scripts::start(15, |options| options.program = program.into()).await;
        let why = scripts.sandbox.unavailable().unwrap();
        assert!(why.contains("does not start"), "{why}");
        assert_eq!(scripts.run("hook", "return true").await, Err(ScriptError::SandboxUnavailable(why)));
        assert_eq!(scripts.render("{{ a }}!", &json!({"a": "b"})).await, Ok("b!".into()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_waits_no_longer_than_its_caller() {
    let scripts = Scripts::start(16, |options| {
        (options.processes, options.timeout) = (1, Duration::from_secs(120));
    })
    .await;
    assert_eq!(scripts.run("a", "return 1").await, Ok(json!(1)));
    let pid = scripts.only_child();
    let data = super::raw(&json!({}));
    let function = "return function() while true do end end";
    let call = hookstream::sandbox::Call { function, data: &data, event: "e", source: "s", pid: 1 };
    let within = Duration::from_millis(200);
    tokio::select! {
        outcome = scripts.run("a", "while true do end") => panic!("{outcome:?}"),
        refused = async {
            // The other has the child.
            runs(pid).await;
            scripts.sandbox.call("b", call.clone(), within).await
        } => assert!(matches!(refused, Err(ScriptError::SandboxUnavailable(_))), "{refused:?}"),
    }
    // What the caller has left bounds the script too.
    let cut = scripts.sandbox.call("b", call, within).await;
    assert!(matches!(cut, Err(ScriptError::ScriptTimeout(budget)) if budget <= within), "{cut:?}");
}
