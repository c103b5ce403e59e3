//! The official CloudEvents SDKs of Go and Python through the worker: what one of them sends in structured, binary or batch
//! mode, both read unchanged from either CloudEvents format.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::manifests::{hook, merge, quick};
use crate::harness::standalone::{EVENTS, Standalone};
use crate::harness::{DEADLINE, Receiver, Recorded, Reply, run};

const SDKS: [&str; 2] = ["go", "python"];
const MODES: [&str; 3] = ["structured", "binary", "batch"];
const FORMATS: [&str; 2] = ["CloudEvents", "CloudEventsBinary"];

/// Returns the folder with the programs of `tests/cloudevents`. `None`: this machine lacks Go or Python.
fn programs() -> Option<PathBuf> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cloudevents/build.sh");
    let output = Command::new(script).stderr(Stdio::inherit()).output().expect(script);
    if output.status.code() == Some(2) {
        return None;
    }
    assert!(output.status.success(), "{script} failed; its output is above");
    let text = String::from_utf8(output.stdout).expect("a path");
    Some(text.lines().last().expect("a path").into())
}

/// The content type and data of each sample.
fn samples() -> [(&'static str, Option<&'static str>, Vec<u8>); 5] {
    let json = json!({"text": "grün \"x\"", "n": [1, 2.5, null]});
    [
        ("json", Some("application/json"), json.to_string().into_bytes()),
        ("text", Some("text/plain; charset=utf-8"), "grün \"x\"\n% \t".into()),
        ("xml", Some("application/xml"), "<?xml version=\"1.0\"?>\n<a b=\"c\">grün</a>".into()),
        ("bytes", Some("application/octet-stream"), (0..=255).collect()),
        ("none", None, Vec::new()),
    ]
}

/// Returns the requests as the input of an SDK's program.
fn recorded_lines(requests: &[Recorded]) -> String {
    let line = |request: &Recorded| {
        let headers: BTreeMap<&str, &str> =
            request.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        format!("{}\n", json!({"headers": headers, "body": STANDARD.encode(&request.body)}))
    };
    requests.iter().map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sdks_round_trip_every_content_type() {
    let Some(programs) = tokio::task::spawn_blocking(programs).await.unwrap() else {
        eprintln!("skipped: Go or Python is missing");
        return;
    };
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let manifest = |format: &&str| {
        let mut spec = quick();
        let (name, url) = (format.to_lowercase(), format!("{}/{format}", receiver.url()));
        merge(&mut spec, json!({"source": null, "handler": {"webhook": {"format": format}}}));
        SDKS.map(|sdk| {
            let mut spec = spec.clone();
            merge(&mut spec, json!({"source": format!("/sdk/{sdk}")}));
            hook(&format!("{name}-{sdk}"), &url, spec)
        })
        .concat()
    };
    let manifests: String = FORMATS.iter().map(manifest).collect();
    let standalone = Standalone::start(&manifests, &[]).await;
    for sdk in SDKS {
        let mut command = Command::new(programs.join(sdk));
        command.args(["send", &standalone.url(EVENTS)]);
        run(command, "").await.unwrap_or_else(|error| panic!("{sdk}: {error}"));
    }
    let samples = samples();
    let count = SDKS.len() * MODES.len() * samples.len() * FORMATS.len();
    let requests = receiver.wait_for(count, DEADLINE).await;
    for format in FORMATS {
        let of_format: Vec<Recorded> =
            requests.iter().filter(|request| request.path == format!("/{format}")).cloned().collect();
        for reader in SDKS {
            let mut command = Command::new(programs.join(reader));
            command.arg("read");
            let output = run(command, &recorded_lines(&of_format)).await;
            let output = output.unwrap_or_else(|error| panic!("{reader}: {error}"));
            let read: BTreeMap<String, Value> = output
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .map(|event: Value| (event["id"].as_str().unwrap().to_owned(), event))
                .collect();
            assert_eq!(read.len(), of_format.len());
            for (sender, mode) in SDKS.iter().flat_map(|sdk| MODES.map(|mode| (sdk, mode))) {
                for (name, content_type, want) in &samples {
                    let id = format!("{sender}-{mode}-{name}");
                    let what = format!("{id} in {format}, read by {reader}");
                    let event = &read[&id];
                    let data = STANDARD.decode(event["data"].as_str().unwrap_or_default()).unwrap();
                    match *name {
                        "json" => {
                            let values =
                                [&data, want].map(|json| serde_json::from_slice::<Value>(json).unwrap());
                            assert_eq!(values[0], values[1], "{what}");
                        }
                        _ => assert_eq!(&data, want, "{what}"),
                    }
                    let read_type = event["contentType"].as_str().filter(|text| !text.is_empty());
                    assert_eq!(read_type, *content_type, "{what}");
                }
            }
        }
    }
}
