//! Mistakes in flags, variables, addresses, tokens and ids.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;

use super::{HOOK, check, mistake, run_with, with_env};
use crate::harness::manifests::hook;
use crate::harness::standalone::Standalone;
use crate::harness::{Auth0, DEADLINE, Kong, Process, free_port, watchdog};

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
        // A warning: the command works.
        with_env(
            &[("HOOKSTREAM_OUPUT", "json")],
            mistake(
                &["sources", "crud"],
                0,
                &["no flag reads the variable HOOKSTREAM_OUPUT: did you mean HOOKSTREAM_OUTPUT?"],
            ),
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
