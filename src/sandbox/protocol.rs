//! What worker and child say to each other: a length in four bytes, then JSON; in a request the call's budget in
//! milliseconds, four bytes more, stands before it. Replies come in the order of the requests; before all else the child
//! says whether it is confined.
//!
//! A child may have been taken over by what it ran: the worker believes nothing of a reply, neither its lengths nor its
//! numbers, and a reply that no child of ours would give ends the child.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Read};
use std::marker::PhantomData;
use std::time::Duration;

use bytes::BytesMut;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// The longest request in bytes: a script's input.
pub const MAX_REQUEST: usize = 32 << 20;
/// The longest rendered text in bytes, all templates of a call together.
pub const MAX_TEXT: usize = 4 << 20;
/// The longest result of a lambda in bytes of JSON. Only people read it: what delivers is `true`.
pub const MAX_VALUE: usize = 256 << 10;
/// The longest reply: JSON may write a byte of a text as six, and the log lines come with it.
pub const MAX_REPLY: usize = 6 * MAX_TEXT + MAX_LOGS * 6 * MAX_LOG + (64 << 10);
/// How many lines a call may log, and how long each, in bytes.
pub const MAX_LOGS: usize = 64;
pub const MAX_LOG: usize = 1024;
/// The longest error message in bytes.
pub const MAX_ERROR: usize = 2048;
/// The longest of the child's first words, with room for what serde adds.
pub const MAX_HELLO: usize = 16 << 10;
/// How many texts a reply may hold: an object of the API server holds fewer templates.
const MAX_TEXTS: usize = 256 << 10;

/// The child's first words.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Why the kernel does not confine it.
    pub unconfined: Option<String>,
}

/// A call. JSON within it stays text until it becomes Lua's.
#[derive(Debug, Serialize, Deserialize)]
pub enum Job<'a> {
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

#[derive(Debug, Serialize, Deserialize)]
pub struct Reply {
    pub outcome: Result<Answer, Failed>,
    #[serde(deserialize_with = "at_most::<_, _, MAX_LOGS>")]
    pub logs: Vec<Log>,
    /// The child ends now: it has used what CPU time or memory it may.
    pub last: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Texts(#[serde(deserialize_with = "at_most::<_, _, MAX_TEXTS>")] Vec<String>),
    Value(Box<RawValue>),
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
    /// Logs it as the worker's own line, and as one: a line end in it would begin a line that looks like ours.
    pub fn tell(&self, hook: &str) {
        let text = self.text.replace(char::is_control, " ");
        match self.level {
            0..=4 => tracing::error!(hook, "script: {text}"),
            5 => tracing::warn!(hook, "script: {text}"),
            6 | 7 => tracing::info!(hook, "script: {text}"),
            _ => tracing::debug!(hook, "script: {text}"),
        }
    }
}

/// A list of at most N: each `""` of a reply would cost its reader many times its own bytes.
fn at_most<'de, D: Deserializer<'de>, T: Deserialize<'de>, const N: usize>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct AtMost<T, const N: usize>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for AtMost<T, N> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {N}")
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

/// The child's first words, read by the worker.
pub fn hello(bytes: &[u8]) -> serde_json::Result<Hello> {
    serde_json::from_slice(bytes)
}

/// A reply, read by the worker: an error for one that is over the bounds which a child of ours keeps.
pub fn reply(bytes: &[u8]) -> serde_json::Result<Reply> {
    let reply: Reply = serde_json::from_slice(bytes)?;
    let within = match &reply.outcome {
        Ok(Answer::Texts(texts)) => texts.iter().map(String::len).sum::<usize>() <= MAX_TEXT,
        Ok(Answer::Value(value)) => value.get().len() <= MAX_VALUE,
        Err(Failed::Error(text) | Failed::TooBig(text)) => text.len() <= MAX_ERROR,
        Err(Failed::Timeout | Failed::Memory) => true,
    };
    if within && reply.logs.iter().all(|log| log.text.len() <= MAX_LOG) {
        Ok(reply)
    } else {
        Err(serde_json::Error::custom("it is over the bounds of a reply"))
    }
}

/// A message as it goes over the pipe; none where it is longer than `max`.
pub fn frame<T: Serialize>(message: &T, max: usize) -> Option<Vec<u8>> {
    framed(message, &[], max)
}

/// A request; none where it is too long. Its budget is still to be set.
pub fn request(job: &Job<'_>) -> Option<Vec<u8>> {
    framed(job, &[0; 4], MAX_REQUEST)
}

fn framed<T: Serialize>(message: &T, before: &[u8], max: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 4];
    bytes.extend_from_slice(before);
    serde_json::to_writer(&mut bytes, message).ok()?;
    let length = bytes.len() - 4;
    let head = u32::try_from(length).ok().filter(|_| length <= max)?;
    *bytes.first_chunk_mut()? = head.to_le_bytes();
    Some(bytes)
}

/// Sets the budget of a request; a part of a millisecond is one.
pub fn set_budget(request: &mut [u8], budget: Duration) {
    let millis = u32::try_from(budget.as_micros().div_ceil(1000)).unwrap_or(u32::MAX);
    if let Some((_, place)) = request.split_at_mut_checked(4)
        && let Some(place) = place.first_chunk_mut()
    {
        *place = millis.to_le_bytes();
    }
}

/// A request's budget and call, read by the child.
pub fn asked(body: &[u8]) -> Option<(Duration, Job<'_>)> {
    let (budget, job) = body.split_first_chunk()?;
    let budget = Duration::from_millis(u32::from_le_bytes(*budget).into());
    Some((budget, serde_json::from_slice(job).ok()?))
}

/// Takes a message of at most `max` bytes off the front of what came, as the worker does; none where it is not whole yet.
pub fn take(came: &mut BytesMut, max: usize) -> io::Result<Option<BytesMut>> {
    let Some((head, body)) = came.split_first_chunk() else { return Ok(None) };
    let length = length(*head, max).ok_or(io::ErrorKind::InvalidData)?;
    if body.len() < length {
        return Ok(None);
    }
    let mut message = came.split_to(4 + length);
    Ok(Some(message.split_off(4)))
}

/// Reads a message as the child does; none at the end, or where it breaks off.
pub fn listen(mut from: impl Read, max: usize) -> Option<Vec<u8>> {
    let mut head = [0; 4];
    from.read_exact(&mut head).ok()?;
    let mut body = vec![0; length(head, max)?];
    from.read_exact(&mut body).ok()?;
    Some(body)
}

/// The length that a head announces; none where it is over `max`.
fn length(head: [u8; 4], max: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(head)).ok().filter(|length| *length <= max)
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
    fn a_reply_over_the_bounds_is_none() {
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
            assert!(reply(good.as_bytes()).is_ok(), "{good:.200}");
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
            assert!(reply(bad.as_bytes()).is_err(), "{bad:.200}");
        }
    }

    #[test]
    fn a_message_is_taken_when_it_is_whole() {
        let mut came = BytesMut::new();
        for byte in [framed("{}"), framed("")].concat() {
            if let Some(message) = take(&mut came, 2).unwrap() {
                assert_eq!(&message[..], b"{}");
            }
            came.extend_from_slice(&[byte]);
        }
        assert_eq!(take(&mut came, 2).unwrap().as_deref(), Some(&b""[..]));
        assert_eq!((take(&mut came, 2).unwrap(), came.len()), (None, 0));
        for bytes in [framed("{} "), vec![255, 255, 255, 255]] {
            let error = take(&mut BytesMut::from(&bytes[..]), 2).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
    }

    #[test]
    fn requests_carry_their_budget() {
        let data = serde_json::from_str("[1]").unwrap();
        let job = || Job::Call { function: "f".into(), data, event: "e".into(), source: "s".into(), pid: 7 };
        let mut sent = request(&job()).unwrap();
        set_budget(&mut sent, Duration::from_micros(1_500));
        let body = listen(&*sent, MAX_REQUEST).unwrap();
        let (budget, Job::Call { data, pid, .. }) = asked(&body).unwrap() else { panic!("a call") };
        assert_eq!((budget, data.get(), pid), (Duration::from_millis(2), "[1]", 7));
        assert!(listen(&sent[..sent.len() - 1], MAX_REQUEST).is_none() && listen(&*sent, 3).is_none());
        assert!(asked(b"123").is_none() && asked(b"1234").is_none());
        assert!(frame(&"x".repeat(10), 11).is_none() && frame(&"x".repeat(10), 12).is_some());
    }
}
