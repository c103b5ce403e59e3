//! Reads the documents and the blocks of commands in them.

use std::path::{Path, PathBuf};

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns every document of the repository with its text.
pub fn documents() -> Vec<(PathBuf, String)> {
    let mut paths: Vec<PathBuf> = [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "charts/hookstream/README.md",
        "charts/hookstream-crds/README.md",
    ]
    .iter()
    .map(|name| root().join(name))
    .collect();
    for folder in ["docs", "docs/adr"] {
        let files = std::fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
        paths.extend(files.filter(|path| path.extension().is_some_and(|e| e == "md")));
    }
    paths
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            (path, text)
        })
        .collect()
}

/// The test that runs a block, by the words after `console`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunBy {
    /// No words: the test of the document.
    Document,
    /// `in-quickstart`: the test of the quickstart runs it in its cluster, before the clean-up.
    Quickstart,
    /// `in-operations`: the test of the day-two commands runs it, in a cluster with a gateway.
    Operations,
    /// `with-postgresql`: a test with a PostgreSQL server runs it.
    Postgresql,
    /// `with-release`: the test of `make dist` runs it beside the files of a release.
    Release,
    /// `as-in DOCUMENT`: the test of another document, which has the same commands.
    Other,
    /// `not-run: REASON`: none. The program still parses its own commands.
    None,
}

impl RunBy {
    /// Fails if a block that no test runs gives no reason.
    fn parse(info: &str) -> RunBy {
        let words = info.strip_prefix("console").unwrap_or_default().trim();
        match words.strip_prefix("not-run") {
            None => match words {
                "" => RunBy::Document,
                "in-quickstart" => RunBy::Quickstart,
                "in-operations" => RunBy::Operations,
                "with-postgresql" => RunBy::Postgresql,
                "with-release" => RunBy::Release,
                words if words.starts_with("as-in ") => RunBy::Other,
                _ => panic!("unknown words after console: {info}"),
            },
            Some(reason) => {
                let reason = reason.strip_prefix(": ").unwrap_or_default();
                assert!(reason.len() > 10, "say why no test runs the block: {info}");
                for path in reason.split(' ').filter(|word| word.starts_with("tests/")) {
                    assert!(root().join(path).exists(), "{info}: {path} does not exist");
                }
                RunBy::None
            }
        }
    }
}

/// A block of console commands.
pub struct Block {
    pub run_by: RunBy,
    /// The words after `console`.
    pub info: String,
    pub commands: Vec<String>,
}

/// Returns the commands of a document that this test runs.
pub fn commands(document: &str, run_by: RunBy) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(document)).unwrap();
    blocks(&text)
        .into_iter()
        .filter(|block| block.run_by == run_by)
        .flat_map(|block| block.commands)
        .collect()
}

pub fn blocks(text: &str) -> Vec<Block> {
    let (mut blocks, mut open) = (Vec::new(), None::<Block>);
    // Blocks in lists are indented.
    for line in text.lines().map(str::trim_start) {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(info), None) => {
                assert!(
                    !matches!(info, "sh" | "bash" | "shell"),
                    "commands belong in console blocks: {text}"
                );
                let (run_by, info) = (RunBy::parse(info), info.trim_start_matches("console ").to_owned());
                open = Some(Block { run_by, info, commands: Vec::new() });
            }
            (None, Some(block)) => {
                let is_continued = block.commands.last().is_some_and(|command| command.ends_with('\\'));
                match line.strip_prefix("$ ") {
                    Some(command) => block.commands.push(command.to_owned()),
                    None if is_continued => block.commands.last_mut().unwrap().push_str(&format!("\n{line}")),
                    None => assert!(
                        !line.trim_start().starts_with("hookstream ") || line.contains(':'),
                        "a command without `$ `: {line}"
                    ),
                }
            }
            (None, None) => {}
        }
    }
    blocks.retain(|block| !block.commands.is_empty());
    blocks
}
