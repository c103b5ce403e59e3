//! `HOOKSTREAM_*` variables, log levels and colours.

use super::terminal::Terminal;
use super::{run, run_with};
use crate::harness::{DEADLINE, Process};

/// What Kubernetes sets in every Pod of a namespace with the Services of the chart.
const SERVICES: [(&str, &str); 9] = [
    ("HOOKSTREAM_SERVICE_HOST", "10.96.0.10"),
    ("HOOKSTREAM_SERVICE_PORT", "8080"),
    ("HOOKSTREAM_SERVICE_PORT_INGEST", "8080"),
    ("HOOKSTREAM_PORT", "tcp://10.96.0.10:8080"),
    ("HOOKSTREAM_PORT_8080_TCP", "tcp://10.96.0.10:8080"),
    ("HOOKSTREAM_PORT_8080_TCP_PROTO", "tcp"),
    ("HOOKSTREAM_PORT_8080_TCP_ADDR", "10.96.0.10"),
    ("HOOKSTREAM_API_SERVICE_HOST", "10.96.0.11"),
    ("HOOKSTREAM_API_PORT_8082_TCP_PORT", "8082"),
];

#[tokio::test(flavor = "multi_thread")]
async fn warns_of_variables_that_no_flag_reads() {
    let (code, out, error) = run_with(&["sources", "balancer"], &[("HOOKSTREAM_LISTN", ":1")]).await;
    assert_eq!(code, 0);
    assert!(out.starts_with("SOURCE"), "{out}");
    assert_eq!(
        error,
        "hookstream: warning: no flag reads the variable HOOKSTREAM_LISTN: did you mean HOOKSTREAM_LISTEN?\n"
    );
    let (_, _, error) = run_with(&["sources", "balancer"], &SERVICES).await;
    assert_eq!(error, "");
    // Of another command.
    let (_, _, error) = run_with(&["sources", "balancer"], &[("HOOKSTREAM_RESYNC_INTERVAL", "1m")]).await;
    assert_eq!(error, "");

    // A process with logs warns in them, so that a reader of JSON can parse every line.
    let envs = [&SERVICES[..], &[("HOOKSTREAM_LISTN", ":1")]].concat();
    let process = Process::spawn(["emulate", "kong", "--listen", "127.0.0.1:0"], &envs);
    let line = process.wait_for_line(|line| line.contains("no flag reads"), DEADLINE).await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["level"], "WARN");
    process.wait_for_line(|line| line.contains("listening on"), DEADLINE).await;
    assert_eq!(process.log().matches("no flag reads").count(), 1, "{}", process.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_output_formats_between_commands() {
    for command in [&["sources"][..], &["version", "--client"]] {
        let (code, out, error) = run_with(command, &[("HOOKSTREAM_OUTPUT", "json")]).await;
        assert_eq!((code, error.as_str()), (0, ""));
        serde_json::from_str::<serde_json::Value>(&out).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_unknown_log_levels() {
    for (level, part) in [
        (
            "verbose",
            "'verbose' is no level (error, warn, info, debug, trace or off; for one module MODULE=LEVEL)",
        ),
        ("inof", "'inof' is no level: did you mean info?"),
        ("info,hookstream=dbug", "'dbug' is no level: did you mean debug?"),
    ] {
        let (code, _, error) = run(&["emulate", "kong", "--log-level", level]).await;
        assert_eq!(code, 2, "{error}");
        assert!(error.contains(part) && error.lines().count() == 1, "{error}");
    }
}

/// Log lines, usage errors and tables have colours on a terminal only, and never with NO_COLOR.
#[test]
fn colours_only_terminals_without_no_color() {
    let args = ["emulate", "kong", "--listen", "127.0.0.1:0"];
    for (variable, has_colour) in
        [("A=", true), ("NO_COLOR=", true), ("NO_COLOR=1", false), ("TERM=dumb", false)]
    {
        let (name, value) = variable.split_once('=').unwrap();
        let envs = [("TERM", "xterm"), ("HOOKSTREAM_LISTN", "x"), (name, value)];
        let mut terminal = Terminal::start(&args, &envs, 80);
        let text = terminal.read_until("no flag reads");
        assert_eq!(text.contains('\u{1b}'), has_colour, "{variable}: {text:?}");
    }
    let mut terminal = Terminal::start(&["emulate", "kong", "--log-level", "x"], &[("NO_COLOR", "1")], 80);
    let text = terminal.read_to_end();
    assert!(text.contains("is no level") && !text.contains('\u{1b}'), "{text:?}");
}

/// A table is as wide as the terminal allows, and complete in a pipe.
#[tokio::test(flavor = "multi_thread")]
async fn tables_keep_to_the_width_of_the_terminal() {
    let (_, piped, _) = run(&["sources"]).await;
    assert!(piped.lines().any(|line| line.chars().count() > 100), "{piped}");
    let in_terminal = |columns: u16| Terminal::start(&["sources"], &[], columns).read_to_end();
    assert_eq!(in_terminal(400), piped);
    let narrow = in_terminal(90);
    assert!(narrow.lines().all(|line| line.chars().count() <= 90), "{narrow}");
    // Nothing is lost but the blanks between columns.
    for word in ["rate-limiting-advanced", "keyauth_credentials", "upstream_id"] {
        assert!(narrow.contains(word), "{word}: {narrow}");
    }
    assert_eq!(narrow.matches("crud").count(), piped.matches("crud").count());
}
