//! Errors of Kong: the object reports them, delays no other object, and recovers when Kong does.

use serde_json::{Value, json};

use crate::harness::objects::{condition, message, object};
use crate::harness::world::{Setup, World};
use crate::harness::{DEADLINE, Kong, eventually, free_port};

const TOKEN: &str = "the-admin-token-of-kong";

struct Case {
    workspace: &'static str,
    fault: Value,
    reason: &'static str,
    status: Option<u16>,
    /// A part of the message: what to do, or what happened.
    expected: &'static str,
}

fn cases() -> Vec<Case> {
    let case =
        |workspace, fault, reason, status, expected| Case { workspace, fault, reason, status, expected };
    let html = "<html><body>gateway timeout</body></html>";
    vec![
        case("w401", json!({"status": 401}), "Unauthorized", Some(401), "check the Connection's Secret"),
        case(
            "w403",
            json!({"status": 403}),
            "Forbidden",
            Some(403),
            "grant the token the required permissions",
        ),
        case("w409", json!({"status": 409, "method": "PUT"}), "Conflict", Some(409), "conflict"),
        case("w500", json!({"status": 500, "method": "PUT"}), "ServerError", Some(500), "failed (500)"),
        case("w503", json!({"status": 503}), "ServerError", Some(503), "failed (503)"),
        case(
            "w429",
            json!({"status": 429, "headers": {"retry-after": "3"}}),
            "RateLimited",
            Some(429),
            "limits the request rate",
        ),
        case("html", json!({"status": 200, "body": html}), "UnexpectedAnswer", Some(200), "proxy"),
        case("half", json!({"status": 200, "body": "{\"id\": \"a"}), "UnexpectedAnswer", Some(200), "JSON"),
        case("drop", json!({"dropAnswer": true, "status": 200}), "Unreachable", None, "cannot be reached"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_each_error_and_recovers() {
    let cases = cases();
    let mut flags = Vec::new();
    for case in &cases {
        flags.extend(["--workspace", case.workspace]);
    }
    let world = World::with("answers", Setup { kong: &flags, ..Setup::default() }).await;
    let mut objects = vec![world.connection()];
    for case in &cases {
        let mut fault = case.fault.clone();
        fault["path"] = json!(format!("/{}/", case.workspace));
        world.kong.fault(fault).await;
        let kong = json!({"adminUrl": world.kong.url, "workspace": case.workspace});
        objects.push(object("Connection", case.workspace, json!({ "kong": kong })));
        objects.push(world.hook_with(case.workspace, json!({"connectionRef": {"name": case.workspace}})));
    }
    world.apply(&objects).await;

    for case in &cases {
        let path = format!("eventhooks/{}", case.workspace);
        let object = world.not_ready(&path, case.reason).await;
        assert!(message(&object).contains(case.expected), "{}: {}", case.workspace, message(&object));
        // The controller retries; the user need not change the object.
        assert_eq!(condition(&object, "Reconciling")["status"], "True", "{object:#}");
        assert_eq!(condition(&object, "Stalled")["status"], "False", "{object:#}");
        let error = &object["status"]["lastError"];
        assert_eq!(error["httpStatus"], json!(case.status), "{object:#}");
        assert!(error["message"].as_str().is_some_and(|m| m.contains(case.expected)), "{object:#}");
        let event = world.event(case.workspace, case.reason).await;
        assert_eq!(event["type"], "Warning", "{event:#}");
        assert!(event["note"].as_str().is_some_and(|n| n.contains(case.expected)), "{event:#}");
    }

    // Meanwhile an object without errors becomes ready at once, and its edits are applied at once.
    world.apply(&[world.hook("healthy")]).await;
    world.ready("eventhooks/healthy").await;
    world.edit("evh/healthy", json!({"event": "routes"})).await;
    world.ready("eventhooks/healthy").await;
    assert_eq!(world.kong.hooks().await[0]["event"], "routes");

    // The controller waited as long as the 429 demanded. The calls of the hook and of the Connection may both have been in
    // flight when the first 429 arrived.
    let early = eventually(DEADLINE, "a retry after 429", async || {
        let mut times = Vec::new();
        for request in world.kong.requests().await {
            if request["path"] == "/w429/event-hooks" {
                times.push(request["time"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap());
            }
        }
        let is_early = |time: &&jiff::Timestamp| time.duration_since(times[0]).as_secs_f64() < 2.9;
        let early = times.iter().filter(is_early).count();
        if times.len() > early { Ok(early) } else { Err(format!("{times:?}")) }
    })
    .await;
    assert!(early <= 2, "the controller sent {early} requests before the 429 permitted it");

    world.kong.clear_faults().await;
    for case in &cases {
        let object = world.ready(&format!("eventhooks/{}", case.workspace)).await;
        assert!(object["status"]["lastError"].is_null(), "{object:#}");
        let hooks = world.kong.hooks_of(&format!("/{}", case.workspace)).await;
        assert_eq!(hooks.len(), 1, "{}: {hooks:#?}", case.workspace);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recovers_when_kong_starts_late() {
    let world = World::start("absent").await;
    let address = format!("127.0.0.1:{}", free_port());
    let kong = json!({"adminUrl": format!("http://{address}")});
    let away = object("Connection", "away", json!({ "kong": kong }));
    let waiting = world.hook_with("waiting", json!({"connectionRef": {"name": "away"}}));
    world.apply(&[away, waiting, world.connection(), world.hook("healthy")]).await;
    for path in ["eventhooks/waiting", "connections/away"] {
        let object = world.not_ready(path, "Unreachable").await;
        assert!(message(&object).contains("cannot be reached"), "{object:#}");
        assert!(object["status"]["lastError"]["message"].is_string(), "{object:#}");
    }
    world.event("waiting", "Unreachable").await;
    world.ready("eventhooks/healthy").await;

    let late = Kong::start_at(&address, &[]).await;
    world.ready("connections/away").await;
    world.ready("eventhooks/waiting").await;
    assert_eq!(late.hooks().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn masks_secrets_that_kong_quotes() {
    let setup = Setup { kong: &["--token", TOKEN], ..Setup::default() };
    let world = World::with("silent", setup).await;
    let token = json!({"tokenSecretRef": {"name": "admin", "key": "token"}});
    world
        .apply(&[
            crate::harness::objects::secret("admin", "token", TOKEN),
            world.connection_with(json!({ "kong": token })),
            world.hook("quiet"),
        ])
        .await;
    world.ready("eventhooks/quiet").await;
    let hook = world.kong.only_hook().await;
    let relay_secret = hook["config"]["secret"].as_str().unwrap().to_owned();

    // Kong rejects requests and quotes parts of them: the hook's secret in one message, the token in another.
    let body = json!({"message": format!("config.secret: {relay_secret} is too good")});
    world.kong.fault(json!({"method": "PUT", "status": 400, "body": body, "times": 1})).await;
    world.kong.patch(hook["id"].as_str().unwrap(), json!({"config": {"url": "http://127.0.0.1:1/x"}})).await;
    world.request("evh/quiet", "first").await;
    let text = world.stalled("eventhooks/quiet", "Rejected").await;
    assert!(text.contains("config.secret"), "{text}");

    let body = json!({"name": "no", "message": format!("token {TOKEN} has expired"), "code": TOKEN});
    world.kong.fault(json!({"status": 401, "body": body})).await;
    world.request("evh/quiet", "second").await;
    world.not_ready("eventhooks/quiet", "Unauthorized").await;
    world.request("conn/kong", "second").await;
    world.not_ready("connections/kong", "Unauthorized").await;
    world.event("quiet", "Unauthorized").await;
    world.event("kong", "Unauthorized").await;
    world.kong.clear_faults().await;
    world.ready("connections/kong").await;
    world.ready("eventhooks/quiet").await;
    world.assert_hides(&[TOKEN, &relay_secret]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uses_corrected_token_at_once() {
    let setup = Setup { kong: &["--token", TOKEN], ..Setup::default() };
    let world = World::with("wrong-token", setup).await;
    let token = json!({"tokenSecretRef": {"name": "admin", "key": "token"}});
    let connection = world.connection_with(json!({ "kong": token }));
    world
        .apply(&[
            crate::harness::objects::secret("admin", "token", "a-wrong-one"),
            connection,
            world.hook("h"),
        ])
        .await;
    world.not_ready("connections/kong", "Unauthorized").await;
    world.not_ready("eventhooks/h", "Unauthorized").await;
    world.apply(&[crate::harness::objects::secret("admin", "token", TOKEN)]).await;
    world.ready("connections/kong").await;
    world.ready("eventhooks/h").await;

    // The Connection stays ready while one of its hooks is rejected permanently; the Secret alone triggers that hook.
    world.kong.fault(json!({"status": 400, "path": "/event-hooks/"})).await;
    world.request("evh/h", "now").await;
    world.stalled("eventhooks/h", "Rejected").await;
    world.kong.clear_faults().await;
    world.apply(&[crate::harness::objects::secret("admin", "token", &format!("{TOKEN}\n"))]).await;
    world.ready("eventhooks/h").await;
    world.assert_hides(&[TOKEN, "a-wrong-one"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_with_a_missing_workspace_is_not_ready() {
    let world = World::with("workspace", Setup { kong: &["--workspace", "there"], ..Setup::default() }).await;
    let connection = |name: &str| {
        let kong = json!({"adminUrl": world.kong.url, "workspace": name});
        object("Connection", name, json!({ "kong": kong }))
    };
    world.apply(&[connection("there"), connection("missing"), connection("other")]).await;
    world.ready("connections/there").await;
    let object = world.not_ready("connections/missing", "WorkspaceMissing").await;
    assert!(message(&object).contains("workspace missing: create the workspace"), "{object:#}");
    // The form of Kong's answer is not recorded: every 404 means that there is no such workspace.
    let body = json!({"message": "Workspace 'other' not found"});
    world.kong.fault(json!({"path": "/other/", "status": 404, "body": body})).await;
    world.request("connection/other", "again").await;
    world.not_ready("connections/other", "WorkspaceMissing").await;
}
