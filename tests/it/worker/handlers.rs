//! The four handlers, from manifest to request, with the shipped samples.

use serde_json::{Value, json};

use crate::harness::deliveries::list_deliveries;
use crate::harness::manifests::{manifest, merge, quick, secret};
use crate::harness::metrics::{DEAD, DELIVERED, FINISHED};
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Receiver, Recorded, Reply, eventually};

/// A long limit of scripts, so that only an endless one reaches it on a busy machine.
const LONG_SCRIPTS: &[&str] = &["--script-timeout", "10s"];

/// Returns a hook of the source `name` with this handler.
fn hook(name: &str, handler: Value) -> String {
    let mut spec = quick();
    merge(&mut spec, json!({"source": name, "handler": handler}));
    manifest("hookstream.dev/v1alpha1", "EventHook", name, json!({"spec": spec}))
}

fn event(source: &str, data: Value) -> Value {
    json!({"source": source, "event": "consumers", "data": data})
}

fn custom(url: &str, more: Value) -> Value {
    let mut custom = json!({"url": url});
    merge(&mut custom, more);
    json!({"webhookCustom": custom})
}

/// A case of `webhookCustom` and the expected request.
struct Case {
    name: &'static str,
    spec: Value,
    method: &'static str,
    content_type: &'static str,
    body: &'static str,
}

fn cases() -> Vec<Case> {
    let case = |name, spec, method, content_type, body| Case { name, spec, method, content_type, body };
    vec![
        case(
            "json",
            json!({"payload": {"a": "{{ user }}", "n": 1, "deep": {"{{ key }}": ["{* user *}", true, null]}}}),
            "POST",
            "application/json",
            r#"{"a":"A &amp; B","deep":{"{{ key }}":["A & B",true,null]},"n":1}"#,
        ),
        case(
            "raw-payload",
            json!({"payload": {"a": "{{ user }}"}, "payloadFormat": "Raw", "method": "PUT"}),
            "PUT",
            "application/json",
            r#"{"a":"{{ user }}"}"#,
        ),
        case(
            "form",
            json!({"payload": {"a": "{* user *}", "t": ["1", "2"], "d": {"e": 5}},
                "headers": {"content-type": "application/x-www-form-urlencoded"}}),
            "POST",
            "application/x-www-form-urlencoded",
            "a=A+%26+B&d.e=5&t=1&t=2",
        ),
        case(
            "body",
            json!({"body": "{\"text\": {* json(user) *}}", "headers": {"content-type": "application/vnd.x+json"}}),
            "POST",
            "application/vnd.x+json",
            r#"{"text": "A & B"}"#,
        ),
        case(
            "code",
            json!({"body": "{% for i = 1, 3 do %}{{ i }}{% end %} {{ source }}/{{ event }} {{ context.user:lower() }}", "method": "PATCH"}),
            "PATCH",
            "",
            "123 code/consumers a &amp; b",
        ),
        case("raw-body", json!({"body": "{{ user }}", "bodyFormat": "Raw"}), "POST", "", "{{ user }}"),
        case("nothing", json!({"method": "DELETE"}), "DELETE", "", ""),
        case("get", json!({"method": "GET"}), "GET", "", ""),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn webhook_custom_builds_requests() {
    let receiver = Receiver::start(|_, _| Reply::status(204));
    let url = |name: &str| format!("{}/{name}", receiver.url());
    let cases = cases();
    let mut manifests: String =
        cases.iter().map(|case| hook(case.name, custom(&url(case.name), case.spec.clone()))).collect();
    let headers = json!({"headersFormat": "Template", "headers": {"x-user": "{* user *}", "x-raw": "{{ source }}"},
        "headersFrom": [{"name": "authorization", "secretRef": {"name": "keys", "key": "token"}}],
        "signature": {"secretRef": {"name": "keys", "key": "signing"}}, "body": "hello"});
    manifests += &hook("headers", custom(&url("headers"), headers));
    manifests += &secret("keys", json!({"token": "Bearer s3cr3t-token", "signing": "s3cr3t"}));
    let standalone = Standalone::start(&manifests, &[]).await;
    let data = json!({"user": "A & B"});
    for case in &cases {
        standalone.publish_accepted(&event(case.name, data.clone())).await;
    }
    standalone.publish_accepted(&event("headers", data)).await;
    let requests = receiver.wait_for(cases.len() + 1, DEADLINE).await;
    let request_to =
        |name: &str| -> &Recorded { requests.iter().find(|r| r.path == format!("/{name}")).unwrap() };
    for case in &cases {
        let request = request_to(case.name);
        assert_eq!(request.method, case.method, "{}", case.name);
        assert_eq!(request.header("content-type"), case.content_type, "{}", case.name);
        assert_eq!(String::from_utf8_lossy(&request.body), case.body, "{}", case.name);
        assert!(!request.header("webhook-id").is_empty());
    }
    let request = request_to("headers");
    assert_eq!(
        (request.header("x-user"), request.header("x-raw"), request.header("authorization")),
        ("A & B", "headers", "Bearer s3cr3t-token")
    );
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"s3cr3t");
    let signature = hex::encode(ring::hmac::sign(&key, b"hello"));
    assert_eq!(request.header("x-kong-signature"), format!("sha256={signature}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn unsendable_request_is_dead() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let headers = json!({"headersFormat": "Template", "headers": {"x-user": "{* user *}"}});
    let standalone = Standalone::start(&hook("split", custom(&receiver.url(), headers)), &[]).await;
    standalone.publish_accepted(&event("split", json!({"user": "a\r\nx-admin: true"}))).await;
    standalone.wait_for_count(FINISHED, &[DEAD, "HeaderRefused"], 1).await;
    let dead = list_deliveries(&standalone, "state=dead").await;
    assert!(dead[0]["attempts"][0]["detail"].as_str().unwrap().contains("x-user"), "{dead:?}");
    assert_eq!(receiver.requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_template_is_retried_with_detail() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let body = json!({"body": "line one\n{% error('no ' .. user) %}"});
    let mut spec = json!({"source": "t", "handler": custom(&receiver.url(), body)});
    merge(&mut spec, json!({"delivery": {"retry": {"initialBackoff": "100ms", "maxAttempts": 2}}}));
    let text = manifest("hookstream.dev/v1alpha1", "EventHook", "t", json!({"spec": spec}));
    let standalone = Standalone::start(&text, LONG_SCRIPTS).await;
    standalone.publish_accepted(&event("t", json!({"user": "luck"}))).await;
    standalone.wait_for_count(FINISHED, &[DEAD, "MaxAttempts"], 1).await;
    let dead = list_deliveries(&standalone, "state=dead").await;
    let attempts = dead[0]["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2);
    assert_eq!(attempts[0]["error"], "ScriptFailed");
    let detail = attempts[0]["detail"].as_str().unwrap();
    assert!(detail.contains("no luck") && detail.contains('2'), "{detail}");
    assert_eq!(receiver.requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn log_writes_one_line() {
    let standalone = Standalone::start(&hook("l", json!({"log": {}})), &[]).await;
    standalone.publish_accepted(&event("l", json!({"user": "line\nend"}))).await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
    let line = standalone.process().wait_for_line(|line| line.contains("log callback"), DEADLINE).await;
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["level"], "NOTICE");
    assert_eq!((&line["source"], &line["event"]), (&json!("l"), &json!("consumers")));
    assert_eq!(line["data"], json!({"user": "line\nend"}));
    assert_eq!(line["pid"], standalone.process().pid());
}

/// Returns a lambda handler.
fn lambda(functions: &[&str]) -> Value {
    json!({ "lambda": { "functions": functions } })
}

#[tokio::test(flavor = "multi_thread")]
async fn lambda_delivers_by_returning_true() {
    let cases = [
        ("yes", "return function () return true end", None),
        (
            "args",
            "return function (d, e, s, p) return d.user == 'A' and e == 'consumers' and s == 'args' and p > 0 end",
            None,
        ),
        ("one", "return function () return 1 end", Some("it returned 1")),
        ("nil", "return function () end", Some("it returned nothing")),
        ("no", "return function () return false end", Some("it returned false")),
        ("error", "return function (data)\n error('no ' .. data.user)\nend", Some("no A")),
        ("index", "return function (data) return data.x.y end", Some("x")),
        ("loop", "return function () while true do end end", Some("longer")),
    ];
    let manifests: String = cases.iter().map(|(name, text, _)| hook(name, lambda(&[text]))).collect();
    let standalone = Standalone::start(&manifests, LONG_SCRIPTS).await;
    for (name, ..) in &cases {
        standalone.publish_accepted(&event(name, json!({"user": "A"}))).await;
    }
    for (name, _, error) in &cases {
        let delivery = eventually(DEADLINE, &format!("an attempt of {name}"), async || {
            let deliveries = list_deliveries(&standalone, &format!("hook={name}")).await;
            if deliveries[0]["attempts"][0].is_object() {
                Ok(deliveries[0].clone())
            } else {
                Err(format!("{deliveries:?}"))
            }
        })
        .await;
        match error {
            None => assert_eq!(delivery["state"], "delivered", "{name}: {delivery}"),
            Some(part) => {
                assert_eq!(delivery["state"], "pending", "{name}: {delivery}");
                let detail = delivery["attempts"][0]["detail"].as_str().unwrap();
                assert!(detail.contains(part), "{name}: {detail}");
            }
        }
    }
}

/// A function that delivered does not run again, neither in the next attempt nor after a crash.
#[tokio::test(flavor = "multi_thread")]
async fn function_that_delivered_does_not_run_again() {
    // The worker's log has the output of `ngx.log`, so the test can count the runs.
    let first = "return function (data) ngx.log(ngx.WARN, 'first ran ', data.id) return true end";
    let broken = "return function (data) error('second ran ' .. data.id) end";
    let fixed = "return function (data) ngx.log(ngx.WARN, 'second ran ', data.id) return true end";
    let mut spec = json!({"source": "two", "handler": lambda(&[first, broken]),
        "delivery": {"retry": {"initialBackoff": "300ms", "maxBackoff": "300ms"}}});
    let text = |spec: &Value| manifest("hookstream.dev/v1alpha1", "EventHook", "two", json!({"spec": spec}));
    let mut standalone = Standalone::start(&text(&spec), LONG_SCRIPTS).await;
    standalone.publish_accepted(&event("two", json!({"id": "x"}))).await;
    eventually(DEADLINE, "two attempts", async || {
        let deliveries = list_deliveries(&standalone, "").await;
        let attempts = deliveries[0]["attempts"].as_array().unwrap().len();
        if attempts >= 2 { Ok(()) } else { Err(format!("{deliveries:?}")) }
    })
    .await;
    let runs = |log: &str| log.matches("first ran x").count();
    assert_eq!(runs(&standalone.process().log()), 1, "{}", standalone.process().log());

    standalone.process().kill9();
    merge(&mut spec, json!({"handler": lambda(&[first, fixed])}));
    standalone.write("all.yaml", &text(&spec));
    standalone.restart().await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
    assert_eq!(runs(&standalone.process().log()), 0, "the function delivered before the restart");

    // A replay of a delivered delivery runs all functions again.
    let id = list_deliveries(&standalone, "").await[0]["id"].as_str().unwrap().to_owned();
    let (code, printed) = crate::harness::deliveries::run(&standalone, &["replay", &id]).await;
    assert_eq!(code, 0, "{printed}");
    standalone.wait_for_count(FINISHED, &[DELIVERED], 2).await;
    assert_eq!(runs(&standalone.process().log()), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_lambda_affects_no_other_hook() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let bad =
        hook("bad", lambda(&["return function ( end"])).replace("\"source\":\"bad\"", "\"source\":\"s\"");
    let good = hook("good", custom(&receiver.url(), json!({"body": "{{ user }}"})))
        .replace("\"source\":\"good\"", "\"source\":\"s\"");
    let standalone = Standalone::start(&format!("{bad}{good}"), &[]).await;
    standalone.publish_accepted(&event("s", json!({"user": "A"}))).await;
    receiver.wait_for(1, DEADLINE).await;
    standalone.process().wait_for_line(|line| line.contains("InvalidLambda"), DEADLINE).await;
    standalone
        .assert_stays("the delivery is pending", async || {
            list_deliveries(&standalone, "hook=bad").await[0]["state"] == "pending"
        })
        .await;
}

/// Runs the samples unchanged except for their address.
#[tokio::test(flavor = "multi_thread")]
async fn samples_match_kong_documentation() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let read = |name: &str| {
        let path = format!("{}/deploy/samples/eventhook-{name}.yaml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        text.replace("https://hooks.slack.com", &format!("{}/slack", receiver.url()))
            .replace("https://webhook.example.com", &format!("{}/webhook", receiver.url()))
    };
    let manifests = ["slack", "consumers", "log", "lambda"].map(read).join("\n---\n");
    let standalone = Standalone::start(&manifests, LONG_SCRIPTS).await;
    let publish = |event: &str, data: Value| json!({"source": "crud", "event": event, "data": data});
    let admin =
        json!({"operation": "create", "schema": "admins", "entity": {"username": "kong", "email": "a@b.c"}});
    let consumer =
        json!({"operation": "create", "schema": "consumers", "entity": {"username": "Jane Austen"}});
    let route = json!({"operation": "update", "schema": "routes", "entity": {"name": "r"}});
    standalone.publish_accepted(&publish("admins", admin)).await;
    standalone.publish_accepted(&publish("consumers", consumer.clone())).await;
    standalone.publish_accepted(&publish("routes", route.clone())).await;
    let requests = receiver.wait_for(2, DEADLINE).await;
    let request_to = |path: &str| requests.iter().find(|r| r.path.starts_with(path)).unwrap();
    let slack = request_to("/slack");
    assert_eq!(slack.path, "/slack/services/foo/bar/baz");
    assert_eq!(slack.json(), json!({"text": "Admin account `kong` created; email address set to `a@b.c`"}));
    let webhook = request_to("/webhook");
    let mut expected = consumer;
    merge(&mut expected, json!({"source": "crud", "event": "consumers"}));
    assert_eq!(webhook.json(), expected);
    assert_eq!(webhook.header("x-custom-header"), "My Value");
    assert!(webhook.header("x-kong-signature").starts_with("sha256="));
    let line = standalone.process().wait_for_line(|line| line.contains("log callback"), DEADLINE).await;
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["data"], route);
    let detail = eventually(DEADLINE, "the lambda's attempt", async || {
        let deliveries = list_deliveries(&standalone, "hook=consumers-lambda").await;
        let detail = deliveries[0]["attempts"][0]["detail"].as_str().map(ToOwned::to_owned);
        detail.ok_or_else(|| format!("{deliveries:?}"))
    })
    .await;
    assert!(detail.contains("3: Event hook on consumer Jane Austen"), "{detail}");
}

/// The Python library of Standard Webhooks verifies the HMAC signatures, and libsodium the Ed25519 ones.
#[tokio::test(flavor = "multi_thread")]
async fn signatures_satisfy_an_independent_library() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let [first, second] =
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"];
    // The key pair of RFC 8032, section 7.1, test 1.
    let private = "whsk_nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=";
    let public = "whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    let keys = secret("keys", json!({"signing": format!("{first}\n{second}\n{private}\n")}));
    let signature = json!({"secretRef": {"name": "keys", "key": "signing"}, "scheme": "StandardWebhooks"});
    let webhook = json!({"webhook": {"url": receiver.url(), "signature": signature}});
    let custom_handler =
        custom(&receiver.url(), json!({"payload": {"user": "{* user *}"}, "signature": signature}));
    let standalone =
        Standalone::start(&[keys, hook("a", webhook), hook("b", custom_handler)].concat(), &[]).await;
    for source in ["a", "b"] {
        standalone.publish_accepted(&event(source, json!({"user": "Zoë"}))).await;
    }
    let requests = receiver.wait_for(2, DEADLINE).await;
    let signed_requests: Vec<Value> = requests
        .iter()
        .map(|request| {
            let names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
            let headers: Value =
                names.map(|name| (name.to_owned(), json!(request.header(name)))).into_iter().collect();
            json!({"headers": headers, "body": String::from_utf8_lossy(&request.body)})
        })
        .collect();
    let library = install_library().await;
    for key in [first, second, public] {
        verify(&library, key, &signed_requests, true).await;
    }
    verify(&library, "whpk_PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw=", &signed_requests, false).await;
    verify(&library, "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", &signed_requests, false).await;
}

const VERIFY: &str = "
import base64, json, sys
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
input = json.load(sys.stdin)

def verify_ed25519(key, request):
    headers = request['headers']
    text = f\"{headers['webhook-id']}.{headers['webhook-timestamp']}.{request['body']}\".encode()
    signatures = [s.removeprefix('v1a,') for s in headers['webhook-signature'].split() if s.startswith('v1a,')]
    assert len(signatures) == 1, signatures
    VerifyKey(base64.b64decode(key.removeprefix('whpk_'))).verify(text, base64.b64decode(signatures[0]))

for request in input['requests']:
    try:
        if input['key'].startswith('whpk_'):
            verify_ed25519(input['key'], request)
        else:
            Webhook(input['key']).verify(request['body'], request['headers'])
        valid = True
    except (WebhookVerificationError, BadSignatureError):
        valid = False
    assert valid == input['valid'], request
";

async fn verify(library: &std::path::Path, key: &str, requests: &[Value], valid: bool) {
    let mut python = std::process::Command::new("python3");
    python.args(["-c", VERIFY]).env("PYTHONPATH", library);
    let input = json!({"key": key, "requests": requests, "valid": valid}).to_string();
    crate::harness::run(python, &input).await.unwrap();
}

/// Returns the folder of the libraries, which are installed once into the user's cache.
async fn install_library() -> std::path::PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(std::path::PathBuf::from);
    let cache =
        cache.unwrap_or_else(|| std::path::Path::new(&std::env::var_os("HOME").unwrap()).join(".cache"));
    let folder = cache.join("hookstream/standardwebhooks-1.1.0-pynacl-1.6.1");
    if !folder.exists() {
        // Installed beside and renamed, so that an interrupted run leaves no partial library.
        let part = folder.with_extension(std::process::id().to_string());
        let mut pip = std::process::Command::new("python3");
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--root-user-action=ignore",
        ]);
        pip.arg("--target").arg(&part).args(["standardwebhooks==1.1.0", "pynacl==1.6.1"]);
        crate::harness::run(pip, "").await.expect("pip and a package registry");
        std::fs::rename(&part, &folder).expect("the library's folder");
    }
    folder
}

/// The egress policy evaluates the resolved address, however it is written: the delivery is dead at once, and the
/// condition has the reason.
#[tokio::test(flavor = "multi_thread")]
async fn denied_destination_is_reported() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let port = receiver.url().rsplit(':').next().unwrap().trim_end_matches('/').to_owned();
    let forms = [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "127.0.0.1.",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
    ];
    let manifests: String = (0..)
        .zip(forms)
        .map(|(number, host)| {
            let name = format!("form-{number}");
            let url = format!("http://{host}:{port}/");
            // An address from the manifest and one from a Secret.
            let target = match number % 2 {
                0 => json!({"url": url}),
                _ => json!({"urlSecretRef": {"name": name, "key": "url"}}),
            };
            hook(&name, json!({"webhook": target})) + &secret(&name, json!({"url": url}))
        })
        .collect();
    // `::/0`, because `localhost` may also resolve to an IPv6 address.
    let standalone = Standalone::start(&manifests, &["--egress-deny", "127.0.0.0/8,::/0"]).await;
    for number in 0..forms.len() {
        standalone.publish_accepted(&event(&format!("form-{number}"), json!({}))).await;
    }
    standalone.wait_for_count(FINISHED, &[DEAD, r#"reason="EgressDenied""#], forms.len() as u64).await;
    assert!(receiver.requests().is_empty());
    for number in 0..forms.len() {
        let path = standalone.data.join(format!("objects/EventHook.default.form-{number}.json"));
        eventually(DEADLINE, "the condition Delivering", async || {
            let text = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
            let saved: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            let conditions = saved["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let is_denied = |c: &Value| {
                c["type"] == "Delivering" && c["status"] == "False" && c["reason"] == "EgressDenied"
            };
            if conditions.iter().any(is_denied) { Ok(()) } else { Err(text) }
        })
        .await;
    }
}
