//! Lua of users runs in real child processes of the real program: what it may do works, what it must not do costs one
//! call, and nothing of one call is there in the next.

mod confined;
mod hostile;
mod hostile_children;
mod lambdas;
mod refused;
mod templates;

use std::path::PathBuf;
use std::time::Duration;

use hookstream::sandbox::{Call, Options, Sandbox, ScriptError};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use crate::harness::{DEADLINE, eventually};

/// Long enough for a busy machine: what a caller has left, where that is not the question.
const PATIENCE: Duration = Duration::from_secs(30);

/// A sandbox and, by the memory that no other test gives, its children.
struct Scripts {
    sandbox: Sandbox,
    memory: u64,
}

impl Scripts {
    /// `tag` differs in every test.
    async fn start(tag: u64, set: impl FnOnce(&mut Options)) -> Scripts {
        let memory = (32 << 20) + tag;
        let mut options = Options {
            memory,
            program: PathBuf::from(env!("CARGO_BIN_EXE_hookstream")),
            ..Options::default()
        };
        // Nobody waits for it, but who runs into it.
        options.timeout = Duration::from_secs(10);
        set(&mut options);
        Scripts { sandbox: Sandbox::start(options).await, memory }
    }

    /// Calls `return function (data, event, source, pid) <body> end`.
    async fn run(&self, hook: &str, body: &str) -> Result<Value, ScriptError> {
        self.call(hook, &format!("return function (data, event, source, pid)\n{body}\nend")).await
    }

    async fn call(&self, hook: &str, function: &str) -> Result<Value, ScriptError> {
        let data =
            raw(&json!({"entity": {"username": "ada", "none": null}, "list": [1, null, "x"], "empty": []}));
        let call = Call { function, data: &data, event: "consumers", source: "crud", pid: 7 };
        self.sandbox.call(hook, call, PATIENCE).await
    }

    async fn render(&self, template: &str, context: &Value) -> Result<String, ScriptError> {
        self.sandbox.render("hook", &[template], context, PATIENCE).await.map(|mut texts| texts.remove(0))
    }

    /// The process ids of the children that live.
    fn children(&self) -> Vec<i32> {
        let argument = format!("--memory={}", self.memory);
        let own = format!("PPid:\t{}\n", std::process::id());
        let numbers = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        let ours = |pid: &i32| {
            let read =
                |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
            read("cmdline").split('\0').any(|part| part == argument) && read("status").contains(&own)
        };
        numbers.filter(ours).collect()
    }

    async fn until_no_child(&self) {
        eventually(DEADLINE, "no child to be left", async || match self.children()[..] {
            [] => Ok(()),
            ref left => Err(format!("{left:?}")),
        })
        .await;
    }

    fn only_child(&self) -> i32 {
        let children = self.children();
        assert_eq!(children.len(), 1, "{children:?}");
        children[0]
    }
}

fn raw(value: &Value) -> Box<RawValue> {
    to_raw_value(value).unwrap()
}

/// The rows of a table that are not as they should be, all at once.
fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// Waits until a process has used so much CPU time since it was at rest that it runs a script.
async fn runs(pid: i32) {
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<u64> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|f| f.parse().ok())
            .collect();
        // The state is no number and so not counted: utime is the 14th field of all.
        fields.get(10).copied().unwrap_or_default()
    };
    let before = ticks();
    eventually(DEADLINE, "the child to work", async || {
        if ticks() > before + 1 { Ok(()) } else { Err(format!("{} ticks", ticks())) }
    })
    .await;
}
