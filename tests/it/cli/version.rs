//! `version`, `completion` and `man`.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::run;
use crate::harness::manifests::hook;
use crate::harness::standalone::Standalone;
use crate::harness::{free_port, watchdog};

#[tokio::test(flavor = "multi_thread")]
async fn prints_client_and_worker() {
    let (code, out, error) = run(&["version", "--client"]).await;
    assert_eq!((code, error.as_str()), (0, ""));
    let lines: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["VERSION", "COMMIT", "DATE"]);
    assert_eq!((lines.len(), &lines[1][..2]), (2, &["client", env!("CARGO_PKG_VERSION")][..]));

    let standalone = Standalone::start(&hook("a", "http://127.0.0.1:9/", json!({})), &[]).await;
    let url = format!("http://{}", standalone.api);
    let (code, out, error) = run(&["version", "--url", &url, "-o", "json"]).await;
    assert_eq!((code, error.as_str()), (0, ""));
    let versions: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(versions["client"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(versions["server"], versions["client"]);

    // An older worker, and none at all.
    let old = format!("http://{}", standalone.listen);
    let unreachable = format!("http://127.0.0.1:{}", free_port());
    for (url, why) in
        [(old, "it is older than this program"), (unreachable, "cannot be reached: Connection refused")]
    {
        let (code, out, error) = run(&["version", "--url", &url]).await;
        assert_eq!((code, out.lines().count()), (0, 2), "{out}");
        assert!(error.starts_with("hookstream: the version of the worker is unknown: "), "{error}");
        assert!(error.contains(why) && error.lines().count() == 1, "{error}");
    }
}

/// The build script on its own: a program of a release has the commit of its repository, one of an archive has none.
#[test]
fn build_records_commit_and_date() {
    let folder = watchdog::unique_path("build-script");
    std::fs::create_dir_all(folder.join("repository/src")).unwrap();
    std::fs::create_dir_all(folder.join("repository/inside")).unwrap();
    std::fs::create_dir_all(folder.join("archive")).unwrap();
    let program = folder.join("build-script");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("build.rs");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let status =
        Command::new(rustc).args(["--edition", "2024", "-o"]).arg(&program).arg(&source).status().unwrap();
    assert!(status.success());
    let script = |name: &str, envs: &[(&str, &str)]| {
        let mut command = Command::new(&program);
        command.current_dir(folder.join(name)).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        // A repository around the folder of the test must not be found.
        command.env("GIT_CEILING_DIRECTORIES", &folder).envs(envs.iter().copied());
        let output = command.output().unwrap();
        assert!(output.status.success());
        let out = String::from_utf8(output.stdout).unwrap();
        let value = |name: &str| {
            let line = out
                .lines()
                .find_map(|line| line.strip_prefix(&format!("cargo:rustc-env=HOOKSTREAM_BUILD_{name}=")));
            line.map(ToOwned::to_owned)
        };
        (value("COMMIT"), value("DATE"))
    };
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=t", "-c", "user.email=t@example.com"]).args(args);
        command.env("GIT_COMMITTER_DATE", "1700000000 +0000").env("GIT_CONFIG_GLOBAL", "/dev/null");
        let output = command.current_dir(folder.join("repository")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    git(&["init", "-q"]);
    std::fs::write(folder.join("repository/src/a.rs"), "").unwrap();
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "a"]);
    let head = git(&["rev-parse", "HEAD"]);
    let owned = |text: &str| Some(text.to_owned());
    let release = ("PROFILE", "release");

    assert_eq!(script("archive", &[release]), (None, None));
    assert_eq!(script("repository", &[("PROFILE", "debug")]), (None, None));
    assert_eq!(script("repository", &[release]), (Some(head.clone()), owned("1700000000")));
    assert_eq!(script("repository/inside", &[release]), (None, None), "another project's repository");
    let dated = [release, ("SOURCE_DATE_EPOCH", "1600000000")];
    assert_eq!(script("repository", &dated), (Some(head.clone()), owned("1600000000")));
    let given = [("BUILD_COMMIT", "abc"), ("SOURCE_DATE_EPOCH", "x")];
    assert_eq!(script("archive", &given), (owned("abc"), None));
    std::fs::write(folder.join("repository/src/a.rs"), "// changed").unwrap();
    assert_eq!(script("repository", &[release]).0, Some(format!("{head}-modified")));
}

#[tokio::test(flavor = "multi_thread")]
async fn bash_completes_commands_and_flags() {
    let (code, script, error) = run(&["completion", "bash"]).await;
    assert_eq!((code, error.as_str()), (0, ""));
    // The script is longer than one argument may be.
    let file = watchdog::unique_path("completion");
    std::fs::write(&file, script).unwrap();
    let complete = |words: &str| {
        let list: Vec<&str> = words.split(' ').collect();
        let (word, before) = (list[list.len() - 1], list[list.len() - 2]);
        let code = format!(
            ". {}; COMP_WORDS=({words}); COMP_CWORD={}; _hookstream hookstream '{word}' '{before}'; echo \"${{COMPREPLY[*]}}\"",
            file.display(),
            list.len() - 1
        );
        let output = Command::new("bash").args(["-c", &code]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(complete("hookstream deliv"), "deliveries");
    assert_eq!(complete("hookstream deliveries expl"), "explain");
    assert_eq!(complete("hookstream validate --out"), "--output");
    assert_eq!(complete("hookstream sandb"), "");
    for (shell, part) in [
        ("zsh", "#compdef hookstream"),
        ("fish", "complete -c hookstream"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let (code, script, _) = run(&["completion", shell]).await;
        assert_eq!(code, 0);
        assert!(script.contains(part) && script.contains("deliveries"), "{shell}");
        assert!(!script.contains("Run scripts that the worker sends"), "{shell} completes a hidden command");
    }
    let (code, _, error) = run(&["completion", "tcsh"]).await;
    assert_eq!(code, 2);
    assert!(error.contains("[possible values: bash, elvish, fish, powershell, zsh]"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_a_manual_page_of_each_command() {
    let folder = watchdog::unique_path("man");
    let (code, out, error) = run(&["man", "--output", folder.to_str().unwrap()]).await;
    assert_eq!((code, out.as_str(), error.as_str()), (0, "", ""));
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    for name in
        ["hookstream.1", "hookstream-deliveries-list.1", "hookstream-emulate-kong.1", "hookstream-man.1"]
    {
        assert!(names.iter().any(|found| found == name), "{name}: {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("sandbox") || name.contains("help")), "{names:?}");
    let (code, page, _) = run(&["man", "deliveries", "list"]).await;
    assert_eq!(code, 0);
    assert_eq!(page, std::fs::read_to_string(folder.join("hookstream-deliveries-list.1")).unwrap());
    for part in [
        ".SH NAME",
        "hookstream\\-deliveries\\-list",
        ".SH OPTIONS",
        "HOOKSTREAM_OUTPUT",
        concat!("hookstream ", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let (code, _, error) = run(&["man", "deliveries", "lst"]).await;
    assert_eq!(
        (code, error.as_str()),
        (2, "hookstream: there is no command `hookstream deliveries lst`: see `hookstream --help`\n")
    );
}
