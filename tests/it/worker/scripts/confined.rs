use std::os::fd::AsRawFd;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hookstream::sandbox::ScriptError;
use rustix::io::{FdFlags, fcntl_setfd};
use serde_json::json;

use super::{Scripts, kill, wait_until_running};
use crate::harness::{DEADLINE, eventually};

fn proc(pid: i32, name: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap()
}

/// A child has three descriptors, no environment, no privileges, and seccomp.
#[tokio::test]
async fn child_has_no_privileges() {
    // Without CLOEXEC, as a library might open a file.
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
        assert!(status.lines().any(|other| other == line), "{line}\n{status}");
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
        let soft_limit = line[limit.len()..].split_whitespace().next().unwrap();
        assert_eq!(soft_limit, value, "{limit}\n{limits}");
    }
    let address_space = limits.lines().find(|line| line.starts_with("Max address space")).unwrap();
    assert!(!address_space.contains("unlimited"), "{address_space}");
}

/// Killing an idle child has no effect; killing a child during a call fails that call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_child_is_replaced() {
    let scripts = Scripts::start(11, |options| {
        (options.processes, options.timeout) = (1, Duration::from_secs(120));
    })
    .await;
    assert_eq!(scripts.run("hook", "return 1").await, Ok(json!(1)));
    let first = scripts.only_child();
    kill(first);
    eventually(DEADLINE, "the child to die", async || {
        // The file is missing once the sandbox has reaped the child.
        let state = std::fs::read_to_string(format!("/proc/{first}/stat")).unwrap_or_default();
        if state.is_empty() || state.contains(") Z ") { Ok(()) } else { Err(state) }
    })
    .await;
    assert_eq!(scripts.run("hook", "return 2").await, Ok(json!(2)));
    let second = eventually(DEADLINE, "the dead child to be reaped", async || match scripts.children()[..] {
        [pid] if pid != first => Ok(pid),
        _ => Err(format!("{:?}", scripts.children())),
    })
    .await;

    let kill_running = async {
        wait_until_running(second).await;
        kill(second);
    };
    let (outcome, ()) = tokio::join!(scripts.run("hook", "while true do end"), kill_running);
    assert_eq!(outcome, Err(ScriptError::ScriptCrashed));
    assert_eq!(scripts.run("hook", "return 3").await, Ok(json!(3)));
}

/// A cancelled call ends its script; dropping the last handle of the sandbox ends the children.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_call_ends_script() {
    let scripts = Scripts::start(12, |options| {
        (options.processes, options.timeout) = (1, Duration::from_secs(120));
    })
    .await;
    assert_eq!(scripts.run("hook", "return 1").await, Ok(json!(1)));
    let pid = scripts.only_child();
    tokio::select! {
        outcome = scripts.run("hook", "while true do end") => panic!("{outcome:?}"),
        () = wait_until_running(pid) => {}
    }
    let wait_until_ended = async |pid: i32| {
        eventually(DEADLINE, "the child to end", async || {
            if std::path::Path::new(&format!("/proc/{pid}")).exists() {
                Err("it exists".into())
            } else {
                Ok(())
            }
        })
        .await;
    };
    wait_until_ended(pid).await;
    assert_eq!(scripts.run("hook", "return 2").await, Ok(json!(2)));
    let last = scripts.only_child();
    drop(scripts);
    wait_until_ended(last).await;
}

/// Hooks share the children fairly: one that fills its share leaves a child to the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_share_children_fairly() {
    let scripts = Scripts::start(13, |options| {
        (options.processes, options.timeout) = (2, Duration::from_secs(60));
    })
    .await;
    let endless = async || scripts.run("hog", "while true do end").await;
    tokio::select! {
        // None of these calls ends during the test.
        _ = async { tokio::join!(endless(), endless(), endless()) } => panic!("an endless loop has ended"),
        answers = async {
            let first = scripts.run("good", "return 1").await;
            (first, scripts.run("other", "return 2").await)
        } => assert_eq!(answers, (Ok(json!(1)), Ok(json!(2)))),
    }

    // With one child the hook with short calls goes first, however many calls of the other are queued.
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
    // Recorded in the order in which the calls end.
    let mut calls: FuturesUnordered<_> = calls.into_iter().map(|(hook, body)| call(hook, body)).collect();
    while calls.next().await.is_some() {}
    drop(calls);
    assert_eq!(order.into_inner(), ["hog", "good", "hog", "hog"]);
}

/// Many hooks whose calls run into the deadline do not delay a hook with short calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_hooks_delay_no_fast_hook() {
    const HOGS: usize = 10;
    let scripts = Scripts::start(17, |options| {
        // Long enough for the short calls on a busy machine.
        (options.processes, options.timeout) = (2, Duration::from_secs(1));
    })
    .await;
    let ended = std::sync::atomic::AtomicUsize::new(0);
    let hogs = (0..HOGS).map(|number| {
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
        // The scheduler learns the cost of each hook from its first call.
        eventually(DEADLINE, "a first call of every hog", async || {
            let ended = ended.load(std::sync::atomic::Ordering::SeqCst);
            if ended >= HOGS { Ok(()) } else { Err(ended.to_string()) }
        })
        .await;
        let earlier = ended.load(std::sync::atomic::Ordering::SeqCst);
        for _ in 0..5 {
            assert_eq!(scripts.run("good", "return 1").await, Ok(json!(1)));
        }
        ended.load(std::sync::atomic::Ordering::SeqCst) - earlier
    };
    tokio::select! {
        _ = futures::future::join_all(hogs) => unreachable!("they never end"),
        // With round-robin it would be fifty.
        meanwhile = good => assert!(meanwhile <= 10, "{meanwhile} calls of other hooks ended before five short calls"),
    }
}

/// If no child can start, calls report it, and templates without code still work.
#[tokio::test]
async fn unavailable_sandbox_runs_no_lua() {
    for program in ["/nonexistent", "/bin/false"] {
        let scripts = Scripts::start(15, |options| options.program = program.into()).await;
        let message = scripts.sandbox.unavailable().unwrap();
        assert!(message.contains("does not start"), "{message}");
        assert_eq!(scripts.run("hook", "return true").await, Err(ScriptError::SandboxUnavailable(message)));
        assert_eq!(scripts.render("{{ a }}!", &json!({"a": "b"})).await, Ok("b!".into()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queued_call_ends_at_its_deadline() {
    let scripts = Scripts::start(16, |options| {
        (options.processes, options.timeout) = (1, Duration::from_secs(120));
    })
    .await;
    assert_eq!(scripts.run("a", "return 1").await, Ok(json!(1)));
    let pid = scripts.only_child();
    let data = super::raw(&json!({}));
    let function = "return function() while true do end end";
    let call = hookstream::sandbox::Invocation { function, data: &data, event: "e", source: "s", pid: 1 };
    tokio::select! {
        outcome = scripts.run("a", "while true do end") => panic!("{outcome:?}"),
        outcome = async {
            // The other hook occupies the child.
            wait_until_running(pid).await;
            scripts.invoke("b", call.clone(), Duration::from_millis(200)).await
        } => assert!(matches!(outcome, Err(ScriptError::SandboxBusy(_))), "{outcome:?}"),
    }
    // The caller's remaining time bounds the script, too. A started child is idle, so that starting one takes no part of it.
    assert_eq!(scripts.run("a", "return 1").await, Ok(json!(1)));
    let remaining = Duration::from_secs(2);
    let outcome = scripts.invoke("b", call, remaining).await;
    assert!(matches!(outcome, Err(ScriptError::ScriptTimeout(budget)) if budget <= remaining), "{outcome:?}");
}
