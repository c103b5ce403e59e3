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

/// A block of console commands.
pub struct Block {
    /// True if no test runs it.
    pub marked: bool,
    pub commands: Vec<String>,
}

pub fn blocks(text: &str) -> Vec<Block> {
    let (mut blocks, mut open) = (Vec::new(), None::<Block>);
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(info), None) => {
                assert!(
                    !matches!(info, "sh" | "bash" | "shell"),
                    "commands belong in console blocks: {text}"
                );
                open = Some(Block { marked: info.contains("not-run"), commands: Vec::new() });
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
