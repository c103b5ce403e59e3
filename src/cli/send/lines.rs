//! Reads events from JSON lines: a file, or standard input.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::cli::failure::{Failure, OrFail};

/// The longest line in bytes: more than any worker accepts as an event.
const MAX_LINE: u64 = 64 << 20;
/// Lines that are read before they are sent.
const READ_AHEAD: usize = 16;

/// An event of a line. Members that a line does not have come from the flags.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LineEvent {
    id: Option<String>,
    source: Option<String>,
    event: Option<String>,
    data: Box<RawValue>,
}

/// The body of a request.
#[derive(Serialize)]
struct EventBody<'a> {
    id: &'a str,
    source: &'a str,
    event: &'a str,
    /// Sent unchanged, so that numbers keep their digits.
    data: &'a RawValue,
}

/// An event that is ready to be sent.
#[derive(Debug)]
pub struct EventLine {
    pub number: u64,
    pub id: String,
    pub body: Vec<u8>,
}

/// What a line must have if the flags do not.
#[derive(Clone, Default)]
pub struct LineDefaults {
    pub source: Option<String>,
    pub event: Option<String>,
}

/// Counts the lines of a regular file, for a progress bar. None: a pipe.
pub fn count_lines(path: &str) -> Option<u64> {
    let file =
        File::open(path).ok().filter(|file| file.metadata().is_ok_and(|metadata| metadata.is_file()))?;
    let mut reader = BufReader::new(file);
    let mut count = 0;
    loop {
        let buffer = reader.fill_buf().ok()?;
        if buffer.is_empty() {
            return Some(count);
        }
        count += buffer.iter().filter(|byte| **byte == b'\n').count() as u64;
        let length = buffer.len();
        reader.consume(length);
    }
}

/// Reads the lines on a thread of its own, a few ahead. `path`: `-` is standard input.
pub fn read_lines(
    path: &str,
    defaults: LineDefaults,
) -> Result<mpsc::Receiver<Result<EventLine, Failure>>, Failure> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    let (name, input): (String, Box<dyn Read + Send>) = match path {
        "-" => ("standard input".into(), Box::new(std::io::stdin())),
        path => (path.to_owned(), Box::new(File::open(path).or_fail(|| format!("reading {path}"))?)),
    };
    // Not a blocking task of the runtime: a read of a terminal may never end.
    std::thread::spawn(move || {
        let mut reader = BufReader::new(input);
        for number in 1.. {
            let line = match read_line(&mut reader) {
                Ok(None) => return,
                Ok(Some(line)) if line.trim_ascii().is_empty() => continue,
                Ok(Some(line)) => parse_line(&line, number, &defaults),
                Err(why) => Err(why),
            };
            let line = line.map_err(|why| Failure { code: 1, message: format!("{name}:{number}: {why}") });
            let is_last = line.is_err();
            if sender.blocking_send(line).is_err() || is_last {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Reads a line without its end. None: the input has ended.
fn read_line(reader: &mut impl BufRead) -> Result<Option<Vec<u8>>, String> {
    let mut line = Vec::new();
    let read = reader.take(MAX_LINE + 1).read_until(b'\n', &mut line).map_err(|error| error.to_string())?;
    if line.len() as u64 > MAX_LINE {
        return Err(format!("the line has more than {MAX_LINE} bytes"));
    }
    Ok((read > 0).then_some(line))
}

fn parse_line(line: &[u8], number: u64, defaults: &LineDefaults) -> Result<EventLine, String> {
    let event: LineEvent = serde_json::from_slice(line).map_err(|error| {
        format!("the line is no event such as {{\"id\": \"1\", \"source\": \"s\", \"event\": \"e\", \"data\": {{}}}}: {error}")
    })?;
    let member = |of_line: Option<String>, of_flags: &Option<String>, name: &str| {
        let missing = || format!("the event has no {name}: add it to the line, or give --{name}");
        of_line.or_else(|| of_flags.clone()).ok_or_else(missing)
    };
    let source = member(event.source, &defaults.source, "source")?;
    let name = member(event.event, &defaults.event, "event")?;
    // An id of its own makes it safe to send the event again after a failure.
    let id = event.id.unwrap_or_else(|| Uuid::now_v7().to_string());
    let body = EventBody { id: &id, source: &source, event: &name, data: &event.data };
    let body = serde_json::to_vec(&body).map_err(|error| error.to_string())?;
    Ok(EventLine { number, id, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Result<String, String>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let defaults = LineDefaults { source: Some("s".into()), event: None };
        let mut lines = read_lines(&file.path().display().to_string(), defaults).unwrap();
        let mut all = Vec::new();
        while let Some(line) = lines.blocking_recv() {
            all.push(match line {
                Ok(line) => Ok(format!("{} {}", line.number, String::from_utf8(line.body).unwrap())),
                Err(failure) => Err(failure.message.split_once(":").unwrap().1.to_owned()),
            });
        }
        all
    }

    #[test]
    fn reads_events_until_the_first_invalid_line() {
        let text = "{\"id\":\"1\",\"event\":\"e\",\"data\":{\"n\":1.10}}\n\n{\"id\":\"2\",\"source\":\"t\",\"event\":\"e\",\"data\":null}\n{\"id\":\"3\",\"data\":1}\n{}\n";
        let lines = read(text);
        assert_eq!(lines[0].as_ref().unwrap(), r#"1 {"id":"1","source":"s","event":"e","data":{"n":1.10}}"#);
        assert_eq!(lines[1].as_ref().unwrap(), r#"3 {"id":"2","source":"t","event":"e","data":null}"#);
        assert_eq!(
            lines[2].as_ref().unwrap_err(),
            "4: the event has no event: add it to the line, or give --event"
        );
        assert_eq!(lines.len(), 3);
        assert!(read("nonsense").remove(0).unwrap_err().starts_with("1: the line is no event such as"));
        assert!(read("{\"id\":\"1\",\"dat\":1}")[0].as_ref().unwrap_err().contains("dat"));
    }

    #[test]
    fn counts_the_lines_of_files_only() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "1\n2\n").unwrap();
        assert_eq!(count_lines(&file.path().display().to_string()), Some(2));
        assert_eq!((count_lines("/dev/null"), count_lines("/no/such")), (None, None));
    }
}
