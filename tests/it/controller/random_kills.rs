//! Controllers are killed with SIGKILL at random moments while users create, edit and delete, and while vendors lose
//! answers, fail, and show new objects late. Nothing is left behind, nothing is created twice, and all becomes ready.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fastrand::Rng;
use serde_json::{Value, json};

use crate::harness::auth0_objects::{bearer, connect, hook, stream, with_spec};
use crate::harness::http::http;
use crate::harness::objects::{condition, object, secret};
use crate::harness::world::World;
use crate::harness::{Auth0, DEADLINE, Kong, Process, eventually, number};

/// How long the system may take to settle.
const SETTLE_DEADLINE: Duration = Duration::from_secs(180);
/// Short, because after each kill the next controller waits for the lease.
const LEASE: [&str; 6] =
    ["--lease-duration", "2s", "--lease-renew-deadline", "1500ms", "--lease-retry-period", "300ms"];
const TRIGGERS: [&str; 5] = [
    "credentials-exchange",
    "pre-user-registration",
    "post-user-registration",
    "post-change-password",
    "send-phone-message",
];

/// The desired objects by plural and name. None: deleted, and perhaps still present.
type DesiredObjects = BTreeMap<(&'static str, String), Option<Value>>;

struct Churn {
    world: World,
    /// A Kong with create and delete only.
    plain_kong: Kong,
    auth0: Auth0,
    desired: DesiredObjects,
    rng: Rng,
    writes: usize,
}

impl Churn {
    async fn start(seed: u64) -> Churn {
        let mut world = World::start("killed").await;
        world.stop_operator().await;
        let plain_kong = Kong::start(&["--no-put", "--no-client-id", "--no-patch"]).await;
        let auth0 = Auth0::start(&[]).await;
        connect(&world, &auth0).await;
        let second = object("Connection", "plain", json!({"kong": {"adminUrl": plain_kong.url}}));
        world.apply(&[world.connection(), second, secret("receiver", "token", "t0ken-0")]).await;
        let mut desired = DesiredObjects::new();
        for n in 0..6 {
            desired.insert(("eventhooks", format!("put-{n}")), None);
            desired.insert(("eventhooks", format!("plain-{n}")), None);
        }
        for n in 0..5 {
            desired.insert(("eventstreams", format!("stream-{n}")), None);
            desired.insert(("hooks", format!("hook-{n}")), None);
        }
        Churn { world, plain_kong, auth0, desired, rng: Rng::with_seed(seed), writes: 0 }
    }

    /// Returns an object of this name with random content.
    fn random_object(&mut self, plural: &str, name: &str) -> Value {
        let (number, variant) = (self.rng.u32(..1000), self.rng.u8(..3));
        let at = usize::from(name.as_bytes().last().unwrap() - b'0');
        match plural {
            "eventhooks" => {
                let connection = if name.starts_with("plain") { "plain" } else { "kong" };
                let event = json!({"event": format!("e{number}"), "connectionRef": {"name": connection}});
                let gateway =
                    json!({"deliverBy": "Gateway", "snooze": {"period": format!("{}s", number + 1)}});
                let extra = match variant {
                    0 => gateway,
                    1 => json!({"rotation": number.to_string()}),
                    _ => json!({}),
                };
                self.world.hook_with(name, crate::harness::manifests::merged(event, extra))
            }
            "eventstreams" => {
                let destination = match variant {
                    0 => bearer("https://receiver.test/"),
                    _ => json!({"worker": {}}),
                };
                let extra = json!({"rotation": number.to_string(), "name": format!("{name} {}", number % 3)});
                let extra = if variant == 0 { json!({"name": extra["name"]}) } else { extra };
                with_spec(stream(name, destination), extra)
            }
            _ => {
                let secrets = json!([{"name": format!("S{variant}"), "secretRef": {"name": "receiver", "key": "token"}}]);
                let script = json!({"script": format!("// {number}"), "triggerId": TRIGGERS[at]});
                let extra = if variant == 0 { json!({}) } else { json!({ "secrets": secrets }) };
                hook(name, crate::harness::manifests::merged(script, extra))
            }
        }
    }

    /// Makes random changes as users would.
    async fn change_objects(&mut self) {
        let (mut applied, mut deleted) = (Vec::new(), Vec::new());
        for key in self.desired.keys().cloned().collect::<Vec<_>>() {
            let (plural, name) = (key.0, key.1.as_str());
            let exists = self.desired[&key].is_some();
            if self.rng.u8(..10) >= 4 {
                continue;
            }
            if exists && self.rng.u8(..3) == 0 {
                deleted.push(format!("{plural}.hookstream.dev/{name}"));
                self.desired.insert(key, None);
            } else if exists || self.world.get(&format!("{plural}/{name}")).await.is_err() {
                let object = self.random_object(plural, name);
                applied.push(object.clone());
                self.desired.insert(key, Some(object));
            }
        }
        if self.rng.u8(..3) == 0 {
            applied.push(secret("receiver", "token", &format!("t0ken-{}", self.rng.u32(..))));
        }
        self.writes += applied.len() + deleted.len();
        if !applied.is_empty() {
            // Replaces the object, so that fields of the former content are removed.
            let text = crate::harness::objects::documents(&applied);
            let args =
                ["-n", &self.world.namespace.name, "apply", "--server-side", "--force-conflicts", "-f", "-"];
            crate::harness::control_plane().kubectl(args, &text).await.expect("the objects");
        }
        if !deleted.is_empty() {
            let args = ["delete", "--wait=false"].into_iter().chain(deleted.iter().map(String::as_str));
            self.world.kubectl(&args.collect::<Vec<_>>()).await;
        }
    }

    async fn add_faults(&self) {
        for fault in [
            json!({"every": 11, "dropAnswer": true}),
            json!({"every": 13, "status": 500}),
            json!({"method": "POST", "every": 3, "lagMs": 400}),
        ] {
            self.world.kong.fault(fault.clone()).await;
            self.plain_kong.fault(fault.clone()).await;
            self.auth0.fault(fault).await;
        }
    }

    async fn clear_faults(&self) {
        self.world.kong.clear_faults().await;
        self.plain_kong.clear_faults().await;
        self.auth0.clear_faults().await;
    }

    async fn start_controller(&self) -> Process {
        let flags = LEASE.into_iter().chain(["--creation-grace", "1s"]);
        let process = self.world.another("controller", &flags.collect::<Vec<_>>());
        process.wait_for_line(|line| line.contains("this replica leads"), DEADLINE).await;
        process
    }

    /// Returns Ok if every object is ready and nothing else exists; otherwise the first difference.
    async fn compare_with_desired(&self) -> Result<(), String> {
        let mut ids: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for ((plural, name), desired) in &self.desired {
            let path = format!("{plural}/{name}");
            let Ok(object) = self.world.get(&path).await else {
                if desired.is_some() {
                    return Err(format!("{path} is gone"));
                }
                continue;
            };
            let ready = condition(&object, "Ready");
            let is_current = object["status"]["observedGeneration"] == object["metadata"]["generation"];
            let has_create_record =
                object["metadata"]["annotations"]["hookstream.dev/pending-create"].is_string();
            if desired.is_none() || ready["status"] != "True" || !is_current || has_create_record {
                return Err(format!(
                    "{path}: {ready}, desired: {}, has a create record: {has_create_record}",
                    desired.is_some()
                ));
            }
            let external = &object["status"]["external"];
            let endpoint = external["endpoint"].as_str().unwrap_or_default().to_owned();
            ids.entry(endpoint).or_default().push(external["id"].as_str().unwrap_or_default().to_owned());
        }
        let token = self.token().await?;
        for url in [&self.world.kong.url, &self.plain_kong.url, &self.auth0.url] {
            // Not by the API, which loses answers in this test.
            let state =
                http().get(format!("{url}/__emulator/state")).send().await.map_err(|e| e.to_string())?;
            let state: Value = state.json().await.map_err(|e| e.to_string())?;
            let lists = ["hooks", "streams"].into_iter().filter_map(|list| state[list].as_array());
            let items: Vec<&Value> = lists.flatten().collect();
            for secrets in items.iter().filter_map(|item| item["secrets"].as_object()) {
                if secrets.values().any(|secret| *secret != token.as_str()) {
                    return Err(format!("a hook has {secrets:?} and not {token}"));
                }
            }
            let mut vendor_ids: Vec<String> =
                items.iter().map(|i| i["id"].as_str().unwrap().to_owned()).collect();
            let mut reported = ids.remove(url.as_str()).unwrap_or_default();
            reported.sort();
            vendor_ids.sort();
            if reported != vendor_ids {
                return Err(format!("{url} has {vendor_ids:?}, and the statuses name {reported:?}"));
            }
        }
        if ids.is_empty() { Ok(()) } else { Err(format!("elsewhere: {ids:?}")) }
    }

    /// Returns the desired value of the hooks' secrets.
    async fn token(&self) -> Result<String, String> {
        let path = format!("/api/v1/namespaces/{}/secrets/receiver", self.world.namespace.name);
        let encoded = self.world.read(&path).await?["data"]["token"].as_str().unwrap_or_default().to_owned();
        let token = STANDARD.decode(encoded).map_err(|e| e.to_string())?;
        String::from_utf8(token).map_err(|e| e.to_string())
    }

    async fn wait_until_settled(&self, when: &str) {
        eventually(SETTLE_DEADLINE, &format!("the desired state {when}"), async || {
            self.compare_with_desired().await
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make soak"]
async fn soak_random_kills() {
    let cycles = number("SOAK_CYCLES").unwrap_or(200);
    let seed = crate::harness::seed();
    println!("{cycles} cycles");
    let mut churn = Churn::start(seed).await;
    churn.add_faults().await;
    for cycle in 1..=cycles {
        let controller = churn.start_controller().await;
        churn.change_objects().await;
        tokio::time::sleep(Duration::from_millis(churn.rng.u64(..2000))).await;
        controller.kill9();
        if cycle % 10 == 0 {
            // While calls fail, some object is always being retried.
            churn.clear_faults().await;
            let controller = churn.start_controller().await;
            churn.wait_until_settled(&format!("after {cycle} kills")).await;
            println!("{cycle} kills, {} writes of users: the state is as desired", churn.writes);
            controller.kill9();
            churn.add_faults().await;
        }
    }
    churn.clear_faults().await;
    let _last = churn.start_controller().await;
    churn.wait_until_settled("at the end").await;
    let remaining = churn.desired.values().flatten().count();
    println!(
        "{cycles} kills, {} writes of users, {remaining} objects at the end: no orphan, no duplicate, all ready",
        churn.writes
    );
}
