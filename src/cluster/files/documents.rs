//! Reads the documents of files and folders by kubectl's rules: YAML 1.1 or JSON, separated by `---` or JSON objects that follow
//! each other, with lists replaced by their items.

use std::fs;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::encoding::decode_text;
use super::helm::{NOT_RENDERED, find_helm_tag};
use super::json::{JsonDocuments, read_json};
use super::source::{DocumentPlace, DocumentSource, FileProblem, Position};
use super::yaml::{YamlDocument, YamlProblem, read_yaml};
use crate::core::parallel::map_parts;

const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;
const MAX_FILES: usize = 10_000;
/// The least files that are worth a thread.
const MIN_PART: usize = 64;

/// A problem with a file or folder.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("{path}: {problem}")]
    Path { path: String, problem: String },
}

impl ManifestError {
    pub(super) fn new(path: &Path, problem: impl ToString) -> ManifestError {
        ManifestError::Path { path: path.display().to_string(), problem: problem.to_string() }
    }
}

/// A document of a file.
pub struct Document {
    pub path: PathBuf,
    /// Err if the file cannot be read or is not YAML; then this is the file's only `Document`.
    pub content: Result<Value, FileProblem>,
    /// What kubectl ignores in the file; at its first document.
    pub warnings: Vec<FileProblem>,
    pub source: DocumentSource,
}

/// The path that stands for standard input.
const STDIN: &str = "-";

/// Reads every document of these files and folders; `-` is standard input. A path that does not exist or contains no manifest
/// is an error.
pub fn read_documents(paths: &[PathBuf]) -> Result<Vec<Document>, ManifestError> {
    let mut all = Vec::new();
    for path in paths {
        if path.as_os_str() == STDIN {
            push_documents(Path::new("<stdin>"), read_limited(io::stdin().lock()), &mut all);
        } else if fs::metadata(path).is_ok_and(|found| !found.is_dir()) {
            // Also a pipe, such as /dev/fd/63 of a shell's process substitution.
            push_documents(path, read_bytes(path), &mut all);
        } else {
            let files = list_manifest_files(std::slice::from_ref(path))?;
            all.extend(map_parts(&files, MIN_PART, |files| {
                let mut documents = Vec::with_capacity(files.len());
                files.iter().for_each(|path| push_documents(path, read_bytes(path), &mut documents));
                documents
            }));
        }
    }
    Ok(all)
}

fn push_documents(path: &Path, bytes: io::Result<Vec<u8>>, all: &mut Vec<Document>) {
    let decoded =
        bytes.map_err(|error| FileProblem::new(error.to_string())).and_then(|bytes| decode_text(&bytes));
    let text: Arc<str> = decoded.as_deref().unwrap_or_default().into();
    let parsed = decoded.and_then(|text| {
        let mut warnings = Vec::new();
        Ok((parse_documents(&text, &mut warnings)?, warnings))
    });
    let source = |place| DocumentSource::new(text.clone(), place);
    match parsed {
        Ok((documents, mut warnings)) => all.extend(documents.into_iter().map(|(content, place)| Document {
            path: path.to_owned(),
            content: Ok(content),
            warnings: std::mem::take(&mut warnings),
            source: source(place),
        })),
        Err(problem) => all.push(Document {
            path: path.to_owned(),
            content: Err(problem),
            warnings: Vec::new(),
            source: source(DocumentPlace { range: 0..text.len(), first_line: 1, item: None }),
        }),
    }
}

/// The content of one file, with its hash.
#[derive(Debug)]
pub struct ParsedFile {
    pub hash: [u8; 32],
    pub documents: Vec<Value>,
    /// What kubectl ignores in the file, each with its position.
    pub warnings: Vec<FileProblem>,
}

/// Reads the bytes of a file. A long file is an error.
pub fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    read_limited(fs::File::open(path)?)
}

fn read_limited(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("longer than {MAX_FILE_BYTES} bytes")));
    }
    Ok(bytes)
}

/// Parses the bytes of a file; None if their hash is still `known_hash`.
pub fn parse_changed_file(
    path: &Path,
    bytes: &[u8],
    known_hash: Option<[u8; 32]>,
) -> Result<Option<ParsedFile>, ManifestError> {
    if known_hash == Some(Sha256::digest(bytes).into()) {
        return Ok(None);
    }
    parse_file(path, bytes).map(Some)
}

fn parse_file(path: &Path, bytes: &[u8]) -> Result<ParsedFile, ManifestError> {
    let hash = Sha256::digest(bytes).into();
    let text = decode_text(bytes).map_err(|problem| ManifestError::new(path, problem))?;
    let mut warnings = Vec::new();
    let documents =
        parse_documents(&text, &mut warnings).map_err(|problem| ManifestError::new(path, problem))?;
    Ok(ParsedFile { hash, documents: documents.into_iter().map(|(value, _)| value).collect(), warnings })
}

/// Parses the documents of a text, each with its place. Lists are replaced by their items.
fn parse_documents(
    text: &str,
    warnings: &mut Vec<FileProblem>,
) -> Result<Vec<(Value, DocumentPlace)>, FileProblem> {
    let documents = parse_text(text, warnings).map_err(|problem| match find_helm_tag(text) {
        // The parser's problem is a consequence.
        Some(at) => {
            FileProblem { position: Some(Position::of_offset(text, at)), message: NOT_RENDERED.to_owned() }
        }
        None => problem,
    })?;
    Ok(documents.into_iter().flat_map(flatten_list).filter(|(value, _)| !value.is_null()).collect())
}

/// Parses a text. If it starts like a JSON object, reads JSON documents that follow each other. If the first or second is no
/// JSON, it may be YAML, so reads the rest as YAML.
fn parse_text(
    text: &str,
    warnings: &mut Vec<FileProblem>,
) -> Result<Vec<(Value, DocumentPlace)>, FileProblem> {
    let mut all = Vec::new();
    if !text.trim_start().starts_with('{') {
        return parse_yaml(text, 0, &mut all, warnings).map(|()| all);
    }
    let JsonDocuments { documents, ends, duplicates, rest } = read_json(text)?;
    let duplicate = |name: &String| {
        FileProblem::new(format!("{name:.64} occurs twice in one object: the last value counts"))
    };
    warnings.extend(duplicates.iter().map(duplicate));
    let mut start = 0;
    for (value, end) in documents.into_iter().zip(ends) {
        let place = DocumentPlace { range: start..end, first_line: line_of(text, start), item: None };
        all.push((value, place));
        start = end;
    }
    let Some((end, json_problem)) = rest else { return Ok(all) };
    let count = all.len();
    if count > 1 {
        return Err(json_problem);
    }
    match parse_yaml(text, end, &mut all, warnings) {
        Ok(()) => Ok(all),
        // Neither JSON nor YAML, and more likely meant as JSON.
        Err(_) if all.len() == count => Err(json_problem),
        Err(problem) => Err(problem),
    }
}

/// Returns the line of a byte, counted from 1.
fn line_of(text: &str, at: usize) -> usize {
    text.get(..at).unwrap_or_default().matches('\n').count() + 1
}

/// Parses the YAML documents after this byte of the file. Appends those before a problem too.
fn parse_yaml(
    text: &str,
    start: usize,
    documents: &mut Vec<(Value, DocumentPlace)>,
    warnings: &mut Vec<FileProblem>,
) -> Result<(), FileProblem> {
    let mut finish = |range: Range<usize>, first_line: usize| {
        let in_file = |problem: YamlProblem| FileProblem {
            position: Some(Position { line: problem.line + first_line - 1, column: problem.column }),
            message: problem.message,
        };
        let chunk = text.get(range.clone()).unwrap_or_default();
        let YamlDocument { value, warnings: found } = read_yaml(chunk).map_err(in_file)?;
        documents.push((value, DocumentPlace { range, first_line, item: None }));
        warnings.extend(found.into_iter().map(in_file));
        Ok(())
    };
    let (mut line, mut at) = (line_of(text, start), start);
    let (mut chunk_line, mut chunk_start) = (line, start);
    for content in text.get(start..).unwrap_or_default().split_inclusive('\n') {
        if let Some(rest) = content.strip_prefix("---") {
            let rest = rest.trim();
            if !rest.is_empty() && !rest.starts_with('#') {
                let message = "kubectl reads no text after --- in the same line: put it into the next line";
                let position = Some(Position { line, column: 4 });
                return Err(FileProblem { position, message: message.to_owned() });
            }
            finish(chunk_start..at, chunk_line)?;
            (chunk_line, chunk_start) = (line + 1, at + content.len());
        }
        line += 1;
        at += content.len();
    }
    finish(chunk_start..at, chunk_line)
}

/// Replaces a list by its items. Like kubectl, takes every document with `items` for a list, such as `kind: List` or
/// `kind: EventHookList`, whose items need no kind.
fn flatten_list((mut document, place): (Value, DocumentPlace)) -> Vec<(Value, DocumentPlace)> {
    let text = |document: &Value, name: &str| {
        document.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let (version, kind) = (text(&document, "apiVersion"), text(&document, "kind"));
    let items = document.get_mut("items").filter(|items| items.is_array()).map(Value::take);
    let Some(Value::Array(items)) = items else { return vec![(document, place)] };
    let add_kind = |(index, item): (usize, Value)| {
        let place = DocumentPlace { item: Some(index), ..place.clone() };
        match item {
            Value::Object(mut members) if lacks_kind(&members) => {
                let item_kind = kind.strip_suffix("List").unwrap_or(&kind);
                members.insert("kind".to_owned(), item_kind.into());
                members.insert("apiVersion".to_owned(), version.clone().into());
                (Value::Object(members), place)
            }
            item => (item, place),
        }
    };
    items.into_iter().enumerate().map(add_kind).collect()
}

fn lacks_kind(members: &Map<String, Value>) -> bool {
    ["kind", "apiVersion"]
        .iter()
        .all(|name| members.get(*name).is_none_or(|value| value == "" || value.is_null()))
}

/// Lists the manifest files of these files and folders. A path without one is an error, because it is likely mistyped.
pub fn list_manifest_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, ManifestError> {
    let mut files = Vec::new();
    for path in paths {
        let before = files.len();
        collect_files(path, &mut files)?;
        if files.len() == before {
            return Err(ManifestError::new(path, "contains no manifest (*.yaml, *.yml, *.json)"));
        }
    }
    Ok(files)
}

fn collect_files(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), ManifestError> {
    let metadata = fs::metadata(path).map_err(|e| ManifestError::new(path, e))?;
    if metadata.is_file() {
        files.push(path.to_owned());
        return Ok(());
    }
    // A pipe would be empty when it is read again.
    if !metadata.is_dir() {
        return Err(ManifestError::new(path, "is neither a file nor a folder"));
    }
    // The entry has its type, so a scan of a large folder needs no call for each file.
    let read_entry = |entry: io::Result<fs::DirEntry>| {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        Ok((if kind.is_symlink() { path.is_dir() } else { kind.is_dir() }, path))
    };
    let mut entries: Vec<(bool, PathBuf)> = fs::read_dir(path)
        .and_then(|entries| entries.map(read_entry).collect())
        .map_err(|e| ManifestError::new(path, e))?;
    entries.sort_by(|(_, a), (_, b)| a.cmp(b));
    for (is_folder, entry) in entries {
        // Skips `..data` and similar entries, with which a mounted ConfigMap replaces all its files atomically.
        let is_hidden = entry.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        let is_manifest = entry.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if is_folder && !is_hidden {
            collect_files(&entry, files)?;
        } else if is_manifest && !is_hidden {
            files.push(entry);
        }
        if files.len() > MAX_FILES {
            return Err(ManifestError::new(path, format!("more than {MAX_FILES} manifests")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(text: &str) -> Result<(Vec<Value>, Vec<String>), String> {
        let parsed = parse_file(Path::new("f"), text.as_bytes()).map_err(|error| error.to_string())?;
        Ok((parsed.documents, parsed.warnings.iter().map(ToString::to_string).collect()))
    }

    fn read(text: &str) -> Vec<Value> {
        parse(text).unwrap().0
    }

    #[test]
    fn splits_documents_like_kubectl() {
        for (text, documents) in [
            ("a: 1\n---\n---\n# nothing\n--- # c\nb: 2", json!([{"a": 1}, {"b": 2}])),
            ("---\r\na: 1\r\n---\r\nb: 2\r\n", json!([{"a": 1}, {"b": 2}])),
            (
                "{\"a\": 1.0}\n{\"b\": 1e1}{\"c\": \"\\ud800\"}",
                json!([{"a": 1}, {"b": 10}, {"c": "\u{fffd}"}]),
            ),
            ("{\"a\": 1}\n---\n{\"b\": 2}\n", json!([{"a": 1}, {"b": 2}])),
            ("  {a: 1, b: yes}\n---\nc: 010", json!([{"a": 1, "b": true}, {"c": 8}])),
            ("a: |\n  x\n  ---\n", json!([{"a": "x\n---\n"}])),
            ("", json!([])),
        ] {
            assert_eq!(Value::Array(read(text)), documents, "{text}");
        }
    }

    #[test]
    fn names_the_line_of_the_file() {
        for (text, part) in [
            ("a: 1\n---\nb: 2\n--- c\n", "f: line 4, column 4"),
            ("a: 1\n---\nb: 2\nc: [\n", "line 4, column 4"),
            ("{\"a\": 1}\n---\nb: .inf\n", "line 3, column 4"),
            ("{\"a\": 1}{\"b\": 2}\n{\"c\": }", "line 2, column 7"),
            ("{\"a\": 1e999}", "out of range"),
            ("{\"a\": [}", "line 1, column 8"),
        ] {
            let problem = parse(text).unwrap_err();
            assert!(problem.contains(part), "{text}: {problem}");
        }
        let (_, warnings) = parse("a: 1\n---\nb: 1\nb: 2").unwrap();
        assert_eq!(warnings, ["line 4, column 1: b occurs twice in one map: the last value counts"]);
        assert_eq!(parse("{\"b\": 1, \"b\": 2}").unwrap().1.len(), 1);
    }

    #[test]
    fn flattens_lists() {
        let item = |version: &str, kind: &str| json!({"apiVersion": version, "kind": kind});
        for (text, documents) in [
            (
                "{kind: List, apiVersion: v1, items: [{apiVersion: v1, kind: Secret}]}",
                vec![item("v1", "Secret")],
            ),
            (
                "{kind: EventHookList, apiVersion: h/v1, items: [{}, {apiVersion: h/v2, kind: Hook}]}",
                vec![item("h/v1", "EventHook"), item("h/v2", "Hook")],
            ),
            ("{kind: List, items: []}", vec![]),
        ] {
            assert_eq!(read(text), documents, "{text}");
        }
        let no_list = "{kind: Template, items: {a: 1}}";
        assert_eq!(read(no_list), [json!({"kind": "Template", "items": {"a": 1}})]);
    }
}
