//! What worker and child say to each other: a length in four bytes, then JSON. One request, one reply, in turns; before
//! all else the child says whether it is confined.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The longest request in bytes: a script's input.
pub const MAX_REQUEST: usize = 32 << 20;
/// The longest rendered text or result in bytes, all templates of a call together.
pub const MAX_RESULT: usize = 4 << 20;
/// The longest reply: JSON may write a byte of the result as six, and the log lines come with it.
pub const MAX_REPLY: usize = 6 * MAX_RESULT + MAX_LOGS * 6 * MAX_LOG + (64 << 10);
/// How many lines a call may log, and how long each, in bytes.
pub const MAX_LOGS: usize = 64;
pub const MAX_LOG: usize = 1024;
/// The longest error message in bytes.
pub const MAX_ERROR: usize = 2048;

/// The child's first words.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Why the kernel does not confine it.
    pub unconfined: Option<String>,
}

/// A call, with its budget.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request<'a, V> {
    pub budget_ms: u64,
    #[serde(borrow)]
    pub job: Job<'a, V>,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Job<'a, V> {
    Render {
        #[serde(borrow)]
        templates: Vec<Cow<'a, str>>,
        context: V,
    },
    Call {
        #[serde(borrow)]
        function: Cow<'a, str>,
        data: V,
        #[serde(borrow)]
        event: Cow<'a, str>,
        #[serde(borrow)]
        source: Cow<'a, str>,
        pid: u32,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Reply {
    pub outcome: Result<Answer, Failed>,
    pub logs: Vec<Log>,
    /// The child ends now: it has used what CPU time or memory it may.
    pub last: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Texts(Vec<String>),
    Value(Value),
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Failed {
    Error(String),
    Timeout,
    Memory,
    TooBig(String),
}

/// A line that a script logged.
#[derive(Debug, Serialize, Deserialize)]
pub struct Log {
    /// nginx's level: 0 stderr, 1 emerg, 2 alert, 3 crit, 4 err, 5 warn, 6 notice, 7 info, 8 debug.
    pub level: u8,
    pub text: String,
}

impl Log {
    /// Logs it as the worker's own line.
    pub fn tell(&self, hook: &str) {
        let text = &self.text;
        match self.level {
            0..=4 => tracing::error!(hook, "script: {text}"),
            5 => tracing::warn!(hook, "script: {text}"),
            6 | 7 => tracing::info!(hook, "script: {text}"),
            _ => tracing::debug!(hook, "script: {text}"),
        }
    }
}

/// A message as it goes over the pipe; none where it is longer than `max`.
pub fn frame<T: Serialize>(message: &T, max: usize) -> serde_json::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - 4;
    let Some(length) = u32::try_from(length).ok().filter(|_| length <= max) else { return Ok(None) };
    if let Some(head) = bytes.first_chunk_mut() {
        *head = length.to_le_bytes();
    }
    Ok(Some(bytes))
}

/// The length that a head announces; none where it is over `max`.
pub fn length(head: [u8; 4], max: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(head)).ok().filter(|length| *length <= max)
}
