//! The interpreter of a child.
//!
//! One interpreter runs many invocations. For each, the prelude creates new globals: library tables, string methods,
//! the state of `math.random`. Invocations share functions, because functions have no state.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use mlua::chunk::ChunkMode;
use mlua::{
    Error, Function, HookTriggers, Lua, LuaOptions, LuaString, StdLib, Table, Value as Lua5, VmState,
};
use serde_json::value::RawValue;

use super::json::{self, EncodeOptions, Markers, Nulls, ToLuaError};
use super::native;
use crate::core::template::Template;
use crate::sandbox::protocol::{
    InvocationError, InvocationOutput, InvocationRequest, MAX_ERROR, MAX_TEXT, MAX_VALUE, ScriptLogLine,
};

/// How many instructions run between two checks of the deadline.
const CHECK_INTERVAL: u32 = 1000;
/// The most compiled chunks in the cache. The cache is cleared when it is full.
const MAX_COMPILED: usize = 256;
/// Bytes of garbage that an invocation may leave before the collector runs.
const MAX_GARBAGE: usize = 4 << 20;

pub struct Vm {
    lua: Lua,
    /// `make(place, seed, context)`: returns new globals and the environment of templates.
    make: Function,
    /// `call(chunk, data, event, source, pid)` and `render(chunk)`, in protected mode.
    call: Function,
    render: Function,
    /// Converts an error object to text.
    describe: Function,
    /// The metatables that mark a table as a list.
    markers: Rc<Markers>,
    /// The environment of compiled chunks while they do not run.
    empty_environment: Table,
    compiled: HashMap<String, Compiled>,
    budget: Rc<Budget>,
    logs: Rc<RefCell<Vec<ScriptLogLine>>>,
    /// Bytes in use before the first invocation.
    initial_memory: usize,
}

struct Compiled {
    function: Function,
    /// Maps lines of the generated Lua to lines of the template. None: a lambda.
    generated: Option<crate::core::template::Generated>,
}

/// The deadline of the running invocation.
struct Budget {
    deadline: Cell<Instant>,
    is_exceeded: Cell<bool>,
}

impl Budget {
    /// Checks the deadline. After the deadline every instruction fails, so that a script cannot continue by catching
    /// the error.
    fn check(self: &Rc<Self>, lua: &Lua) -> mlua::Result<VmState> {
        if self.is_exceeded.get() || Instant::now() >= self.deadline.get() {
            if !self.is_exceeded.replace(true) {
                self.clone().install(lua, 1)?;
            }
            return Err(Error::runtime("the script's time is up"));
        }
        Ok(VmState::Continue)
    }

    /// Installs the check, to run after every `interval` instructions.
    fn install(self: Rc<Self>, lua: &Lua, interval: u32) -> mlua::Result<()> {
        lua.set_global_hook(HookTriggers::new().every_nth_instruction(interval), move |lua, _| {
            self.check(lua)
        })
    }
}

impl Vm {
    pub fn new(memory: usize) -> mlua::Result<Vm> {
        let libraries =
            StdLib::TABLE | StdLib::STRING | StdLib::MATH | StdLib::OS | StdLib::BIT | StdLib::JIT;
        let lua = Lua::new_with(libraries, LuaOptions::new())?;
        // JIT-compiled code calls no debug hook, so only killing the child would end an endless loop.
        lua.load("jit.off() jit.flush() jit = nil").exec()?;
        let logs = Rc::new(RefCell::new(Vec::new()));
        let markers = Rc::new(Markers { array: lua.create_table()?, empty_array: lua.create_table()? });
        let native = native::table(&lua, &markers, logs.clone())?;
        let prelude = lua.load(include_str!("prelude.lua")).set_name("=prelude").set_mode(ChunkMode::Text);
        let (make, call, render, describe) = prelude.call(native)?;
        // Every chunk gets its own environment, so it cannot reach the real globals. Empty them as a second defence.
        let globals = lua.globals();
        for pair in globals.pairs::<Lua5, Lua5>().collect::<mlua::Result<Vec<_>>>()? {
            globals.raw_set(pair.0, Lua5::Nil)?;
        }
        let budget = Rc::new(Budget { deadline: Cell::new(Instant::now()), is_exceeded: Cell::new(false) });
        budget.clone().install(&lua, CHECK_INTERVAL)?;
        let empty_environment = lua.create_table()?;
        lua.gc_collect()?;
        let initial_memory = lua.used_memory();
        lua.set_memory_limit(initial_memory.saturating_add(memory))?;
        let compiled = HashMap::new();
        Ok(Vm {
            lua,
            make,
            call,
            render,
            describe,
            markers,
            empty_environment,
            compiled,
            budget,
            logs,
            initial_memory,
        })
    }

    /// Runs one invocation. After a timeout the interpreter must not be used again.
    pub fn run(
        &mut self,
        request: &InvocationRequest<'_>,
        deadline: Instant,
    ) -> (Result<InvocationOutput, InvocationError>, Vec<ScriptLogLine>) {
        self.budget.deadline.set(deadline);
        self.budget.is_exceeded.set(false);
        self.logs.borrow_mut().clear();
        // Reset the only tables that invocations share. A script may have protected their metatables against Lua, but not
        // against Rust.
        let Markers { array, empty_array } = &*self.markers;
        let outcome = match array.set_metatable(None).and_then(|()| empty_array.set_metatable(None)) {
            Ok(()) => match request {
                InvocationRequest::Render { templates, context } => self.render_templates(templates, context),
                InvocationRequest::Call { function, data, event, source, pid } => {
                    self.call_lambda(function, data, event, source, *pid)
                }
            },
            Err(error) => Err(self.convert_error(&error)),
        };
        // Report the timeout even if the script caught the error.
        let outcome = if self.budget.is_exceeded.get() { Err(InvocationError::Timeout) } else { outcome };
        (outcome, std::mem::take(&mut *self.logs.borrow_mut()))
    }

    /// Collects the garbage of an invocation, so that it does not count towards the next one's memory.
    pub fn collect_garbage(&mut self) {
        let has_garbage = || self.lua.used_memory() > self.initial_memory.saturating_add(MAX_GARBAGE);
        if has_garbage() {
            self.lua.gc_collect().ok();
            if has_garbage() {
                self.compiled.clear();
                self.lua.gc_collect().ok();
            }
        }
    }

    fn render_templates(
        &mut self,
        templates: &[std::borrow::Cow<'_, str>],
        context: &RawValue,
    ) -> Result<InvocationOutput, InvocationError> {
        let mut texts = Vec::with_capacity(templates.len());
        let mut length = 0;
        let context = self.value(context)?;
        let (_, environment): (Table, Table) = self
            .make
            .call(("a template", fastrand::u32(..), context))
            .map_err(|error| self.convert_error(&error))?;
        for text in templates {
            self.compile_template(text)?;
            let Some(Compiled { function, generated }) = self.compiled.get(text.as_ref()) else { continue };
            function.set_environment(environment.clone()).map_err(|error| self.convert_error(&error))?;
            let rendered: mlua::Result<(bool, Lua5)> = self.render.call(function);
            // Globals that the template set must not survive the invocation.
            function
                .set_environment(self.empty_environment.clone())
                .map_err(|error| self.convert_error(&error))?;
            let (done, value) = rendered.map_err(|error| self.convert_error(&error))?;
            let rendered = match value {
                Lua5::String(rendered) if done => rendered,
                error => {
                    return Err(match (self.convert_raised(error), generated) {
                        (InvocationError::Error(message), Some(generated)) => {
                            InvocationError::Error(template_line(&message, |line| generated.line(line)))
                        }
                        (failed, _) => failed,
                    });
                }
            };
            // Check the size after the conversion, because the conversion lengthens invalid UTF-8 and the worker checks
            // the converted length.
            let rendered = rendered.to_string_lossy();
            length += rendered.len();
            if length > MAX_TEXT {
                return Err(InvocationError::TooBig(format!(
                    "the rendered text is over {} MiB",
                    MAX_TEXT >> 20
                )));
            }
            texts.push(rendered);
        }
        Ok(InvocationOutput::Texts(texts))
    }

    fn call_lambda(
        &mut self,
        text: &str,
        data: &RawValue,
        event: &str,
        source: &str,
        pid: u32,
    ) -> Result<InvocationOutput, InvocationError> {
        if !self.compiled.contains_key(text) {
            let function = self.compile(text, "=lambda")?;
            self.compiled.insert(text.to_owned(), Compiled { function, generated: None });
        }
        let data = self.value(data)?;
        let (globals, _): (Table, Table) = self
            .make
            .call(("a lambda", fastrand::u32(..), Lua5::Nil))
            .map_err(|error| self.convert_error(&error))?;
        let Some(Compiled { function, .. }) = self.compiled.get(text) else {
            return Err(InvocationError::Memory);
        };
        function.set_environment(globals).map_err(|error| self.convert_error(&error))?;
        let called: mlua::Result<(bool, Lua5)> = self.call.call((function, data, event, source, pid));
        function
            .set_environment(self.empty_environment.clone())
            .map_err(|error| self.convert_error(&error))?;
        let (done, value) = called.map_err(|error| self.convert_error(&error))?;
        if !done {
            return Err(self.convert_raised(value));
        }
        let invalid_result = |why: String| InvocationError::Error(format!("lambda: its result: {why}"));
        let json = json::from_lua(&value, &self.markers, EncodeOptions::default(), MAX_VALUE)
            .map_err(invalid_result)?;
        let json = String::from_utf8_lossy(&json).into_owned();
        if json.len() > MAX_VALUE {
            return Err(InvocationError::TooBig(format!(
                "the lambda's result is over {} KiB",
                MAX_VALUE >> 10
            )));
        }
        RawValue::from_string(json)
            .map(InvocationOutput::Value)
            .map_err(|error| invalid_result(error.to_string()))
    }

    fn compile_template(&mut self, text: &str) -> Result<(), InvocationError> {
        if self.compiled.contains_key(text) {
            return Ok(());
        }
        let template = Template::parse(text).map_err(|found| InvocationError::Error(found.to_string()))?;
        let generated = template.generate();
        let function = self.compile(&generated.lua, "=template").map_err(|failed| match failed {
            InvocationError::Error(message) => {
                InvocationError::Error(template_line(&message, |line| generated.line(line)))
            }
            other => other,
        })?;
        self.compiled.insert(text.to_owned(), Compiled { function, generated: Some(generated) });
        Ok(())
    }

    fn compile(&mut self, lua: &str, name: &str) -> Result<Function, InvocationError> {
        if self.compiled.len() >= MAX_COMPILED {
            self.compiled.clear();
        }
        let chunk = self.lua.load(lua).set_name(name).set_mode(ChunkMode::Text);
        chunk.into_function().map_err(|error| self.convert_error(&error))
    }

    fn value(&self, value: &RawValue) -> Result<Lua5, InvocationError> {
        let converted =
            json::to_lua(&self.lua, value.get().as_bytes(), Nulls::Omit, Some(&self.markers.array));
        converted.map_err(|error| match error {
            // For example data that is nested too deeply.
            ToLuaError::Json(error) => {
                InvocationError::Error(format!("the event cannot be given to Lua: {error}"))
            }
            ToLuaError::Lua(error) => self.convert_error(&error),
        })
    }

    /// Converts an error of the interpreter.
    fn convert_error(&self, error: &Error) -> InvocationError {
        match error {
            Error::MemoryError(_) => InvocationError::Memory,
            Error::SyntaxError { message, .. } | Error::RuntimeError(message) => {
                InvocationError::Error(truncate(message))
            }
            Error::CallbackError { cause, .. } => self.convert_error(cause),
            other => InvocationError::Error(truncate(&other.to_string())),
        }
    }

    /// Converts a value that a script raised; it may be of any type.
    fn convert_raised(&self, value: Lua5) -> InvocationError {
        match value {
            Lua5::String(text) if text.as_bytes() == *b"not enough memory" => InvocationError::Memory,
            Lua5::String(text) => InvocationError::Error(truncate(&text.to_string_lossy())),
            Lua5::Error(error) => self.convert_error(&error),
            // A table may have a `__tostring` of the script, which runs within the budget too.
            other => match self.describe.call::<LuaString>(other) {
                Ok(text) => InvocationError::Error(truncate(&text.to_string_lossy())),
                Err(error) => self.convert_error(&error),
            },
        }
    }
}

/// Replaces the line number in `template:7: message` with the line of the template.
fn template_line(message: &str, line: impl Fn(usize) -> usize) -> String {
    let found = message.strip_prefix("template:").and_then(|rest| rest.split_once(':'));
    match found.and_then(|(number, rest)| Some((number.parse().ok()?, rest))) {
        Some((number, rest)) => format!("template:{}:{rest}", line(number)),
        None => message.to_owned(),
    }
}

/// Truncates a message to `MAX_ERROR` bytes.
fn truncate(text: &str) -> String {
    let end = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= MAX_ERROR).last();
    text.get(..end.unwrap_or_default()).unwrap_or_default().to_owned()
}
