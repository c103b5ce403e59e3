//! Reads the YAML and JSON documents of files and folders.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;
const MAX_FILES: usize = 10_000;

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
    pub content: Result<Value, String>,
}

/// Reads every document of these files and folders. A path that does not exist or contains no manifest is an error.
pub fn read_documents(paths: &[PathBuf]) -> Result<Vec<Document>, ManifestError> {
    let files = list_manifest_files(paths)?;
    let documents = files.into_iter().flat_map(|path| match read_file(&path) {
        Ok(documents) => documents
            .into_iter()
            .map(|content| Document { path: path.clone(), content: Ok(content) })
            .collect(),
        Err(ManifestError::Path { problem, .. }) => vec![Document { path, content: Err(problem) }],
    });
    Ok(documents.collect())
}

/// The content of one file, with its hash.
pub struct ParsedFile {
    pub hash: [u8; 32],
    pub documents: Vec<Value>,
}

/// Reads and parses the documents of a file.
pub fn read_file(path: &Path) -> Result<Vec<Value>, ManifestError> {
    let text = read_text(path).map_err(|e| ManifestError::new(path, e))?;
    Ok(parse_text(path, &text, None)?.map(|file| file.documents).unwrap_or_default())
}

/// Reads the text of a file. A long file is an error.
pub fn read_text(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("longer than {MAX_FILE_BYTES} bytes")));
    }
    fs::read_to_string(path)
}

/// Parses the text of a file; None if its hash is still `known_hash`.
pub fn parse_text(
    path: &Path,
    text: &str,
    known_hash: Option<[u8; 32]>,
) -> Result<Option<ParsedFile>, ManifestError> {
    let hash = Sha256::digest(text.as_bytes()).into();
    if known_hash == Some(hash) {
        return Ok(None);
    }
    let documents = serde_saphyr::from_multiple::<Value>(text)
        .map_err(|e| ManifestError::new(path, first_line(&e.to_string())))?;
    let documents = documents.into_iter().flat_map(flatten_list).filter(|d| !d.is_null()).collect();
    Ok(Some(ParsedFile { hash, documents }))
}

fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// Replaces a `kind: List` by its items.
fn flatten_list(document: Value) -> Vec<Value> {
    match document.get("kind").and_then(Value::as_str) {
        Some("List") => document.get("items").and_then(Value::as_array).cloned().unwrap_or_default(),
        _ => vec![document],
    }
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
    if fs::metadata(path).map_err(|e| ManifestError::new(path, e))?.is_file() {
        files.push(path.to_owned());
        return Ok(());
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
