//! Usage errors: one line names what is wrong, where, and what to do, and the command has no effect.

use std::net::TcpListener;

use crate::harness::manifests::{hook, manifest};
use crate::harness::{DEADLINE, Process, free_port, watchdog};

/// Runs the program. Returns the exit code and standard error.
async fn run(args: &[&str], env: &[(&str, &str)]) -> (i32, String) {
    let mut command = Process::command(args, env);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// The forms that `run`, `worker` and `standalone` take too.
#[tokio::test(flavor = "multi_thread")]
async fn test_servers_listen_on_every_form_of_address() {
    for command in [&["receive"][..], &["emulate", "kong"], &["emulate", "auth0"]] {
        for host in ["", "localhost", "127.0.0.1"] {
            let address = format!("{host}:{}", free_port());
            let process = Process::spawn([command, &["--listen", &address]].concat(), &[]);
            let line = process.wait_for_line(|line| line.contains(" listening on "), DEADLINE).await;
            let port = address.rsplit(':').next().unwrap();
            assert!(line.ends_with(&format!(":{port}")), "{line}");
            assert!(host.is_empty() != line.contains("//127.0.0.1:") || line.contains("[::1]"), "{line}");
            assert!(process.terminate().await.success());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_a_variable_as_the_origin_of_a_value() {
    let (code, error) = run(&["receive"], &[("HOOKSTREAM_DELAY", "2d")]).await;
    assert_eq!(code, 2);
    assert!(
        error.contains("(from the variable HOOKSTREAM_DELAY): see `hookstream receive --help`"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_each_error_in_one_line() {
    let folder = watchdog::unique_path("mistakes");
    std::fs::create_dir_all(folder.join("empty")).unwrap();
    let path = |name: &str| folder.join(name).display().to_string();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    write("token", "");
    let signed = serde_json::json!({"handler": {"webhook": {"signature": {"secretRef": {"name": "keys", "key": "k"}}}}});
    write("signed.yaml", &hook("signed", "http://127.0.0.1:9/", signed));
    let version = "hookstream.dev/v1alpha1";
    write(
        "two.yaml",
        &(hook("a", "http://127.0.0.1:9/", serde_json::json!({}))
            + &hook("b", "http://127.0.0.1:9/", serde_json::json!({}))),
    );
    write("bad.yaml", &manifest(version, "EventHook", "bad", serde_json::json!({"spec": {"source": "s"}})));
    let (empty, nowhere, data, token) = (path("empty"), path("nowhere"), path("data"), path("token"));
    let (signed, two, bad) = (path("signed.yaml"), path("two.yaml"), path("bad.yaml"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let unreachable = format!("http://127.0.0.1:{}", free_port());
    let send = ["send", "-n", "x", "--source", "s", "--event", "e"];

    let rows: Vec<(Vec<&str>, i32, &str)> = vec![
        (vec!["standalone", "--manifests", &nowhere, "--data", &data], 2, "No such file"),
        (
            vec!["standalone", "--manifests", &empty, "--data", &data],
            2,
            "contains no manifest (*.yaml, *.yml, *.json)",
        ),
        (vec!["standalone", "--manifests", &two, "--data", "/proc/no"], 2, "--data /proc/no"),
        (
            vec!["standalone", "--manifests", &two, "--data", &data, "--listen", "0.0.0.0:1"],
            2,
            "give a token file, or listen on 127.0.0.1",
        ),
        (
            vec!["standalone", "--manifests", &two, "--data", &data, "--listen", "here"],
            2,
            "invalid value 'here' for '--listen <ADDRESS>': must be HOST:PORT or :PORT",
        ),
        (
            vec!["receive", "--listen", "http://127.0.0.1:9000"],
            2,
            "must be HOST:PORT without a scheme, such as 127.0.0.1:8080: see `hookstream receive --help`",
        ),
        (vec!["emulate", "kong", "--listen", "::1"], 2, "an IPv6 address needs brackets, such as [::1]:8080"),
        (
            vec!["deliveries", "list", "-n", "shop", "--url", "localhost:8082"],
            2,
            "must be an http or https URL, such as http://HOST:PORT: see `hookstream deliveries list --help`",
        ),
        (
            vec!["deliveries", "list"],
            2,
            "no namespace: give --namespace, or a profile or kubeconfig context that has one",
        ),
        (
            vec!["validat", "x"],
            2,
            "unrecognized subcommand 'validat': a similar subcommand exists: 'validate'",
        ),
        (vec!["validate", "x", "--ouput", "json"], 2, "a similar argument exists: '--output'"),
        (
            vec!["standalone", "--manifests", &two, "--data", &data, "--token-file", &token],
            2,
            "the file is empty",
        ),
        (vec!["standalone", "--manifests", &two, "--data", &data, "--ops-listen", &taken], 2, "--ops-listen"),
        (vec!["emulate", "kong", "--listen", &taken], 2, "(--listen): Address already in use"),
        (
            vec!["emulate", "kong", "--listen", "127.0.0.1:0", "--gateway-version", "new"],
            2,
            "must begin with two numbers",
        ),
        (vec!["receive", "--listen", &taken], 2, "(--listen): Address already in use"),
        (vec!["receive", "--listen", "127.0.0.1:0", "--secret-file", &nowhere], 2, "reading "),
        (vec!["validate", &nowhere], 2, "No such file"),
        (vec!["diff", &nowhere], 2, "No such file"),
        (vec!["diff", &two, "--data", &empty], 2, "give the data folder of standalone"),
        (vec!["test", "-f", &two, "--data", "{}"], 2, "choose one with --hook: default/a, default/b"),
        (vec!["test", "-f", &two, "--hook", "c", "--data", "{}"], 2, "--hook c"),
        (
            vec!["test", "-f", &signed, "--data", "{}"],
            2,
            "Secret keys does not exist (or may not be used): create it (more manifests: --file)",
        ),
        (vec!["test", "-f", &bad, "--data", "{}"], 1, "EventHook default/bad"),
        (vec!["test", "-f", &two, "--hook", "a", "--data", "{"], 2, "--data is not JSON"),
        ([&send[..], &["--data", "x"]].concat(), 2, "(give a file as @FILE)"),
        ([&send[..], &["--data", "@/no/such"]].concat(), 2, "reading /no/such"),
        (
            [&send[..], &["--data", "{}", "--url", &unreachable]].concat(),
            2,
            "cannot be reached: Connection refused (os error 111) (--url)",
        ),
        ([&send[..], &["--data", "{}", "--token-file", &token]].concat(), 2, "contains no token"),
        (vec!["deliveries", "list", "-n", "Shop"], 2, "'Shop' is not a valid namespace name (--namespace)"),
        (vec!["deliveries", "list", "-n", "shop", "--url", &unreachable], 2, "(--url)"),
        (vec!["deliveries", "list", "-n", "shop", "--service"], 2, "set KUBECONFIG"),
        (vec!["run"], 2, "set KUBECONFIG"),
        (vec!["release", "--all"], 2, "set KUBECONFIG"),
        (vec!["uninstall-check"], 2, "set KUBECONFIG"),
        (vec!["import", "kong", "--admin-url", &unreachable], 2, "the admin API cannot be reached"),
        (vec!["sources", "nowhere"], 2, "`hookstream sources` lists the known names"),
        (vec!["store", "check", "--data", &nowhere], 2, "cannot open the store"),
        (vec!["crds", "--output", "/proc/no"], 2, "creating /proc/no"),
    ];
    let mut failures = Vec::new();
    for (args, code, text) in rows {
        let (exit_code, error) = run(&args, &[("KUBECONFIG", "/no/such/config")]).await;
        let is_one_line = error.starts_with("hookstream: ") && error.lines().count() == 1;
        if exit_code != code || !is_one_line || !error.contains(text) {
            failures.push(format!(
                "{args:?} should exit with {code} and report {text:?}, but exited with {exit_code}: {error}"
            ));
        }
    }
    drop(listener);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
