//! Finds the manifest files that changed since the last scan, and reads only those.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::definition::Definition;
use super::documents::{ManifestError, ParsedFile, list_manifest_files, parse_changed_file, read_bytes};

/// A file that changed within this time before it was read is read again at the next scan. A second change within the
/// resolution of the file system's clock would leave its stamp as it is.
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// The files of the manifest paths, as the last scan found them.
pub struct FileScanner {
    paths: Vec<PathBuf>,
    files: BTreeMap<PathBuf, KnownFile>,
    /// True if objects keep the uid, status and finalizers that a cluster printed.
    keep_state: bool,
}

/// The last scan of a file.
#[derive(Default)]
struct KnownFile {
    /// None: the file must be read again.
    stamp: Option<FileStamp>,
    /// The hash of the last readable content. None: the file was never readable.
    hash: Option<[u8; 32]>,
    /// The definitions of that content. Checking a document against its schema is the most expensive part of a scan, so
    /// documents that stay the same in a changed file are not checked again.
    definitions: Vec<Arc<Definition>>,
    /// The problems that were logged last. Without them, every scan would log them again.
    problems: BTreeSet<String>,
}

/// Identifies a file's content without reading it. Programs cannot set the time of the last change (`ctime`), unlike that
/// of the last modification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// The content of a changed file.
struct ScannedFile {
    definitions: Vec<Arc<Definition>>,
    /// Why the other documents cannot be used.
    unusable: Vec<String>,
}

/// The result of a scan.
#[derive(Debug, Default)]
pub struct FileChanges {
    /// New files and files with changed content: what they define now.
    pub changed: Vec<(Arc<Path>, Vec<Arc<Definition>>)>,
    /// Files that no longer exist.
    pub removed: Vec<PathBuf>,
    /// Files that exist and have never been readable.
    pub unreadable: BTreeSet<PathBuf>,
    /// Documents of changed files that cannot be used, such as those with a mistyped group.
    pub unusable: Vec<ManifestError>,
}

impl FileScanner {
    pub fn new(paths: Vec<PathBuf>, keep_state: bool) -> Self {
        FileScanner { paths, files: BTreeMap::new(), keep_state }
    }

    /// Reads the files that changed on disk, and logs their problems once. A file that cannot be read keeps its last
    /// readable content. An error: a path does not exist or contains no manifest; then nothing counts as changed.
    pub fn scan(&mut self) -> Result<FileChanges, ManifestError> {
        let listed: BTreeSet<PathBuf> = list_manifest_files(&self.paths)?.into_iter().collect();
        let mut known = std::mem::take(&mut self.files);
        let mut changes = FileChanges::default();
        for path in listed {
            let mut file = known.remove(&path).unwrap_or_default();
            match self.scan_file(&path, &mut file) {
                Ok(None) => {}
                Ok(Some(ScannedFile { definitions, unusable })) => {
                    changes.changed.push((path.as_path().into(), definitions));
                    let unusable = unusable.into_iter().map(|problem| ManifestError::new(&path, problem));
                    changes.unusable.extend(unusable);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // The file was removed after it was listed.
                    changes.removed.push(path);
                    continue;
                }
                Err(error) => file.report(&ManifestError::new(&path, error)),
            }
            if file.hash.is_none() {
                changes.unreadable.insert(path.clone());
            }
            self.files.insert(path, file);
        }
        changes.removed.extend(known.into_keys());
        Ok(changes)
    }

    /// Reads a file if it changed. None: its definitions are the same as before.
    fn scan_file(&self, path: &Path, file: &mut KnownFile) -> io::Result<Option<ScannedFile>> {
        let stamp = FileStamp::of(&fs::metadata(path)?);
        if file.stamp == Some(stamp) {
            return Ok(None);
        }
        let is_settled = stamp.is_settled(SystemTime::now());
        // A failed read is repeated even if the file stays as it is.
        file.stamp = None;
        let bytes = read_bytes(path)?;
        file.stamp = is_settled.then_some(stamp);
        let ParsedFile { hash, documents, warnings } = match parse_changed_file(path, &bytes, file.hash) {
            Ok(Some(parsed)) => parsed,
            Ok(None) => return Ok(None),
            Err(error) => {
                file.report(&error);
                return Ok(None);
            }
        };
        file.hash = Some(hash);
        warnings.iter().for_each(|warning| tracing::warn!("{}: {warning}", path.display()));
        let known: HashMap<[u8; 32], Arc<Definition>> =
            file.definitions.drain(..).map(|definition| (definition.hash, definition)).collect();
        let (mut definitions, mut unusable) = (Vec::new(), Vec::new());
        for document in &documents {
            let hash = Definition::hash_of(document);
            if let Some(definition) = known.get(&hash) {
                definitions.push(definition.clone());
                continue;
            }
            match Definition::of_document(document, hash, self.keep_state) {
                Ok(definition) => definitions.extend(definition.map(Arc::new)),
                Err(problem) => unusable.push(problem),
            }
        }
        let of_data = definitions.iter().flat_map(|definition| &definition.problems);
        let problems = unusable.iter().chain(of_data).map(|problem| format!("{}: {problem}", path.display()));
        let problems: BTreeSet<String> = problems.collect();
        file.definitions.clone_from(&definitions);
        problems.difference(&file.problems).for_each(|problem| tracing::error!("{problem}"));
        file.problems = problems;
        Ok(Some(ScannedFile { definitions, unusable }))
    }
}

impl KnownFile {
    /// Logs that the file cannot be read, unless the last scan did.
    fn report(&mut self, error: &ManifestError) {
        let problem = match self.hash {
            Some(_) => format!("{error}; the last readable content stays in effect"),
            None => error.to_string(),
        };
        if !self.problems.contains(&problem) {
            tracing::error!("{problem}");
            self.problems = BTreeSet::from([problem]);
        }
    }
}

impl FileStamp {
    fn of(metadata: &fs::Metadata) -> Self {
        FileStamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// True if the file changed long enough before `now`. A time in the future comes from another clock and proves nothing.
    fn is_settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(self.changed.0).is_ok_and(|changed| {
            now.checked_sub(Duration::from_secs(changed)).is_some_and(|age| age > SETTLE_TIME)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n";

    fn scanner(dir: &Path) -> FileScanner {
        FileScanner::new(vec![dir.to_owned()], false)
    }

    #[test]
    fn returns_only_changed_files() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..5 {
            fs::write(
                dir.path().join(format!("{n}.yaml")),
                SECRET.replace("name: s", &format!("name: s{n}")),
            )
            .unwrap();
        }
        let mut scanner = scanner(dir.path());
        assert_eq!(scanner.scan().unwrap().changed.len(), 5);
        let again = scanner.scan().unwrap();
        assert!(again.changed.is_empty() && again.removed.is_empty());
        fs::write(dir.path().join("3.yaml"), SECRET).unwrap();
        fs::remove_file(dir.path().join("4.yaml")).unwrap();
        let changes = scanner.scan().unwrap();
        let changed: Vec<_> = changes.changed.iter().map(|(path, _)| path.file_name().unwrap()).collect();
        assert_eq!(changed, ["3.yaml"]);
        assert_eq!(changes.removed, [dir.path().join("4.yaml")]);
    }

    #[test]
    fn unchanged_documents_of_a_changed_file_are_not_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        let named = |name: &str| SECRET.replace("name: s", &format!("name: {name}"));
        let mut scanner = scanner(dir.path());
        let mut scan = |names: [&str; 2]| {
            fs::write(&path, format!("{}---\n{}", named(names[0]), named(names[1]))).unwrap();
            scanner.scan().unwrap().changed.remove(0).1
        };
        let first = scan(["a", "b"]);
        let second = scan(["b", "c"]);
        assert!(Arc::ptr_eq(&first[1], &second[0]));
        assert_eq!(second[1].key.name().name, "c");
    }

    #[test]
    fn settled_files_are_not_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        fs::write(&path, SECRET).unwrap();
        let mut scanner = scanner(dir.path());
        scanner.scan().unwrap();
        let changed = scanner.files.values().next().unwrap().stamp;
        assert_eq!(changed, None, "a file that was just written may change again without a new stamp");
        // As if the file had been read long after its last change: its content is not even looked at.
        let stamp = FileStamp::of(&fs::metadata(&path).unwrap());
        let known = scanner.files.get_mut(&path).unwrap();
        (known.stamp, known.hash) = (Some(stamp), Some([0; 32]));
        assert!(scanner.scan().unwrap().changed.is_empty());
        scanner.files.get_mut(&path).unwrap().stamp = None;
        assert_eq!(scanner.scan().unwrap().changed.len(), 1);
    }

    #[test]
    fn settles_after_the_file_systems_clock_has_moved_on() {
        let stamp = FileStamp { device: 1, inode: 1, size: 1, changed: (1000, 0) };
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(stamp.is_settled(at(1003)));
        for now in [at(0), at(999), at(1000), at(1002)] {
            assert!(!stamp.is_settled(now), "{now:?}");
        }
    }

    #[test]
    fn reports_a_file_that_was_never_readable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        fs::write(&path, "a: [").unwrap();
        let mut scanner = scanner(dir.path());
        for _ in 0..2 {
            assert!(scanner.scan().unwrap().unreadable.contains(&path));
        }
        fs::write(&path, SECRET).unwrap();
        let changes = scanner.scan().unwrap();
        assert!(changes.unreadable.is_empty() && changes.changed.len() == 1);
        fs::write(&path, "a: [").unwrap();
        let changes = scanner.scan().unwrap();
        assert!(changes.unreadable.is_empty() && changes.changed.is_empty(), "its last content is kept");
    }
}
