//! Records the commit and its date in the program, for `hookstream version`.
//!
//! Two builds of one commit are equal: the date is `SOURCE_DATE_EPOCH` or the commit's, never that of the build. Without git
//! or a repository (a source archive, a container build) the commit is `BUILD_COMMIT`, or unknown. A development build reads
//! no repository, because each commit would compile the crate again.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=BUILD_COMMIT");
    println!("cargo:rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let reads_git = variable("PROFILE").as_deref() == Some("release") && is_repository();
    if reads_git {
        watch_repository();
    }
    let commit = variable("BUILD_COMMIT").or_else(|| reads_git.then(commit).flatten());
    let date = variable("SOURCE_DATE_EPOCH")
        .or_else(|| reads_git.then(|| git(&["show", "--no-patch", "--format=%ct", "HEAD"])).flatten())
        .filter(|seconds| seconds.parse::<i64>().is_ok());
    if let Some(commit) = commit {
        println!("cargo:rustc-env=HOOKSTREAM_BUILD_COMMIT={commit}");
    }
    if let Some(date) = date {
        println!("cargo:rustc-env=HOOKSTREAM_BUILD_DATE={date}");
    }
}

/// Returns the commit, with a mark if the sources differ from it.
fn commit() -> Option<String> {
    let commit = git(&["rev-parse", "HEAD"])?;
    let changes = git(&[
        "status",
        "--porcelain",
        "--untracked-files=no",
        "--",
        "src",
        "build.rs",
        "Cargo.toml",
        "Cargo.lock",
    ]);
    Some(if changes.as_deref() == Some("") { commit } else { format!("{commit}-modified") })
}

/// Returns true if this folder is the root of a repository. An archive that is unpacked inside of another repository must not
/// report that repository's commit.
fn is_repository() -> bool {
    git(&["rev-parse", "--show-prefix"]).as_deref() == Some("")
}

/// Builds again after a commit, a checkout or a change of the sources.
fn watch_repository() {
    let branch = git(&["symbolic-ref", "-q", "HEAD"]);
    for name in ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        // Cargo takes a path that does not exist for a change.
        if let Some(path) = git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists()) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    for path in ["src", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={path}");
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Runs git in this folder. None: git does not exist, or it failed.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
