//! The deliveries API of a `hookstream standalone`, and the command `hookstream deliveries`.

use serde_json::Value;

use super::Process;
use super::http::answer;
use super::standalone::Standalone;

pub fn url(standalone: &Standalone, path: &str) -> String {
    format!("http://{}/v1/namespaces/default/{path}", standalone.api)
}

pub async fn get(standalone: &Standalone, path: &str) -> (u16, Value) {
    answer(standalone.client.get(url(standalone, path))).await
}

pub async fn post(standalone: &Standalone, path: &str, body: &Value) -> (u16, Value) {
    answer(standalone.client.post(url(standalone, path)).json(body)).await
}

/// Returns the body of a GET that must succeed.
pub async fn get_ok(standalone: &Standalone, path: &str) -> Value {
    let (status, body) = get(standalone, path).await;
    assert_eq!(status, 200, "{path}: {body}");
    body
}

/// Returns the deliveries that fit the query, newest first.
pub async fn list_deliveries(standalone: &Standalone, query: &str) -> Vec<Value> {
    get_ok(standalone, &format!("deliveries?{query}")).await["items"].as_array().unwrap().clone()
}

/// Runs `hookstream deliveries`. Returns the exit code and the output.
pub async fn run(standalone: &Standalone, args: &[&str]) -> (i32, String) {
    run_command(standalone, "deliveries", args).await
}

/// Runs a command of `hookstream` that calls the API port. Returns the exit code and the output, without the line in which
/// a change names its target (`cli::profiles` tests that).
pub async fn run_command(standalone: &Standalone, group: &str, args: &[&str]) -> (i32, String) {
    let address = format!("http://{}", standalone.api);
    let (command, rest) = args.split_first().unwrap();
    let prefix = [group, command, "-n", "default", "--url", &address];
    let mut command = Process::command(prefix.iter().chain(rest), &[]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.code().unwrap(), text.replace(&format!("hookstream: target: {address}\n"), ""))
}
