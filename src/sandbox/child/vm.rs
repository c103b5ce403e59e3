//! The interpreter of a child. It serves many calls, each with globals of its own that the prelude makes anew: library
//! tables, the methods of strings, the state of `math.random`. Functions are shared, for they hold nothing.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use mlua::chunk::ChunkMode;
use mlua::{
    Error, Function, HookTriggers, Lua, LuaOptions, LuaString, StdLib, Table, Value as Lua5, VmState,
};
use serde_json::value::RawValue;

use super::json::{self, NoValue, Nulls};
use super::native;
use crate::core::template::Template;
use crate::sandbox::protocol::{Answer, Failed, Job, MAX_ERROR, MAX_TEXT, MAX_VALUE};

/// How many instructions pass between two looks at the clock.
const EVERY: u32 = 1000;
/// How many compiled texts are kept.
const COMPILED: usize = 256;
/// What a call may leave for the collector before it is made to run.
const LEFT: usize = 4 << 20;

/// A line that a script logged.
pub struct Log {
    pub level: u8,
    pub text: String,
}

pub struct Vm {
    lua: Lua,
    /// `make(place, seed, context)`: fresh globals, and the environment of templates.
    make: Function,
    /// `call(chunk, data, event, source, pid)` and `render(chunk)`, in protected mode.
    call: Function,
    render: Function,
    /// A readable text for an error object.
    describe: Function,
    array: Table,
    /// The environment of what is compiled and does not run.
    nothing: Table,
    compiled: HashMap<String, Compiled>,
    budget: Rc<Budget>,
    logs: Rc<RefCell<Vec<Log>>>,
    /// Memory in use when nothing has run yet.
    at_rest: usize,
}

struct Compiled {
    function: Function,
    /// A template's way back from lines of its Lua.
    generated: Option<crate::core::template::Generated>,
}

/// When a call has to end.
struct Budget {
    deadline: Cell<Instant>,
    over: Cell<bool>,
}

impl Budget {
    /// Looks at the clock. Once the time is up every instruction fails, so that no `pcall` brings the script back.
    fn look(self: &Rc<Self>, lua: &Lua) -> mlua::Result<VmState> {
        if self.over.get() || Instant::now() >= self.deadline.get() {
            if !self.over.replace(true) {
                self.clone().watch(lua, 1)?;
            }
            return Err(Error::runtime("the script's time is up"));
        }
        Ok(VmState::Continue)
    }

    fn watch(self: Rc<Self>, lua: &Lua, every: u32) -> mlua::Result<()> {
        lua.set_global_hook(HookTriggers::new().every_nth_instruction(every), move |lua, _| self.look(lua))
    }
}

impl Vm {
    pub fn new(memory: usize) -> mlua::Result<Vm> {
        let libraries =
            StdLib::TABLE | StdLib::STRING | StdLib::MATH | StdLib::OS | StdLib::BIT | StdLib::JIT;
        let lua = Lua::new_with(libraries, LuaOptions::new())?;
        // Compiled code looks at no hook: an endless loop in it could only be killed.
        lua.load("jit.off() jit.flush() jit = nil").exec()?;
        let logs = Rc::new(RefCell::new(Vec::new()));
        let array = lua.create_table()?;
        let native = native::table(&lua, &array, logs.clone())?;
        let prelude = lua.load(include_str!("prelude.lua")).set_name("=prelude").set_mode(ChunkMode::Text);
        let (make, call, render, describe) = prelude.call(native)?;
        // What is left of the real globals is out of reach, for every chunk gets an environment; empty it all the same.
        let globals = lua.globals();
        for pair in globals.pairs::<Lua5, Lua5>().collect::<mlua::Result<Vec<_>>>()? {
            globals.raw_set(pair.0, Lua5::Nil)?;
        }
        let budget = Rc::new(Budget { deadline: Cell::new(Instant::now()), over: Cell::new(false) });
        budget.clone().watch(&lua, EVERY)?;
        let nothing = lua.create_table()?;
        lua.gc_collect()?;
        let at_rest = lua.used_memory();
        lua.set_memory_limit(at_rest.saturating_add(memory))?;
        let compiled = HashMap::new();
        Ok(Vm { lua, make, call, render, describe, array, nothing, compiled, budget, logs, at_rest })
    }

    /// Runs one call. After one whose time was up the interpreter is of no more use.
    pub fn run(&mut self, job: &Job<'_>, deadline: Instant) -> (Result<Answer, Failed>, Vec<Log>) {
        self.budget.deadline.set(deadline);
        self.budget.over.set(false);
        self.logs.borrow_mut().clear();
        // The one table that calls share; from Lua a metatable can be locked, from here it goes.
        let outcome = match self.array.set_metatable(None) {
            Ok(()) => match job {
                Job::Render { templates, context } => self.templates(templates, context),
                Job::Call { function, data, event, source, pid } => {
                    self.lambda(function, data, event, source, *pid)
                }
            },
            Err(error) => Err(self.failed(&error)),
        };
        // Whatever a script made of it: its time was up.
        let outcome = if self.budget.over.get() { Err(Failed::Timeout) } else { outcome };
        (outcome, std::mem::take(&mut *self.logs.borrow_mut()))
    }

    /// Collects what a call left, so that it does not count for the next.
    pub fn tidy(&mut self) {
        let full = || self.lua.used_memory() > self.at_rest.saturating_add(LEFT);
        if full() {
            self.lua.gc_collect().ok();
            if full() {
                self.compiled.clear();
                self.lua.gc_collect().ok();
            }
        }
    }

    fn templates(
        &mut self,
        templates: &[std::borrow::Cow<'_, str>],
        context: &RawValue,
    ) -> Result<Answer, Failed> {
        let mut texts = Vec::with_capacity(templates.len());
        let mut length = 0;
        let context = self.value(context)?;
        let (_, environment): (Table, Table) = self
            .make
            .call(("a template", fastrand::u32(..), context))
            .map_err(|error| self.failed(&error))?;
        for text in templates {
            self.compile_template(text)?;
            let Some(Compiled { function, generated }) = self.compiled.get(text.as_ref()) else { continue };
            function.set_environment(environment.clone()).map_err(|error| self.failed(&error))?;
            let rendered: mlua::Result<(bool, Lua5)> = self.render.call(function);
            // What it left there goes with the call.
            function.set_environment(self.nothing.clone()).map_err(|error| self.failed(&error))?;
            let (done, value) = rendered.map_err(|error| self.failed(&error))?;
            let rendered = match value {
                Lua5::String(rendered) if done => rendered,
                error => {
                    return Err(match (self.raised(error), generated) {
                        (Failed::Error(message), Some(generated)) => {
                            Failed::Error(template_line(&message, |line| generated.line(line)))
                        }
                        (failed, _) => failed,
                    });
                }
            };
            // What is no UTF-8 grows when it is made so, and the worker looks at what comes.
            let rendered = rendered.to_string_lossy();
            length += rendered.len();
            if length > MAX_TEXT {
                return Err(Failed::TooBig(format!("the rendered text is over {} MiB", MAX_TEXT >> 20)));
            }
            texts.push(rendered);
        }
        Ok(Answer::Texts(texts))
    }

    fn lambda(
        &mut self,
        text: &str,
        data: &RawValue,
        event: &str,
        source: &str,
        pid: u32,
    ) -> Result<Answer, Failed> {
        if !self.compiled.contains_key(text) {
            let function = self.compile(text, "=lambda")?;
            self.compiled.insert(text.to_owned(), Compiled { function, generated: None });
        }
        let data = self.value(data)?;
        let (globals, _): (Table, Table) = self
            .make
            .call(("a lambda", fastrand::u32(..), Lua5::Nil))
            .map_err(|error| self.failed(&error))?;
        let Some(Compiled { function, .. }) = self.compiled.get(text) else { return Err(Failed::Memory) };
        function.set_environment(globals).map_err(|error| self.failed(&error))?;
        let called: mlua::Result<(bool, Lua5)> = self.call.call((function, data, event, source, pid));
        function.set_environment(self.nothing.clone()).map_err(|error| self.failed(&error))?;
        let (done, value) = called.map_err(|error| self.failed(&error))?;
        if !done {
            return Err(self.raised(value));
        }
        let told = |why: String| Failed::Error(format!("lambda: its result: {why}"));
        let json = json::from_lua(&value, &self.array, MAX_VALUE).map_err(told)?;
        let json = String::from_utf8_lossy(&json).into_owned();
        if json.len() > MAX_VALUE {
            return Err(Failed::TooBig(format!("the lambda's result is over {} KiB", MAX_VALUE >> 10)));
        }
        RawValue::from_string(json).map(Answer::Value).map_err(|error| told(error.to_string()))
    }

    fn compile_template(&mut self, text: &str) -> Result<(), Failed> {
        if self.compiled.contains_key(text) {
            return Ok(());
        }
        let template = Template::parse(text).map_err(|found| Failed::Error(found.to_string()))?;
        let generated = template.generate();
        let function = self.compile(&generated.lua, "=template").map_err(|failed| match failed {
            Failed::Error(message) => Failed::Error(template_line(&message, |line| generated.line(line))),
            other => other,
        })?;
        self.compiled.insert(text.to_owned(), Compiled { function, generated: Some(generated) });
        Ok(())
    }

    fn compile(&mut self, lua: &str, name: &str) -> Result<Function, Failed> {
        if self.compiled.len() >= COMPILED {
            self.compiled.clear();
        }
        let chunk = self.lua.load(lua).set_name(name).set_mode(ChunkMode::Text);
        chunk.into_function().map_err(|error| self.failed(&error))
    }

    fn value(&self, value: &RawValue) -> Result<Lua5, Failed> {
        let made = json::to_lua(&self.lua, value.get().as_bytes(), Nulls::Left, Some(&self.array));
        made.map_err(|error| match error {
            // Such as data that nests deeper than anybody reads.
            NoValue::Json(error) => Failed::Error(format!("the event cannot be given to Lua: {error}")),
            NoValue::Lua(error) => self.failed(&error),
        })
    }

    /// An error that came out of the interpreter.
    fn failed(&self, error: &Error) -> Failed {
        match error {
            Error::MemoryError(_) => Failed::Memory,
            Error::SyntaxError { message, .. } | Error::RuntimeError(message) => Failed::Error(cut(message)),
            Error::CallbackError { cause, .. } => self.failed(cause),
            other => Failed::Error(cut(&other.to_string())),
        }
    }

    /// What a script raised: any value at all.
    fn raised(&self, value: Lua5) -> Failed {
        match value {
            Lua5::String(text) if text.as_bytes() == *b"not enough memory" => Failed::Memory,
            Lua5::String(text) => Failed::Error(cut(&text.to_string_lossy())),
            Lua5::Error(error) => self.failed(&error),
            // A table may say how it is shown, by code of the script's: that runs within the budget too.
            other => match self.describe.call::<LuaString>(other) {
                Ok(text) => Failed::Error(cut(&text.to_string_lossy())),
                Err(error) => self.failed(&error),
            },
        }
    }
}

/// `template:7: what` with the line of the template.
fn template_line(message: &str, line: impl Fn(usize) -> usize) -> String {
    let found = message.strip_prefix("template:").and_then(|rest| rest.split_once(':'));
    match found.and_then(|(number, rest)| Some((number.parse().ok()?, rest))) {
        Some((number, rest)) => format!("template:{}:{rest}", line(number)),
        None => message.to_owned(),
    }
}

/// The beginning of a message.
fn cut(text: &str) -> String {
    let end = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= MAX_ERROR).last();
    text.get(..end.unwrap_or_default()).unwrap_or_default().to_owned()
}
