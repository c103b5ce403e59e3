//! Reads JSON documents, as kubectl reads and stores them.

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::number::stored_number;
use super::source::{FileProblem, Position};
use crate::core::event::data::{Build, EscapedText, MAX_READ_DEPTH, UnreadableData, read};

/// The documents at the start of a text that are JSON.
pub struct JsonDocuments {
    pub documents: Vec<Value>,
    /// The byte after each document.
    pub ends: Vec<usize>,
    /// Names that occur twice in one object.
    pub duplicates: Vec<String>,
    /// How many bytes they have, and why the rest is no JSON. None: all of the text is JSON.
    pub rest: Option<(usize, FileProblem)>,
}

/// Reads JSON documents that follow each other.
pub fn read_json(text: &str) -> Result<JsonDocuments, FileProblem> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    let mut builder = Builder::default();
    let (mut documents, mut ends) = (Vec::new(), Vec::new());
    let rest = loop {
        match stream.next() {
            None => break None,
            Some(Ok(raw)) => {
                let document = read(raw.get(), MAX_READ_DEPTH, &mut builder);
                documents.push(document.map_err(|JsonProblem(problem)| FileProblem::new(problem))?);
                ends.push(stream.byte_offset());
            }
            Some(Err(error)) => break Some((ends.last().copied().unwrap_or_default(), of_json(&error))),
        }
    };
    Ok(JsonDocuments { documents, ends, duplicates: builder.duplicates, rest })
}

/// Separates the position from serde_json's message.
fn of_json(error: &serde_json::Error) -> FileProblem {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let message = text.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&text).to_owned();
    // serde_json counts no column for a problem at the end of a line.
    FileProblem { position: Some(Position { line, column: column.max(1) }), message }
}

#[derive(Default)]
struct Builder {
    duplicates: Vec<String>,
}

struct JsonProblem(String);

impl From<UnreadableData> for JsonProblem {
    fn from(error: UnreadableData) -> Self {
        JsonProblem(error.to_string())
    }
}

impl<'t> Build<'t> for Builder {
    type Value = Value;
    type List = Vec<Value>;
    type Object = Map<String, Value>;
    type Name = String;
    type Error = JsonProblem;

    fn null(&mut self) -> Result<Value, JsonProblem> {
        Ok(Value::Null)
    }

    fn boolean(&mut self, value: bool) -> Result<Value, JsonProblem> {
        Ok(Value::Bool(value))
    }

    fn number(&mut self, text: &'t str) -> Result<Value, JsonProblem> {
        let number = stored_number(text);
        number.map(Value::Number).ok_or_else(|| JsonProblem(format!("the number {text:.64} is out of range")))
    }

    fn text(&mut self, text: EscapedText<'t>) -> Result<Value, JsonProblem> {
        Ok(Value::String(text.decode().into_owned()))
    }

    fn start_list(&mut self) -> Result<Vec<Value>, JsonProblem> {
        Ok(Vec::new())
    }

    fn add_item(&mut self, list: &mut Vec<Value>, item: Value) -> Result<(), JsonProblem> {
        list.push(item);
        Ok(())
    }

    fn end_list(&mut self, list: Vec<Value>) -> Result<Value, JsonProblem> {
        Ok(Value::Array(list))
    }

    fn start_object(&mut self) -> Result<Map<String, Value>, JsonProblem> {
        Ok(Map::new())
    }

    fn name(&mut self, _: &mut Map<String, Value>, name: EscapedText<'t>) -> Result<String, JsonProblem> {
        Ok(name.decode().into_owned())
    }

    fn add_member(
        &mut self,
        object: &mut Map<String, Value>,
        name: String,
        value: Value,
    ) -> Result<(), JsonProblem> {
        if object.contains_key(&name) {
            self.duplicates.push(name.clone());
        }
        object.insert(name, value);
        Ok(())
    }

    fn end_object(&mut self, object: Map<String, Value>) -> Result<Value, JsonProblem> {
        Ok(Value::Object(object))
    }
}
