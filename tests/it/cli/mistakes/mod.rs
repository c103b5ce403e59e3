//! Mistakes that people make: each answer is one line with cause and remedy, without Rust values.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;

use super::run_with;
use crate::harness::manifests::hook;
use crate::harness::standalone::Standalone;
use crate::harness::{Auth0, DEADLINE, Kong, Process, control_plane, free_port, watchdog};

/// How Rust shows values, and how libraries hide causes.
const RUST_VALUES: [&str; 12] = [
    "Status {",
    "OtherError(",
    "Millis(",
    "ServiceError",
    "Some(",
    "Err(",
    "Os {",
    "Error {",
    "Kind(",
    "Custom {",
    "Utf8Error",
    "ParseIntError",
];

/// Arguments, variables, the exit code, and parts of the message.
struct Mistake<'a> {
    args: Vec<&'a str>,
    envs: Vec<(&'a str, &'a str)>,
    code: i32,
    parts: Vec<String>,
}

fn mistake<'a>(args: &[&'a str], code: i32, parts: &[&str]) -> Mistake<'a> {
    Mistake {
        args: args.to_vec(),
        envs: Vec::new(),
        code,
        parts: parts.iter().map(|part| (*part).to_owned()).collect(),
    }
}

fn with_env<'a>(envs: &[(&'a str, &'a str)], mistake: Mistake<'a>) -> Mistake<'a> {
    Mistake { envs: envs.to_vec(), ..mistake }
}

/// Runs each row and fails with all wrong answers.
async fn check(mistakes: Vec<Mistake<'_>>) {
    let mut wrong = Vec::new();
    for Mistake { args, envs, code, parts } in mistakes {
        let envs: Vec<_> = [("KUBECONFIG", "/no/such/config")].into_iter().chain(envs).collect();
        let (exit_code, out, error) = run_with(&args, &envs).await;
        // `validate` prints its findings on standard output, below a header.
        let answer =
            if args[0] == "validate" { out.lines().skip(1).collect::<Vec<_>>().join("\n") } else { error };
        let status = ["400", "401", "403", "404", "500", "503"].into_iter().find(|status| {
            answer.matches(&format!(" {status} ")).count() + answer.matches(&format!("({status})")).count()
                > 1
        });
        let problem = match () {
            () if exit_code != code => format!("exits with {exit_code}, not {code}"),
            () if answer.trim_end().lines().count() != 1 => "is not one line".to_owned(),
            () if RUST_VALUES.iter().any(|value| answer.contains(value)) => "shows a Rust value".to_owned(),
            () if status.is_some() => "has the status twice".to_owned(),
            () => match parts.iter().find(|part| !answer.contains(part.as_str())) {
                Some(part) => format!("lacks {part:?}"),
                None => continue,
            },
        };
        wrong.push(format!("hookstream {}\n  {problem}: {answer}", args.join(" ")));
    }
    assert!(wrong.is_empty(), "{} wrong answers:\n{}", wrong.len(), wrong.join("\n"));
}

const HOOK: &str = "apiVersion: hookstream.dev/v1alpha1\nkind: EventHook\nmetadata: {name: a}\nspec:\n  source: s\n  handler: {log: {}}\n";

#[tokio::test(flavor = "multi_thread")]
async fn of_files_are_answered_in_one_line() {
    let folder = watchdog::unique_path("mistakes");
    std::fs::create_dir_all(&folder).unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(folder.join(name), text).unwrap();
        folder.join(name).display().to_string()
    };
    let spec = |name: &str, more: &str| write(name, &format!("{HOOK}  {more}\n"));
    let with = |from: &str, to: &str| HOOK.replace(from, to);
    let no_kind = write("kind.yaml", &with("kind: EventHook\n", ""));
    let kind = write("typo.yaml", &with("EventHook", "EventHok"));
    let group = write("group.yaml", &with("hookstream.dev", "hookstream.io"));
    let version = write("version.yaml", &with("v1alpha1", "v1"));
    let no_name = write("name.yaml", &with("{name: a}", "{}"));
    let helm = write("helm.yaml", &with("{name: a}", "{name: {{ .Values.name }}}"));
    let tab = write("tab.yaml", &with("  source", "\tsource"));
    let secret_number =
        write("number.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {k: 1}\n");
    let secret_plain =
        write("plain.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {k: plain text}\n");
    let days = spec("days.yaml", "delivery: {timeout: 1d}");
    let equals = spec("equals.yaml", "filter: data.x = 1");
    let and = spec("and.yaml", "filter: data.x == 1 & true");
    let name = spec("filter.yaml", "filter: payload.x == 1");
    let twice = spec("twice.yaml", "source: t");
    let field = spec("field.yaml", "snoose: {period: 1h}");
    let no_connection = spec("connection.yaml", "deliverBy: Worker");
    let lua = write("lua.yaml", &with("{log: {}}", "{lambda: {functions: ['return function ( end']}}"));
    let url = write("url.yaml", &with("{log: {}}", "{webhook: {url: example.com/x}}"));
    let event = write(
        "event.yaml",
        &with("source: s\n", "source: crud\n  event: consumer\n  connectionRef: {name: kong}\n"),
    );
    let crd = write(
        "source.yaml",
        &with("source: s\n", "source: rate-limiting-advance\n  connectionRef: {name: kong}\n"),
    );
    let missing = folder.join("nowhere.yaml").display().to_string();
    let text = write("notes.txt", "hello");
    let good = write("good.yaml", HOOK);
    let validate = |path| ["validate", path];

    check(vec![
        mistake(&validate(&no_kind), 1, &["kind.yaml:1:1", "is missing: write one of Connection, EventHook"]),
        mistake(
            &validate(&kind),
            1,
            &["typo.yaml:2:1", "there is no kind EventHok: did you mean EventHook?"],
        ),
        mistake(
            &validate(&group),
            1,
            &["group.yaml:1:1", "write apiVersion: hookstream.dev/v1alpha1 and kind: EventHook"],
        ),
        mistake(
            &validate(&version),
            1,
            &["version.yaml:1:1", "EventHook has no version hookstream.dev/v1; it has"],
        ),
        mistake(&validate(&no_name), 1, &["name.yaml:3:1", "metadata.name", "Required value"]),
        mistake(&validate(&helm), 1, &["helm.yaml:3:18", "a Helm template that was not rendered"]),
        mistake(&validate(&tab), 1, &["tab.yaml:5:"]),
        mistake(&validate(&secret_number), 1, &["number.yaml:4:14", "must be a string: put it into quotes"]),
        mistake(
            &validate(&secret_plain),
            1,
            &["plain.yaml:4:8", "is not base64: write plain text into stringData"],
        ),
        mistake(&validate(&days), 1, &["days.yaml:7:14", "must be a duration such as 15s"]),
        mistake(&validate(&equals), 1, &["equals.yaml:7:18", "a comparison is written =="]),
        mistake(&validate(&and), 1, &["and.yaml:7:23", "and is written &&"]),
        mistake(
            &validate(&name),
            1,
            &["filter.yaml:7:11", "unknown name payload: use source, event, data or attributes"],
        ),
        mistake(
            &validate(&field),
            1,
            &["field.yaml:7:3", "unknown field \"spec.snoose\": did you mean snooze?"],
        ),
        mistake(&validate(&no_connection), 1, &["connection.yaml:4:1", "connectionRef"]),
        mistake(&validate(&lua), 1, &["lua.yaml:6:"]),
        mistake(&validate(&url), 1, &["url.yaml:6:", "spec.handler.webhook.url"]),
        mistake(
            &["test", "-f", &helm, "--data", "{}"],
            2,
            &["helm.yaml: line 3, column 18: a Helm template that was not rendered"],
        ),
        mistake(
            &["test", "-f", &equals, "--data", "{}"],
            1,
            &["filter: line 1, column 8: a comparison is written =="],
        ),
        mistake(&["test", "-f", &good, "--data", "{]"], 2, &["--data is not JSON"]),
        mistake(
            &["test", "-f", &good, "--data", "@nowhere.json"],
            2,
            &["reading nowhere.json: No such file"],
        ),
        mistake(
            &["test", "-f", &text, "--data", "{}"],
            2,
            &["notes.txt: a document is no object: it needs apiVersion, kind and metadata"],
        ),
        mistake(&["diff", &missing], 2, &["nowhere.yaml: No such file"]),
    ])
    .await;
    // Warnings do not fail, and name line and column too.
    for (path, parts) in [
        (&twice, ["twice.yaml:7:3", "source occurs twice in one map: the last value counts"]),
        (&event, ["event.yaml:6:3", "the source crud has no event consumer: did you mean consumers?"]),
        (&crd, ["source.yaml:5:3", "did you mean rate-limiting-advanced?"]),
    ] {
        let (code, out, _) = run_with(&["validate", path], &[]).await;
        assert_eq!(code, 0, "{out}");
        assert!(parts.iter().all(|part| out.contains(part)), "{out}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_flags_and_addresses_are_answered_in_one_line() {
    let folder = watchdog::unique_path("mistakes");
    std::fs::create_dir_all(folder.join("data")).unwrap();
    let path = |name: &str| folder.join(name).display().to_string();
    let write = |name: &str, text: &str| {
        std::fs::write(folder.join(name), text).unwrap();
        path(name)
    };
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let (cert, key, ca) = (
        write("cert.pem", &certificate.pem()),
        write("key.pem", &key.serialize_pem()),
        write("ca.pem", &authority.pem()),
    );
    let (wrong, lines, empty) = (write("wrong", "wrong"), write("lines", "a\nb"), write("empty", ""));
    let good = write("good.yaml", HOOK);
    let (backup, nowhere) = (write("backup.db", ""), path("nowhere"));
    let kubeconfig = write(
        "kubeconfig",
        &json!({"apiVersion": "v1", "kind": "Config", "current-context": "dev",
            "contexts": [{"name": "dev", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
            "users": [{"name": "u", "user": {"token": "x"}}]})
        .to_string(),
    );
    let token = write("token", "the-token");
    let standalone = Standalone::start(&hook("a", "http://127.0.0.1:9/", json!({})), &[]).await;
    let guarded =
        Standalone::start(&hook("a", "http://127.0.0.1:9/", json!({})), &["--token-file", &token]).await;
    // Any server with TLS.
    let tls = Process::spawn(
        ["emulate", "kong", "--listen", "127.0.0.1:0", "--tls-cert", &cert, "--tls-key", &key],
        &[],
    );
    let https = tls.wait_for_line(|line| line.contains("listening on https://"), DEADLINE).await;
    let https = https.split(' ').next_back().unwrap().to_owned();
    let http = https.replace("https://", "http://");
    let kong = Kong::start(&["--token", "right"]).await;
    let auth0 = Auth0::start(&[]).await;
    let url = |address: &str| format!("http://{address}");
    let (ingest, api, ops) = (url(&standalone.listen), url(&standalone.api), url(&standalone.ops));
    let guarded_api = url(&guarded.api);
    let https_api = format!("https://{}", standalone.api);
    let unreachable = format!("http://127.0.0.1:{}", free_port());
    let kong_https = kong.url.replace("http://", "https://");
    let id = "01a201d0-e928-7748-a797-9272c188e8bd";
    let list = ["deliveries", "list", "-n", "default", "--url"];
    let to = |url| [&list[..], &[url]].concat();
    let send = ["send", "-n", "default", "--source", "s", "--event", "e", "--data", "{}", "--url"];
    let port_hint =
        "is this the right port of the worker? Events are published at 8080, deliveries are at 8082 (--url)";
    let cluster = [("KUBECONFIG", kubeconfig.as_str())];
    let down = "the API server https://127.0.0.1:1 (context dev) cannot be reached: Connection refused";

    check(vec![
        // Addresses.
        mistake(&to(&ingest), 2, &["no such path: publish events with POST", port_hint]),
        mistake(&to(&ops), 2, &["returned 404 Not Found", port_hint]),
        mistake(&[&send[..], &[&api]].concat(), 1, &["returned 405 Method Not Allowed", port_hint]),
        mistake(
            &to(&https_api),
            2,
            &["the server does not use TLS on this port: is it http instead of https?"],
        ),
        mistake(&to(&http), 2, &["does the port use TLS? Then write https://"]),
        mistake(
            &to(&https),
            2,
            &[
                "no trusted authority has signed it",
                "give a file with the certificate of its authority (PEM) with --ca-file",
            ],
        ),
        mistake(&to(&unreachable), 2, &["cannot be reached: Connection refused", "(--url)"]),
        mistake(&to("localhost:8082"), 2, &["must be an http or https URL, such as http://HOST:PORT"]),
        mistake(&to("http://no.such.host.invalid"), 2, &["failed to lookup address information"]),
        // Tokens and rights.
        mistake(
            &to(&guarded_api),
            2,
            &[
                "401 Unauthorized",
                "--token-file",
                "`kubectl create token SERVICEACCOUNT -n default --audience hookstream > token`",
            ],
        ),
        mistake(&[&to(&guarded_api)[..], &["--token-file", &wrong]].concat(), 2, &["kubectl create token"]),
        mistake(
            &[&to(&guarded_api)[..], &["--token-file", &lines]].concat(),
            2,
            &["contains no bearer token: it has blanks, line ends"],
        ),
        mistake(&[&to(&guarded_api)[..], &["--token-file", &empty]].concat(), 2, &["contains no token"]),
        mistake(
            &[&to(&guarded_api)[..], &["--token-file", &nowhere]].concat(),
            2,
            &["reading", "No such file"],
        ),
        // Ids.
        mistake(
            &["deliveries", "show", "-n", "default", "order-1"],
            2,
            &["is not the id of a delivery; of an event, `hookstream deliveries list --event order-1`"],
        ),
        mistake(&["deliveries", "replay", "-n", "default", "order-1"], 2, &["is not the id of a delivery"]),
        mistake(
            &["deliveries", "explain", "-n", "default", id, "--url", &api],
            2,
            &[
                "no event of this id",
                "`hookstream deliveries show -n default 01a201d0-e928-7748-a797-9272c188e8bd`",
            ],
        ),
        mistake(
            &["deliveries", "show", "-n", "default", id, "--url", &api],
            2,
            &[
                "there is no delivery",
                "if it is the id of an event, `hookstream deliveries explain -n default",
            ],
        ),
        mistake(
            &["deliveries", "explain", "-n", "default", "nope", "--url", &api],
            2,
            &["no event of this id was accepted in this namespace, or its history has expired"],
        ),
        mistake(
            &["ping", "-n", "default", "nope", "--url", &api],
            2,
            &["there is no hook nope in this namespace"],
        ),
        // Flags.
        mistake(&["deliveries", "list", "-n", "x", "--since", "1d"], 2, &["a day is 24h"]),
        mistake(&["receive", "--delay", "1d"], 2, &["must be a duration such as 15s", "a day is 24h"]),
        mistake(&["deliveries", "list", "-n", "x", "--state", "ded"], 2, &["a similar value exists: 'dead'"]),
        mistake(
            &["deliveries", "list", "-n", "x", "--limit", "0", "--url", &api],
            2,
            &["limit must be a number from 1 to 500"],
        ),
        mistake(
            &["deliveries", "list", "-n", "x", "--limit", "ten"],
            2,
            &["invalid value 'ten' for '--limit"],
        ),
        mistake(
            &["deliveries", "list", "-n", "Shop"],
            2,
            &["'Shop' is not a valid namespace name (--namespace)"],
        ),
        mistake(
            &["standalone", "--manifests", &good, "--data", "d", "--log-level", "inof"],
            2,
            &["did you mean info?"],
        ),
        mistake(&["emulate", "kong", "--listen", "9000"], 2, &["must be HOST:PORT or :PORT"]),
        with_env(
            &[("HOOKSTREAM_DELAY", "soon")],
            mistake(&["receive"], 2, &["(from the variable HOOKSTREAM_DELAY)"]),
        ),
        mistake(&["sources", "crd"], 2, &["crd is not in the catalogue", "did you mean crud?"]),
        mistake(&["sources", "crud", "consumer"], 2, &["did you mean consumers?"]),
        // Data folders and backups.
        mistake(
            &["store", "check", "--data", &nowhere],
            2,
            &["the folder does not exist: give the worker's data folder"],
        ),
        mistake(&["store", "check", "--data", &path("data")], 2, &["there is no hookstream.db in it"]),
        mistake(
            &["store", "backup", "--data", standalone.data.to_str().unwrap(), "--to", &backup],
            2,
            &["exists: name a new file"],
        ),
        mistake(
            &["store", "backup", "--data", standalone.data.to_str().unwrap(), "--to", "/no/such/x.db"],
            2,
            &["its folder does not exist: create it"],
        ),
        mistake(&["diff", &good, "--data", &nowhere], 2, &["give the data folder of standalone"]),
        // Vendors.
        mistake(
            &["import", "kong", "--admin-url", &kong.url, "--token-file", &wrong],
            2,
            &["rejected the token (401): check --token-file and --token-header"],
        ),
        mistake(
            &["import", "kong", "--admin-url", &kong.url],
            2,
            &["requires a token (401): give --token-file"],
        ),
        mistake(
            &["import", "kong", "--admin-url", &kong_https],
            2,
            &["the server does not use TLS on this port"],
        ),
        mistake(
            &["import", "auth0", "--domain", &auth0.domain, "--token-file", &wrong],
            2,
            &["rejected the credentials (401): check --token-file"],
        ),
        // Clusters.
        mistake(
            &["uninstall-check"],
            2,
            &["no cluster: /no/such/config: No such file", "set KUBECONFIG, or run inside a cluster"],
        ),
        with_env(&cluster, mistake(&["uninstall-check"], 2, &[down])),
        with_env(&cluster, mistake(&["deliveries", "list", "-n", "x", "--service"], 2, &[down])),
        with_env(
            &cluster,
            mistake(
                &["deliveries", "list", "-n", "x", "--service", "--service-account", "y"],
                2,
                &["ServiceAccount x/y", down],
            ),
        ),
        with_env(&cluster, mistake(&["release", "--all", "--log-level", "off"], 2, &[down])),
        with_env(
            &cluster,
            mistake(
                &["orphans", "--context", "prod"],
                2,
                &["--context prod: the kubeconfig has no such context; it has dev"],
            ),
        ),
        mistake(&["deliveries", "list", "-n", "x", "--service=a"], 2, &["must be NAMESPACE/NAME:PORT"]),
    ])
    .await;

    // The remedy for a private authority works.
    for (args, envs) in [
        (to(&https), &[("SSL_CERT_FILE", ca.as_str())][..]),
        ([&to(&https)[..], &["--ca-file", &ca]].concat(), &[]),
    ] {
        let (code, _, error) = run_with(&args, envs).await;
        assert_eq!(code, 2);
        assert!(error.contains("returned 404"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_rights_in_a_cluster_are_answered_in_one_line() {
    let namespace = control_plane().namespace("mistakes").await;
    let kubeconfig = namespace.service_account("no-rights", "[]").await;
    let kubeconfig = [("KUBECONFIG", kubeconfig.to_str().unwrap())];
    let user = format!("User \"system:serviceaccount:{}:no-rights\" cannot", namespace.name);
    let place = format!("in the namespace \"{}\"", namespace.name);
    let list = ["deliveries", "list", "-n", &namespace.name];
    let service = format!("--service={}/hookstream-api:api", namespace.name);
    let creator = namespace
        .service_account(
            "creator",
            "[{apiGroups: [''], resources: [serviceaccounts/token], verbs: [create]}]",
        )
        .await;
    let creator = [("KUBECONFIG", creator.to_str().unwrap())];
    check(vec![
        with_env(
            &kubeconfig,
            mistake(
                &[&list[..], &["--service", "--service-account", "no-rights"]].concat(),
                2,
                &[
                    &user,
                    "create resource \"serviceaccounts/token\"",
                    &place,
                    "ask for a Role with this right",
                ],
            ),
        ),
        with_env(
            &kubeconfig,
            mistake(
                &[&list[..], &[&service]].concat(),
                2,
                &[&user, "get resource \"services/proxy\"", &place, "ask for a Role with this right"],
            ),
        ),
        with_env(
            &creator,
            mistake(
                &[&list[..], &["--service", "--service-account", "nope"]].concat(),
                2,
                &["it does not exist: create it, or name another with --service-account"],
            ),
        ),
        with_env(
            &kubeconfig,
            mistake(&["uninstall-check"], 2, &["is forbidden", "ask for a Role with this right"]),
        ),
    ])
    .await;
}
