//! docs/ci.md: the steps of its pipelines run as written, in a repository with hooks and against a real API server.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::pages::root;
use crate::harness::world::World;
use crate::harness::{Process, control_plane, run, tool, watchdog};

/// Returns the YAML of every fenced block.
fn yaml_blocks(text: &str) -> Vec<Value> {
    let mut parts = text.split("```yaml\n");
    parts.next();
    parts.map(|part| serde_saphyr::from_str(part.split("```").next().unwrap()).unwrap()).collect()
}

/// Runs a script in a shell as a runner does. Returns its output; an error if it fails.
async fn step(shell: &str, script: &str, folder: &Path, envs: &[(&str, &str)]) -> Result<String, String> {
    let mut command = Command::new(shell);
    // Both runners end a script at its first failing command.
    command.args(["-e", "-c", script]).current_dir(folder);
    let path = format!("{}:{}", folder.join("bin").display(), std::env::var("PATH").unwrap());
    command.env("PATH", path).env("HOME", folder).envs(envs.iter().copied());
    run(command, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelines_run_as_written() {
    let text = std::fs::read_to_string(root().join("docs/ci.md")).unwrap();
    let [role, github, gitlab]: [Value; 3] = yaml_blocks(&text).try_into().unwrap();
    let world = World::start("ci").await;
    let folder = watchdog::unique_path("ci");
    std::fs::create_dir_all(folder.join("hooks")).unwrap();
    std::fs::create_dir_all(folder.join("bin")).unwrap();
    let program = Process::command(["--help"], &[]).get_program().to_owned();
    std::os::unix::fs::symlink(program, folder.join("bin/hookstream")).unwrap();
    std::os::unix::fs::symlink(tool("kubectl"), folder.join("bin/kubectl")).unwrap();
    let write = |name: &str, content: &Value| {
        std::fs::write(folder.join("hooks").join(name), content.to_string()).unwrap()
    };
    let namespace = world.namespace.name.as_str();
    write(
        "kustomization.yaml",
        &json!({"namespace": namespace, "resources": ["connection.yaml", "orders.yaml"]}),
    );
    write("connection.yaml", &world.connection());
    write("orders.yaml", &world.hook("orders"));

    let user = world.namespace.service_account("reviewer", &role["rules"].to_string()).await;
    let summary = folder.join("summary.md");
    let envs = [
        ("KUBECONFIG", user.to_str().unwrap()),
        ("GITHUB_STEP_SUMMARY", summary.to_str().unwrap()),
        ("HOOKSTREAM_INGEST_URL", world.ingest.as_str()),
        ("POD_NAMESPACE", world.home.name.as_str()),
    ];
    let run_github = async |job: &str| {
        let mut outputs = String::new();
        for github_step in github["jobs"][job]["steps"].as_array().unwrap() {
            if let Some(script) = github_step["run"].as_str() {
                outputs.push_str(&step("bash", script, &folder, &envs).await?);
            }
        }
        Ok::<_, String>(outputs)
    };
    let run_gitlab = async |job: &str| {
        let lines: Vec<&str> =
            gitlab[job]["script"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
        // GitLab's runner uses bash with pipefail.
        step("bash", &format!("set -o pipefail\n{}", lines.join("\n")), &folder, &envs).await
    };

    let plan = "Plan: 1 to create, 0 to change, 0 to delete, 0 unchanged";
    run_github("validate").await.unwrap();
    run_github("diff").await.unwrap();
    let written = std::fs::read_to_string(&summary).unwrap();
    assert!(written.contains(plan) && written.contains("| create |"), "{written}");
    run_gitlab("validate").await.unwrap();
    let output = run_gitlab("diff").await.unwrap();
    assert!(output.contains(plan), "{output}");
    assert!(std::fs::read_to_string(folder.join("validate.xml")).unwrap().contains("<testsuite"));

    // A merge applies what was shown, and then nothing differs.
    let hooks = folder.join("hooks");
    control_plane().kubectl(["apply", "-k", hooks.to_str().unwrap()], "").await.unwrap();
    world.ready("eventhooks/orders").await;
    let output = run_gitlab("diff").await.unwrap();
    assert!(output.contains("Plan: 0 to create, 0 to change, 0 to delete, 1 unchanged"), "{output}");

    // Invalid manifests, and objects that cannot be compared, fail.
    write("orders.yaml", &world.hook_with("orders", json!({"filter": "data.operation = 'create'"})));
    run_github("validate").await.unwrap_err();
    run_gitlab("validate").await.unwrap_err();
    run_github("diff").await.unwrap_err();
    run_gitlab("diff").await.unwrap_err();
}
