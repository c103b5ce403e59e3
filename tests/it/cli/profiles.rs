//! Profiles, and the choice of the worker's place.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use super::run_with;
use crate::harness::manifests::hook;
use crate::harness::standalone::Standalone;
use crate::harness::{Process, Receiver, Reply, free_port, watchdog};

fn config_home() -> PathBuf {
    let folder = watchdog::unique_path("config");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn profile_chooses_worker_and_namespace() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let standalone = Standalone::start(&hook("a", &receiver.url(), json!({})), &[]).await;
    let (home, url) = (config_home(), format!("http://{}", standalone.api));
    let ingest = format!("http://{}", standalone.listen);
    let envs = [("XDG_CONFIG_HOME", home.to_str().unwrap())];
    let run = async |args: &[&str]| run_with(args, &envs).await;

    let set = ["config", "set-profile", "local", "--url", &url, "--ingest-url", &ingest, "-n", "default"];
    let (code, out, error) = run(&set).await;
    assert_eq!((code, error.as_str()), (0, ""), "{out}");
    let file = home.join("hookstream/config.yaml");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let (code, out, _) = run(&["deliveries", "list", "--profile", "local"]).await;
    assert_eq!(code, 0, "{out}");

    // Without a profile the default stays this machine's port, which needs a namespace.
    let (code, _, error) = run(&["deliveries", "list"]).await;
    assert!(code == 2 && error.starts_with("hookstream: no namespace: give --namespace"), "{error}");
    let (code, _, _) = run(&["config", "use-profile", "local"]).await;
    assert_eq!(code, 0);
    let (code, out, error) = run(&["deliveries", "list", "-o", "json"]).await;
    assert_eq!((code, error.as_str()), (0, ""));
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["items"], json!([]));

    // A change prints its target; standard output has only the result.
    let send = ["send", "--source", "s", "--event", "e", "--data", "{}", "--id", "e-1", "-o", "json"];
    let (code, out, error) = run(&send).await;
    assert_eq!((code, error), (0, format!("hookstream: target: {ingest}\n")), "{out}");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["id"], "e-1");

    // A flag takes precedence over the profile.
    let closed = format!("http://127.0.0.1:{}", free_port());
    let (code, _, error) = run(&["deliveries", "list", "--url", &closed]).await;
    assert!(code == 2 && error.contains(&closed) && error.contains("cannot be reached"), "{error}");

    let (code, out, _) = run(&["config", "view"]).await;
    let expected = format!("CURRENT  NAME   TARGET{}NAMESPACE", " ".repeat(url.len() + 1 + 2 - 6));
    assert_eq!((code, out.lines().next()), (0, Some(expected.as_str())), "{out}");
    let (_, out, _) = run(&["config", "view", "-o", "json"]).await;
    let view: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(view["currentProfile"], "local");
    assert_eq!(view["profiles"]["local"]["namespace"], "default");
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_in_profiles_are_answered_in_one_line() {
    let home = config_home();
    let envs = [("XDG_CONFIG_HOME", home.to_str().unwrap())];
    for (args, part) in [
        (
            &["deliveries", "list", "--profile", "prod"][..],
            "there is no profile 'prod' (profiles: there are none)",
        ),
        (&["config", "use-profile", "prod"], "create it with `hookstream config set-profile`"),
        (
            &["config", "set-profile", "x", "--url", "http://a:1", "--context", "c"],
            "url and ingestUrl exclude context and kubeconfig",
        ),
        (&["config", "set-profile", "x", "--url", "a:1"], "invalid value"),
        (&["config", "set-profile", "../x"], "must be 1 to 63 letters"),
        (
            &["deliveries", "list", "-n", "a", "--url", "http://a:1", "--context", "c"],
            "--url and --context name two workers",
        ),
        (
            &["deliveries", "list", "-n", "a", "--url", "https://127.0.0.1:1", "--ca-file", "/dev/null"],
            "--ca-file /dev/null contains no certificate in PEM format",
        ),
    ] {
        let (code, _, error) = run_with(args, &envs).await;
        assert!(code == 2 && error.contains(part) && error.lines().count() == 1, "{args:?}: {error}");
    }
    std::fs::create_dir_all(home.join("hookstream")).unwrap();
    std::fs::write(home.join("hookstream/config.yaml"), "profiles: {a: {token: t0ken}}\n").unwrap();
    let (code, _, error) = run_with(&["deliveries", "list", "-n", "a"], &envs).await;
    assert!(code == 2 && error.contains("unknown field `token`") && !error.contains("t0ken"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn kubectl_plugin_has_its_own_usage() {
    let folder = watchdog::unique_path("plugin");
    std::fs::create_dir_all(&folder).unwrap();
    let plugin = folder.join("kubectl-hookstream");
    let program = Process::command(["--help"], &[]).get_program().to_owned();
    std::os::unix::fs::symlink(program, &plugin).unwrap();
    let run = |args: &[&str]| {
        let output = Command::new(&plugin).args(args).env_clear().env("HOME", &folder).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, out, _) = run(&["deliveries", "list", "--help"]);
    assert!(code == Some(0) && out.contains("Usage: kubectl hookstream deliveries list"), "{out}");
    let (code, _, error) = run(&["deliveries", "lst"]);
    assert!(code == Some(2) && error.contains("see `kubectl hookstream deliveries --help`"), "{error}");
    // A plugin works on the kubeconfig's cluster, not on this machine's worker.
    let (code, _, error) = run(&["deliveries", "list", "-n", "shop"]);
    assert!(code == Some(2) && error.contains("no cluster"), "{error}");
}
