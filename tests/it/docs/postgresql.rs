//! Runs the commands that need a database as written, on a PostgreSQL server of their own.

use std::process::Command;

use super::pages::{RunBy, commands, root};
use crate::harness::manifests::{event, hook, quick};
use crate::harness::postgres::{PostgresServer, PostgresServerOptions};
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Process, Receiver, Reply, free_port, run, watchdog};

pub const DOCUMENTS: [&str; 2] = ["docs/postgresql.md", "docs/standalone.md"];

/// The database in the documents.
const DATABASE: &str = "hookstream";
/// The password of every role.
const PASSWORD: &str = "s3cret-password";

/// Returns the statements that prepare the database, from the document.
fn preparation() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("docs/postgresql.md")).unwrap();
    let block = text.split("```sql\n").nth(1).expect("a block").split("```").next().unwrap();
    let statements =
        block.lines().map(|line| line.replace("PASSWORD '...'", &format!("PASSWORD '{PASSWORD}'")));
    statements.collect()
}

/// Makes the database empty, with this owner.
fn recreate_database(server: &PostgresServer, owner: &str) {
    for sql in [
        format!("DROP DATABASE {DATABASE} WITH (FORCE)"),
        format!("CREATE DATABASE {DATABASE} OWNER {owner} ENCODING 'UTF8' TEMPLATE template0"),
    ] {
        server.sql("postgres", &sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_with_a_database_work_as_written() {
    let options = PostgresServerOptions {
        durable: true,
        hba: Some("host all all 127.0.0.1/32 scram-sha-256"),
        ..Default::default()
    };
    let server = PostgresServer::start(options).unwrap_or_else(|error| panic!("{error}"));
    for sql in preparation().into_iter().chain([format!("CREATE ROLE owner LOGIN PASSWORD '{PASSWORD}'")]) {
        server.sql("postgres", &sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    // A stopped standalone with one event.
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let manifests = hook("h", &receiver.url(), quick());
    let stopped = Standalone::prepare(&manifests, &[]);
    let process = stopped.spawn();
    process.wait_for_line(|line| line.contains("ingest listening"), DEADLINE).await;
    stopped.publish_accepted(&event("e")).await;
    receiver.wait_for(1, DEADLINE).await;
    process.terminate().await;

    let folder = watchdog::unique_path("postgresql");
    std::fs::create_dir_all(folder.join("bin")).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_hookstream"), folder.join("bin/hookstream")).unwrap();
    for (name, text) in
        [("password", PASSWORD), ("owner-password", PASSWORD), ("token", "the-token-of-the-test")]
    {
        std::fs::write(folder.join(name), text).unwrap();
    }
    for document in DOCUMENTS {
        let commands = commands(document, RunBy::Postgresql);
        assert!(!commands.is_empty(), "{document} has no such command: remove it from the list");
        for command in commands {
            let role = if command.contains("//owner@") { "owner" } else { "hookstream" };
            recreate_database(&server, role);
            let listen = format!("127.0.0.1:{}", free_port());
            let local = [
                ("@db.example/", format!("@127.0.0.1:{}/", server.port())),
                ("/var/lib/hookstream", stopped.data.display().to_string()),
                ("/etc/hookstream", stopped.manifests.display().to_string()),
                ("0.0.0.0:8080", listen.clone()),
            ]
            .iter()
            .fold(command.clone(), |command, (from, to)| command.replace(from, to));
            if local.starts_with("hookstream standalone") {
                check_standalone(&local, &folder).await;
                continue;
            }
            let mut bash = Command::new("bash");
            let path = format!("{}:{}", folder.join("bin").display(), std::env::var("PATH").unwrap());
            bash.args(["-ec", &local]).current_dir(&folder).env("PATH", path).env("HOME", &folder);
            let output = run(bash, "").await.unwrap_or_else(|error| panic!("{document}: {local}: {error}"));
            let expected =
                if local.contains("migrate") { "migrations applied" } else { "all counts are equal" };
            assert!(output.contains(expected), "{document}: {local}: {output}");
        }
    }
}

/// Starts the command, with local ports beside its own, until it leads.
async fn check_standalone(command: &str, folder: &std::path::Path) {
    let words = command.replace("\\\n", " ");
    let mut args: Vec<String> = words.split_whitespace().skip(1).map(ToOwned::to_owned).collect();
    for flag in ["--api-listen", "--ops-listen"] {
        args.extend([flag.to_owned(), format!("127.0.0.1:{}", free_port())]);
    }
    let mut command = Process::command(args, &[]);
    command.current_dir(folder);
    let process = Process::start(command);
    process.wait_for_line(|line| line.contains("this process leads"), DEADLINE).await;
    assert!(process.terminate().await.success());
}
