//! Runs the program's own commands in the documents as written, against a worker and emulators on this machine.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use super::pages::{RunBy, commands, root};
use crate::harness::auth0::{CLIENT_ID, CLIENT_SECRET};
use crate::harness::http::answer;
use crate::harness::manifests::{hook, merge, quick};
use crate::harness::standalone::Standalone;
use crate::harness::{Auth0, DEADLINE, Kong, Process, Receiver, Reply, eventually, free_port, run, watchdog};

/// The documents whose unmarked commands run here.
pub const DOCUMENTS: [&str; 12] = [
    "docs/api.md",
    "docs/auth0.md",
    "docs/command-line.md",
    "docs/deliveries.md",
    "docs/emulators.md",
    "docs/kong.md",
    "docs/metrics.md",
    "docs/operations.md",
    "docs/preview.md",
    "docs/restore.md",
    "docs/standalone.md",
    "docs/try-a-hook.md",
];

/// The delivery in the documents.
const DOCUMENTED_DELIVERY: &str = "01a201fe-c27f-77cb-8f52-9d58b4decf08";

/// The id of a lost installation.
const FORMER_ID: &str = "3f1c2b6e-5d0a-4c8e-9a53-0f6d2a8b7c11";

/// A user's machine: a folder with files of the documents' names, and the program on the path.
struct Workstation {
    folder: PathBuf,
    standalone: Standalone,
    kong: Kong,
    auth0: Auth0,
    delivery: String,
}

impl Workstation {
    async fn new(receiver: &Receiver) -> Workstation {
        let snoozed = json!({"source": "balancer", "snooze": {"period": "1h"}, "groupBy": ["host"]});
        let mut orders = quick();
        merge(&mut orders, json!({"source": "shop"}));
        let of_shop = |text: &str| text.replace(r#""name":"#, r#""namespace":"shop","name":"#);
        let url = receiver.url();
        let (orders, health) =
            (hook("orders", &format!("{url}/orders"), orders), hook("health", &url, snoozed));
        let manifests = format!("{orders}{health}{}", of_shop(&orders));
        let standalone = Standalone::start(&manifests, &[]).await;
        for (id, source) in [("order-1", "shop"), ("h-1", "balancer"), ("h-2", "balancer")] {
            let event = json!({"id": id, "source": source, "event": "order.created", "data": {"order": 1, "host": "a"}});
            standalone.publish_accepted(&event).await;
        }
        let list = format!("http://{}/v1/namespaces/default/deliveries?event=order-1", standalone.api);
        let delivery = eventually(DEADLINE, "a dead letter", async || {
            let (_, list) = answer(standalone.client.get(&list)).await;
            let one = &list["items"][0];
            if one["state"] == "dead" {
                Ok(one["id"].as_str().unwrap().to_owned())
            } else {
                Err(list.to_string())
            }
        })
        .await;

        let folder = watchdog::unique_path("workstation");
        for name in ["bin", "backup", "manifests", "hooks", ".local/bin"] {
            std::fs::create_dir_all(folder.join(name)).unwrap();
        }
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_hookstream"), folder.join("bin/hookstream")).unwrap();
        std::os::unix::fs::symlink(root().join("deploy"), folder.join("deploy")).unwrap();
        let (kong, auth0) = (Kong::start(&[]).await, Auth0::start(&[]).await);
        let signed = json!({"handler": {"webhook": {"signature": {"secretRef": {"name": "signing", "key": "secret"}}}}});
        let connection = json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "Connection", "metadata": {"name": "kong"},
            "spec": {"kong": {"adminUrl": kong.url}}});
        for (name, text) in [
            ("hook.yaml", hook("h", &receiver.url(), signed)),
            ("secrets.yaml", crate::harness::manifests::secret("signing", json!({"secret": "s3cret"}))),
            ("consumer.json", r#"{"entity": {"id": "1"}, "operation": "create"}"#.to_owned()),
            ("token", "the-token-of-the-test".to_owned()),
            ("secret", CLIENT_SECRET.to_owned()),
            ("manifests/connection.yaml", connection.to_string()),
            ("hooks/connection.yaml", connection.to_string()),
            ("events.jsonl", events_of_a_file()),
        ] {
            std::fs::write(folder.join(name), text).unwrap();
        }
        Workstation { folder, standalone, kong, auth0, delivery }
    }

    /// Replaces values that exist only in the documents.
    fn with_local_values(&self, command: &str) -> String {
        let (data, backup) = (self.standalone.data.display().to_string(), self.folder.join("backup"));
        [
            (DOCUMENTED_DELIVERY, self.delivery.as_str()),
            ("/var/lib/hookstream", &data),
            ("/backup", backup.to_str().unwrap()),
            ("https://kong-admin:8444", &self.kong.url),
            ("acme.eu.auth0.com", &self.auth0.domain),
            ("--client-id ID", &format!("--client-id {CLIENT_ID}")),
        ]
        .iter()
        .fold(command.to_owned(), |command, (from, to)| command.replace(from, to))
        // Only of curl: other commands have their addresses in variables.
        .replace("curl http://127.0.0.1:8080", &format!("curl -sS http://{}", self.standalone.listen))
    }

    /// Runs a command. Returns its output, with the exit code at the end.
    async fn run(&self, command: &str) -> String {
        let mut bash = Command::new("bash");
        let path = format!("{}:{}", self.folder.join("bin").display(), std::env::var("PATH").unwrap());
        let script = format!("exec 2>&1\n{command}\necho \"exit code $?\"");
        bash.args(["-c", &script]).current_dir(&self.folder).env("PATH", path).env("HOME", &self.folder);
        bash.env("ADMIN", &self.kong.url).env("HOOKSTREAM_URL", format!("http://{}", self.standalone.listen));
        bash.env("HOOKSTREAM_API_URL", format!("http://{}", self.standalone.api));
        run(bash, "").await.unwrap()
    }

    /// Starts a server on local ports, and stops it. If it exports traces, waits for one first.
    async fn check_server(&self, command: &str) {
        let collector = Receiver::start(|_, _| Reply::status(200));
        let command = command.split('#').next().unwrap();
        let command = command.replace("http://127.0.0.1:4318", &collector.url());
        let command = command.replace("FORMER-ID", FORMER_ID);
        let port = || format!("127.0.0.1:{}", free_port());
        let mut args: Vec<String> = command.split_whitespace().skip(1).map(ToOwned::to_owned).collect();
        let listen = port();
        args.extend(["--listen".to_owned(), listen.clone()]);
        if args[0] == "standalone" {
            args.extend(["--api-listen".to_owned(), port(), "--ops-listen".to_owned(), port()]);
            let data = self.folder.join("data").display().to_string();
            match args.iter().position(|arg| arg == "--data") {
                Some(at) => args[at + 1] = data,
                None => args.extend(["--data".to_owned(), data]),
            }
            let at = args.iter().position(|arg| arg == "--manifests").unwrap() + 1;
            args[at] = self.folder.join(&args[at]).display().to_string();
        }
        let process = Process::spawn(&args, &[]);
        process.wait_for_line(|line| line.contains("listening"), DEADLINE).await;
        if command.contains("--otlp-endpoint") {
            let publish =
                self.standalone.client.post(format!("http://{listen}/v1/namespaces/default/events"));
            let (status, answer) =
                answer(publish.json(&json!({"source": "s", "event": "e", "data": {}}))).await;
            assert_eq!(status, 202, "{answer}");
            let exported = collector.wait_for(1, DEADLINE).await;
            assert_eq!(exported[0].path, "/v1/traces");
        }
        assert!(process.terminate().await.success(), "{command}");
    }
}

/// Returns the file that docs/command-line.md sends: its seventh event has the id of the sixth.
fn events_of_a_file() -> String {
    let ids = (1..=6).chain([6, 8]);
    let event =
        |id| json!({"id": format!("order-{id}"), "source": "shop", "event": "order.created", "data": {}});
    ids.map(|id| format!("{}\n", event(id))).collect()
}

/// Returns texts that a command's output must have, and its allowed exit codes if not 0.
fn expected(command: &str) -> (&'static [&'static str], &'static [u8]) {
    match command {
        c if c.contains("$ADMIN/event-hooks") => (&[r#""source":"crud""#], &[0]),
        c if c.starts_with("curl") => (&[r#""deliveries":"#], &[0]),
        c if c.contains("--file events.jsonl") => {
            (&["line 7: order-6 is a duplicate: nothing was stored", "8 sent: "], &[0])
        }
        c if c.contains("explain -n default order-1") => (&["terminalStatuses", "REASON NOT MATCHED"], &[0]),
        c if c.contains("explain -n default h-2") => (&["dropped: snoozed"], &[0]),
        c if c.contains("deliveries list") => (&["TerminalStatus", "Snoozed"], &[0]),
        // Dead before the replay, delivered after it.
        c if c.contains("--payload") => (&["TerminalStatus", r#""order""#], &[1]),
        c if c.contains("deliveries show") => (&["delivered", "422", "200"], &[0]),
        c if c.contains("deliveries replay") && c.contains("--dry-run") => {
            (&["1 delivery would be replayed"], &[0])
        }
        c if c.contains("replay") => (&["1 replayed", "done"], &[0]),
        c if c.contains("store check") => (&["sound"], &[0]),
        c if c.contains("store backup") => (&["checked"], &[0]),
        // 1: a gateway has a hook that no manifest describes.
        c if c.contains("diff") || c.contains("orphans") => (&[], &[0, 1]),
        c if c.contains("sources crud consumers") => (&["operation"], &[0]),
        _ => (&[], &[0]),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn documented_commands_work_as_written() {
    // The receiver rejects the first order and accepts later ones.
    let has_rejected = AtomicBool::new(false);
    let receiver = Receiver::start(move |request, _| {
        let is_first_order = request.path == "/orders" && !has_rejected.swap(true, Ordering::SeqCst);
        Reply::status(if is_first_order { 422 } else { 200 })
    });
    let workstation = Workstation::new(&receiver).await;
    for document in DOCUMENTS {
        let commands = commands(document, RunBy::Document);
        assert!(!commands.is_empty(), "{document} has no commands: remove it from the list");
        for command in commands {
            if command.starts_with("hookstream emulate") || command.starts_with("hookstream standalone") {
                workstation.check_server(&command).await;
                continue;
            }
            let (texts, codes) = expected(&command);
            let typed = workstation.with_local_values(&command);
            // A replay is accepted before its delivery ends, so the output is polled.
            eventually(DEADLINE, &format!("{document}: {command}"), async || {
                let output = workstation.run(&typed).await;
                let has_exit_code = codes.iter().any(|code| output.ends_with(&format!("exit code {code}\n")));
                if has_exit_code && texts.iter().all(|text| output.contains(text)) {
                    Ok(())
                } else {
                    Err(output)
                }
            })
            .await;
        }
    }
}
