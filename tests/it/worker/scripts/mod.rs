//! The sandbox for users' Lua, in real child processes of the real program: allowed code works, hostile code costs one
//! call, and no state passes from one call to the next.

mod confined;
mod hostile;
mod hostile_children;
mod lambdas;
mod memory;
mod ngx_re;
mod refused;
mod templates;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hookstream::core::event::data::{Data, JsonStyle};
use hookstream::sandbox::{Invocation, RenderContext, Sandbox, SandboxOptions, ScriptError, ScriptOwner};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use crate::harness::{DEADLINE, eventually};

/// The deadline of calls that do not test deadlines; long enough for a busy machine.
const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// A sandbox and its children. They are identified by their memory limit, which differs in each test.
struct Scripts {
    sandbox: Sandbox,
    memory: u64,
}

impl Scripts {
    /// Starts a sandbox. `tag` differs in every test.
    async fn start(tag: u64, configure: impl FnOnce(&mut SandboxOptions)) -> Scripts {
        let memory = (32 << 20) + tag;
        let mut options = SandboxOptions {
            memory,
            program: PathBuf::from(env!("CARGO_BIN_EXE_hookstream")),
            ..SandboxOptions::default()
        };
        // Long, so that on a busy machine only an endless script reaches it.
        options.timeout = CALL_DEADLINE;
        configure(&mut options);
        Scripts { sandbox: Sandbox::start(options).await, memory }
    }

    /// Calls `return function (data, event, source, pid) <body> end`.
    async fn run(&self, hook: &str, body: &str) -> Result<Value, ScriptError> {
        self.call(hook, &format!("return function (data, event, source, pid)\n{body}\nend")).await
    }

    async fn call(&self, hook: &str, function: &str) -> Result<Value, ScriptError> {
        let data =
            raw(&json!({"entity": {"username": "ada", "none": null}, "list": [1, null, "x"], "empty": []}));
        let call = Invocation { function, data: &data, event: "consumers", source: "crud", pid: 7 };
        self.invoke(hook, call, CALL_DEADLINE).await
    }

    /// Calls a lambda of a hook. All hooks are in one namespace.
    async fn invoke(&self, hook: &str, call: Invocation<'_>, within: Duration) -> Result<Value, ScriptError> {
        let owner = ScriptOwner { namespace: &"n".into(), hook: &hook.into() };
        self.sandbox.invoke(owner, call, within).await
    }

    async fn render(&self, template: &str, context: &Value) -> Result<String, ScriptError> {
        self.render_data(template, &Data::from(context.clone())).await
    }

    async fn render_data(&self, template: &str, context: &Data<'_>) -> Result<String, ScriptError> {
        self.render_all(&[template], context, CALL_DEADLINE).await.map(|mut texts| texts.remove(0))
    }

    async fn render_all(
        &self,
        templates: &[&str],
        context: &Data<'_>,
        within: Duration,
    ) -> Result<Vec<String>, ScriptError> {
        let owner = ScriptOwner { namespace: &"n".into(), hook: &"hook".into() };
        let variables = Arc::new(context.clone().into_owned());
        let context = RenderContext { variables, bytes: context.to_json(JsonStyle::Original).len() };
        self.sandbox.render(owner, templates, &context, within).await.map(|rendered| rendered.texts)
    }

    /// Returns the process ids of the living children.
    fn children(&self) -> Vec<i32> {
        let argument = format!("--memory={}", self.memory);
        let parent = format!("PPid:\t{}\n", std::process::id());
        let numbers = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        let is_child = |pid: &i32| {
            let read =
                |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
            read("cmdline").split('\0').any(|part| part == argument) && read("status").contains(&parent)
        };
        numbers.filter(is_child).collect()
    }

    async fn wait_for_no_child(&self) {
        eventually(DEADLINE, "no child to be left", async || match self.children()[..] {
            [] => Ok(()),
            ref children => Err(format!("{children:?}")),
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

/// Asserts that no row of a table failed, and prints all failures.
fn assert_no_failures(failures: &[String]) {
    assert!(failures.is_empty(), "{} rows failed:\n{}", failures.len(), failures.join("\n"));
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// Waits until a process has used enough CPU time to be running a script.
async fn wait_until_running(pid: i32) {
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<u64> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|f| f.parse().ok())
            .collect();
        // The state is not a number and is skipped: utime is the 14th field.
        fields.get(10).copied().unwrap_or_default()
    };
    let start = ticks();
    eventually(DEADLINE, "the child to work", async || {
        if ticks() > start + 1 { Ok(()) } else { Err(format!("{} ticks", ticks())) }
    })
    .await;
}
