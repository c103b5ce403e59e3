//! The commands in the documents.

use super::pages::{Block, RunBy, blocks, commands, documents, root};
use super::shell::Shell;
use super::{operations, postgresql, quickstart, typed};
use crate::harness::{ControlPlane, Process};

/// Documents whose unmarked commands run in a cluster: in this file and in `quickstart`.
const IN_A_CLUSTER: [&str; 2] = ["docs/install.md", "docs/quickstart.md"];

/// By kubectl, and then by Helm on the same objects; and by Helm alone, on a cluster of its own.
#[tokio::test(flavor = "multi_thread")]
async fn install_commands_work_as_written() {
    let commands = commands("docs/install.md", RunBy::Document);
    let (by_helm, by_kubectl): (Vec<_>, Vec<_>) = commands
        .iter()
        .partition(|command| command.starts_with("helm") && !command.contains("--take-ownership"));
    assert_eq!((by_helm.len(), by_kubectl.len()), (2, 4), "{commands:?}");
    for (commands, image) in
        [(by_helm, "registry.example.com/hookstream:0.1.0"), (by_kubectl, "hookstream:0.1.0")]
    {
        let cluster = ControlPlane::bare().await.unwrap();
        let shell = Shell::new("install", cluster.admin_kubeconfig());
        for command in commands {
            let output = shell.expect(command).await;
            assert!(
                !command.starts_with("helm") || output.contains("STATUS: deployed"),
                "{command}: {output}"
            );
        }
        let get = "kubectl -n hookstream-system get statefulset hookstream-worker -o jsonpath={..image}";
        assert_eq!(shell.expect(get).await, image);
    }
}

/// A test runs every command, or its block is marked as not run; the program accepts the flags of marked commands.
#[test]
fn every_command_runs_or_is_marked() {
    for (path, text) in documents() {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap();
        for block in blocks(&text) {
            let is_run = match block.run_by {
                RunBy::Document => IN_A_CLUSTER.contains(&name) || typed::DOCUMENTS.contains(&name),
                RunBy::Quickstart => quickstart::DOCUMENTS.contains(&name),
                RunBy::Operations => operations::DOCUMENTS.contains(&name),
                RunBy::Postgresql => postgresql::DOCUMENTS.contains(&name),
                RunBy::Release => name == "docs/release.md",
                RunBy::Other => is_run_in(block.info.trim_start_matches("as-in "), &block.commands),
                RunBy::None => true,
            };
            assert!(
                is_run,
                "{name}: no test runs {:?}: mark its block as ```console not-run: REASON",
                block.commands
            );
            for command in &block.commands {
                // The program's own arguments, without redirections and comments.
                let command = command.split(" > ").next().unwrap();
                if let Some(args) = command.strip_prefix("hookstream ") {
                    assert_program_parses(name, args.split(" # ").next().unwrap());
                }
            }
        }
    }
}

/// Returns true if a test runs all of these commands in another document.
fn is_run_in(document: &str, commands: &[String]) -> bool {
    let text = std::fs::read_to_string(root().join(document)).unwrap_or_else(|e| panic!("{document}: {e}"));
    let run = |block: &Block| !matches!(block.run_by, RunBy::None | RunBy::Other);
    let all: Vec<String> = blocks(&text).into_iter().filter(run).flat_map(|block| block.commands).collect();
    commands.iter().all(|command| all.contains(command))
}

fn assert_program_parses(document: &str, args: &str) {
    // Bash splits the arguments as a reader's shell would. With --help at the end, the program only parses its flags.
    let script = format!("printf '%s\\n' {}", args.replace('\n', " ").replace('\\', ""));
    let output = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
    let split = String::from_utf8(output.stdout).unwrap();
    let args: Vec<&str> = split.lines().chain(["--help"]).collect();
    let output = Process::command(&args, &[]).output().unwrap();
    assert!(
        output.status.success(),
        "{document}: hookstream {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn links_exist() {
    for (path, text) in documents() {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap();
            if file.is_empty() || file.contains("://") || file.contains(' ') {
                continue;
            }
            let target = path.parent().unwrap().join(file);
            assert!(target.exists(), "{}: {link} does not exist", path.display());
        }
    }
}
