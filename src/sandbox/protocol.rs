//! The messages between worker and child.
//!
//! A message is its length in four bytes (little endian), then JSON. In a request the time budget in milliseconds, four
//! bytes, precedes the JSON. Replies come in the order of the requests. The first message of a child is a handshake, which
//! reports whether it is confined.
//!
//! A script may have taken control of its child. So the worker validates every length and number of a reply. It kills a
//! child that sends a reply which unmodified child code would not send.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Read};
use std::marker::PhantomData;
use std::time::Duration;

use bytes::BytesMut;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::core::output::MAX_OUTPUT;

/// The most bytes of a request, which contains a script's input.
pub const MAX_REQUEST: usize = 32 << 20;
/// The most bytes of rendered text, all templates of an invocation together.
pub const MAX_TEXT: usize = MAX_OUTPUT;
/// The most bytes of a lambda's result as JSON. A delivery needs only `true`; longer results are for people.
pub const MAX_VALUE: usize = 256 << 10;
/// The most bytes of a reply: JSON may encode one byte of text as six, and the log lines are part of it.
pub const MAX_REPLY: usize = 6 * MAX_TEXT + MAX_LOGS * 6 * MAX_LOG + (64 << 10);
/// The most bytes of a reply together with the texts that are parsed from it.
pub const MAX_REPLY_MEMORY: u64 = reply_memory(MAX_REPLY);
/// The most log lines of an invocation.
pub const MAX_LOGS: usize = 64;
/// The most bytes of a log line.
pub const MAX_LOG: usize = 1024;
/// The most bytes of an error message.
pub const MAX_ERROR: usize = 2048;
/// The most bytes of a handshake, serialization overhead included.
pub const MAX_HANDSHAKE: usize = 16 << 10;
/// The most texts in a reply. The size limit of Kubernetes objects keeps the number of a hook's templates below it.
const MAX_TEXTS: usize = 256 << 10;

/// The first message of a child.
#[derive(Debug, Serialize, Deserialize)]
pub struct Handshake {
    /// Why the kernel does not confine the child. None: the child is confined.
    pub unconfined: Option<String>,
}

/// An invocation. JSON inside it stays text until it is converted to Lua values.
#[derive(Debug, Serialize, Deserialize)]
pub enum InvocationRequest<'a> {
    Render {
        #[serde(borrow)]
        templates: Vec<Cow<'a, str>>,
        #[serde(borrow)]
        context: &'a RawValue,
    },
    Call {
        #[serde(borrow)]
        function: Cow<'a, str>,
        #[serde(borrow)]
        data: &'a RawValue,
        #[serde(borrow)]
        event: Cow<'a, str>,
        #[serde(borrow)]
        source: Cow<'a, str>,
        pid: u32,
    },
}

/// Returns the memory of a reply of this length: the message, and the texts that are parsed from it.
pub const fn reply_memory(length: usize) -> u64 {
    let texts = if length < MAX_TEXT { length } else { MAX_TEXT };
    (length + texts) as u64
}

/// The reply to a request.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reply {
    pub outcome: Result<InvocationOutput, InvocationError>,
    #[serde(deserialize_with = "at_most::<_, _, MAX_LOGS>")]
    pub logs: Vec<ScriptLogLine>,
    /// True if the child ends after this reply, because it has used up its CPU time.
    pub last: bool,
}

impl Reply {
    /// Returns the bytes of the result, which outlives the message.
    pub fn result_size(&self) -> u64 {
        let size: usize = match &self.outcome {
            Ok(InvocationOutput::Texts(texts)) => texts.iter().map(String::len).sum(),
            Ok(InvocationOutput::Value(value)) => value.get().len(),
            Err(_) => 0,
        };
        size as u64
    }
}

/// The result of a successful invocation.
#[derive(Debug, Serialize, Deserialize)]
pub enum InvocationOutput {
    Texts(#[serde(deserialize_with = "at_most::<_, _, MAX_TEXTS>")] Vec<String>),
    Value(Box<RawValue>),
}

/// Why an invocation failed in the child.
#[derive(Debug, Serialize, Deserialize)]
pub enum InvocationError {
    Error(String),
    Timeout,
    Memory,
    TooBig(String),
}

/// A line that a script logged.
#[derive(Debug, Serialize, Deserialize)]
pub struct ScriptLogLine {
    /// nginx's level: 0 stderr, 1 emerg, 2 alert, 3 crit, 4 err, 5 warn, 6 notice, 7 info, 8 debug.
    pub level: u8,
    pub text: String,
}

impl ScriptLogLine {
    /// Writes it to the worker's log as one line. Replaces control characters, so that a script cannot forge log lines
    /// with line ends.
    pub fn emit(&self, hook: &str) {
        let text = self.text.replace(char::is_control, " ");
        match self.level {
            0..=4 => tracing::error!(hook, "script: {text}"),
            5 => tracing::warn!(hook, "script: {text}"),
            6 | 7 => tracing::info!(hook, "script: {text}"),
            _ => tracing::debug!(hook, "script: {text}"),
        }
    }
}

/// Deserializes a list of at most N items. Bounds the reader's memory, because each `""` of a reply takes many times
/// its encoded size in memory.
fn at_most<'de, D: Deserializer<'de>, T: Deserialize<'de>, const N: usize>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct AtMost<T, const N: usize>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for AtMost<T, N> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {N} items")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(item) = items.next_element()? {
                if list.len() == N {
                    return Err(A::Error::invalid_length(N + 1, &self));
                }
                list.push(item);
            }
            Ok(list)
        }
    }
    deserializer.deserialize_seq(AtMost::<T, N>(PhantomData))
}

/// Parses a handshake, in the worker.
pub fn parse_handshake(bytes: &[u8]) -> serde_json::Result<Handshake> {
    serde_json::from_slice(bytes)
}

/// Parses a reply, in the worker. Fails for a reply above the limits that unmodified child code observes.
pub fn parse_reply(bytes: &[u8]) -> serde_json::Result<Reply> {
    let reply: Reply = serde_json::from_slice(bytes)?;
    let within = match &reply.outcome {
        Ok(InvocationOutput::Texts(texts)) => texts.iter().map(String::len).sum::<usize>() <= MAX_TEXT,
        Ok(InvocationOutput::Value(value)) => value.get().len() <= MAX_VALUE,
        Err(InvocationError::Error(text) | InvocationError::TooBig(text)) => text.len() <= MAX_ERROR,
        Err(InvocationError::Timeout | InvocationError::Memory) => true,
    };
    if within && reply.logs.iter().all(|log| log.text.len() <= MAX_LOG) {
        Ok(reply)
    } else {
        Err(serde_json::Error::custom("the reply exceeds the limits"))
    }
}

/// Encodes a message. None: it is longer than `max`.
pub fn encode<T: Serialize>(message: &T, max: usize) -> Option<Vec<u8>> {
    encode_with_prefix(message, &[], max)
}

/// Encodes a request without its budget (see `set_budget`). None: it is too long.
pub fn encode_request(request: &InvocationRequest<'_>) -> Option<Vec<u8>> {
    encode_with_prefix(request, &[0; 4], MAX_REQUEST)
}

fn encode_with_prefix<T: Serialize>(message: &T, prefix: &[u8], max: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 4];
    bytes.extend_from_slice(prefix);
    serde_json::to_writer(&mut bytes, message).ok()?;
    let length = bytes.len() - 4;
    let header = u32::try_from(length).ok().filter(|_| length <= max)?;
    *bytes.first_chunk_mut()? = header.to_le_bytes();
    Some(bytes)
}

/// Sets the time budget of an encoded request, rounded up to milliseconds.
pub fn set_budget(request: &mut [u8], budget: Duration) {
    let millis = u32::try_from(budget.as_micros().div_ceil(1000)).unwrap_or(u32::MAX);
    if let Some((_, rest)) = request.split_at_mut_checked(4)
        && let Some(field) = rest.first_chunk_mut()
    {
        *field = millis.to_le_bytes();
    }
}

/// Parses a request into its budget and invocation, in the child.
pub fn parse_request(body: &[u8]) -> Option<(Duration, InvocationRequest<'_>)> {
    let (budget, request) = body.split_first_chunk()?;
    let budget = Duration::from_millis(u32::from_le_bytes(*budget).into());
    Some((budget, serde_json::from_slice(request).ok()?))
}

/// Returns the length of the message at the front of a buffer, if its length was read.
pub fn announced_length(received: &[u8], max: usize) -> io::Result<Option<usize>> {
    let Some(header) = received.first_chunk() else { return Ok(None) };
    length(*header, max).ok_or_else(|| io::ErrorKind::InvalidData.into()).map(Some)
}

/// Splits a complete message, of at most `max` bytes, off the front of a buffer, in the worker.
pub fn split_message(received: &mut BytesMut, max: usize) -> io::Result<Option<BytesMut>> {
    let Some((header, body)) = received.split_first_chunk() else { return Ok(None) };
    let length = length(*header, max).ok_or(io::ErrorKind::InvalidData)?;
    if body.len() < length {
        return Ok(None);
    }
    let mut message = received.split_to(4 + length);
    Ok(Some(message.split_off(4)))
}

/// Reads a message, in the child. None: the stream ended, or the message is too long.
pub fn read_message(mut from: impl Read, max: usize) -> Option<Vec<u8>> {
    let mut header = [0; 4];
    from.read_exact(&mut header).ok()?;
    let mut body = vec![0; length(header, max)?];
    from.read_exact(&mut body).ok()?;
    Some(body)
}

/// Decodes the length of a message. None: it is above `max`.
fn length(header: [u8; 4], max: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(header)).ok().filter(|length| *length <= max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(body: &str) -> Vec<u8> {
        let mut bytes = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
        bytes.extend(body.bytes());
        bytes
    }

    #[test]
    fn rejects_replies_above_the_limits() {
        let texts =
            |texts: &str| format!(r#"{{"outcome":{{"Ok":{{"Texts":[{texts}]}}}},"logs":[],"last":false}}"#);
        let logs = |n: usize, text: &str| {
            let line = format!(r#"{{"level":4,"text":"{text}"}}"#);
            format!(r#"{{"outcome":{{"Err":"Timeout"}},"logs":[{}],"last":true}}"#, vec![line; n].join(","))
        };
        let value =
            |text: &str| format!(r#"{{"outcome":{{"Ok":{{"Value":{text}}}}},"logs":[],"last":false}}"#);
        let error =
            |n| format!(r#"{{"outcome":{{"Err":{{"Error":"{}"}}}},"logs":[],"last":false}}"#, "x".repeat(n));
        for good in [
            texts(r#""a","b""#),
            texts(&format!("\"{}\"", "x".repeat(MAX_TEXT))),
            logs(MAX_LOGS, "a"),
            logs(1, &"x".repeat(MAX_LOG)),
            value("[1, null]"),
            value(&format!("\"{}\"", "x".repeat(MAX_VALUE - 2))),
            error(MAX_ERROR),
        ] {
            assert!(parse_reply(good.as_bytes()).is_ok(), "{good:.200}");
        }
        for bad in [
            String::new(),
            "{}".into(),
            texts("1"),
            texts(&format!("\"{}\"", "x".repeat(MAX_TEXT + 1))),
            texts(&vec!["\"\""; MAX_TEXTS + 1].join(",")),
            logs(MAX_LOGS + 1, "a"),
            logs(1, &"x".repeat(MAX_LOG + 1)),
            value(""),
            value(&format!("\"{}\"", "x".repeat(MAX_VALUE))),
            error(MAX_ERROR + 1),
            texts("\"a\"") + "x",
        ] {
            assert!(parse_reply(bad.as_bytes()).is_err(), "{bad:.200}");
        }
    }

    #[test]
    fn splits_off_complete_messages_only() {
        let mut received = BytesMut::new();
        for byte in [framed("{}"), framed("")].concat() {
            if let Some(message) = split_message(&mut received, 2).unwrap() {
                assert_eq!(&message[..], b"{}");
            }
            received.extend_from_slice(&[byte]);
        }
        assert_eq!(split_message(&mut received, 2).unwrap().as_deref(), Some(&b""[..]));
        assert_eq!((split_message(&mut received, 2).unwrap(), received.len()), (None, 0));
        for bytes in [framed("{} "), vec![255, 255, 255, 255]] {
            let error = split_message(&mut BytesMut::from(&bytes[..]), 2).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
    }

    #[test]
    fn requests_carry_their_budget() {
        let data = serde_json::from_str("[1]").unwrap();
        let request = || InvocationRequest::Call {
            function: "f".into(),
            data,
            event: "e".into(),
            source: "s".into(),
            pid: 7,
        };
        let mut sent = encode_request(&request()).unwrap();
        set_budget(&mut sent, Duration::from_micros(1_500));
        let body = read_message(&*sent, MAX_REQUEST).unwrap();
        let (budget, InvocationRequest::Call { data, pid, .. }) = parse_request(&body).unwrap() else {
            panic!("not a call")
        };
        assert_eq!((budget, data.get(), pid), (Duration::from_millis(2), "[1]", 7));
        assert!(
            read_message(&sent[..sent.len() - 1], MAX_REQUEST).is_none() && read_message(&*sent, 3).is_none()
        );
        assert!(parse_request(b"123").is_none() && parse_request(b"1234").is_none());
        assert!(encode(&"x".repeat(10), 11).is_none() && encode(&"x".repeat(10), 12).is_some());
    }
}
