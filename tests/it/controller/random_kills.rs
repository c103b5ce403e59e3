//! Controllers are killed with SIGKILL at random moments while users create, edit and delete, and while vendors lose
//! answers, fail, and show new objects late. Nothing is left behind, nothing is created twice, and all becomes ready.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fastrand::Rng;
use serde_json::{Value, json};

use crate::harness::auth0_objects::{bearer, connect, hook, stream, with};
use crate::harness::http::http;
use crate::harness::objects::{condition, object, secret};
use crate::harness::world::World;
use crate::harness::{Auth0, DEADLINE, Kong, Process, eventually, number};

/// How long the system may take to settle.
const REST: Duration = Duration::from_secs(180);
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
type Wanted = BTreeMap<(&'static str, String), Option<Value>>;

struct Churn {
    world: World,
    /// A Kong with create and delete only.
    plain: Kong,
    auth0: Auth0,
    wanted: Wanted,
    rng: Rng,
    writes: usize,
}

impl Churn {
    async fn start(seed: u64) -> Churn {
        let mut world = World::start("killed").await;
        world.stop_operator().await;
        let plain = Kong::start(&["--no-put", "--no-client-id", "--no-patch"]).await;
        let auth0 = Auth0::start(&[]).await;
        connect(&world, &auth0).await;
        let second = object("Connection", "plain", json!({"kong": {"adminUrl": plain.url}}));
        world.apply(&[world.connection(), second, secret("receiver", "token", "t0ken-0")]).await;
        let mut wanted = Wanted::new();
        for n in 0..6 {
            wanted.insert(("eventhooks", format!("put-{n}")), None);
            wanted.insert(("eventhooks", format!("plain-{n}")), None);
        }
        for n in 0..5 {
            wanted.insert(("eventstreams", format!("stream-{n}")), None);
            wanted.insert(("hooks", format!("hook-{n}")), None);
        }
        Churn { world, plain, auth0, wanted, rng: Rng::with_seed(seed), writes: 0 }
    }

    /// Returns an object of this name with random content.
    fn some(&mut self, plural: &str, name: &str) -> Value {
        let (number, way) = (self.rng.u32(..1000), self.rng.u8(..3));
        let at = usize::from(name.as_bytes().last().unwrap() - b'0');
        match plural {
            "eventhooks" => {
                let connection = if name.starts_with("plain") { "plain" } else { "kong" };
                let event = json!({"event": format!("e{number}"), "connectionRef": {"name": connection}});
                let gateway =
                    json!({"deliverBy": "Gateway", "snooze": {"period": format!("{}s", number + 1)}});
                let extra = match way {
                    0 => gateway,
                    1 => json!({"rotation": number.to_string()}),
                    _ => json!({}),
                };
                self.world.hook_with(name, crate::harness::manifests::merged(event, extra))
            }
            "eventstreams" => {
                let destination = match way {
                    0 => bearer("https://receiver.test/"),
                    _ => json!({"worker": {}}),
                };
                let extra = json!({"rotation": number.to_string(), "name": format!("{name} {}", number % 3)});
                let extra = if way == 0 { json!({"name": extra["name"]}) } else { extra };
                with(stream(name, destination), extra)
            }
            _ => {
                let secrets =
                    json!([{"name": format!("S{way}"), "secretRef": {"name": "receiver", "key": "token"}}]);
                let script = json!({"script": format!("// {number}"), "triggerId": TRIGGERS[at]});
                let extra = if way == 0 { json!({}) } else { json!({ "secrets": secrets }) };
                hook(name, crate::harness::manifests::merged(script, extra))
            }
        }
    }

    /// Makes random changes as users would.
    async fn act(&mut self) {
        let (mut applied, mut deleted) = (Vec::new(), Vec::new());
        for key in self.wanted.keys().cloned().collect::<Vec<_>>() {
            let (plural, name) = (key.0, key.1.as_str());
            let there = self.wanted[&key].is_some();
            if self.rng.u8(..10) >= 4 {
                continue;
            }
            if there && self.rng.u8(..3) == 0 {
                deleted.push(format!("{plural}.hookstream.dev/{name}"));
                self.wanted.insert(key, None);
            } else if there || self.world.get(&format!("{plural}/{name}")).await.is_err() {
                let object = self.some(plural, name);
                applied.push(object.clone());
                self.wanted.insert(key, Some(object));
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

    async fn faults(&self) {
        for fault in [
            json!({"every": 11, "dropAnswer": true}),
            json!({"every": 13, "status": 500}),
            json!({"method": "POST", "every": 3, "lagMs": 400}),
        ] {
            self.world.kong.fault(fault.clone()).await;
            self.plain.fault(fault.clone()).await;
            self.auth0.fault(fault).await;
        }
    }

    async fn no_faults(&self) {
        self.world.kong.no_faults().await;
        self.plain.no_faults().await;
        self.auth0.no_faults().await;
    }

    async fn controller(&self) -> Process {
        let flags = LEASE.into_iter().chain(["--creation-grace", "1s"]);
        let process = self.world.another("controller", &flags.collect::<Vec<_>>());
        process.wait_for_line(|line| line.contains("this replica leads"), DEADLINE).await;
        process
    }

    /// Returns Ok if every object is ready and nothing else exists; otherwise the first difference.
    async fn is_right(&self) -> Result<(), String> {
        let mut ids: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for ((plural, name), wanted) in &self.wanted {
            let of = format!("{plural}/{name}");
            let Ok(object) = self.world.get(&of).await else {
                if wanted.is_some() {
                    return Err(format!("{of} is gone"));
                }
                continue;
            };
            let ready = condition(&object, "Ready");
            let current = object["status"]["observedGeneration"] == object["metadata"]["generation"];
            let recorded = object["metadata"]["annotations"]["hookstream.dev/pending-create"].is_string();
            if wanted.is_none() || ready["status"] != "True" || !current || recorded {
                return Err(format!("{of}: {ready}, wanted: {}, recorded: {recorded}", wanted.is_some()));
            }
            let external = &object["status"]["external"];
            let place = external["endpoint"].as_str().unwrap_or_default().to_owned();
            ids.entry(place).or_default().push(external["id"].as_str().unwrap_or_default().to_owned());
        }
        let token = self.token().await?;
        for url in [&self.world.kong.url, &self.plain.url, &self.auth0.url] {
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
            let there: Vec<String> = items.iter().map(|i| i["id"].as_str().unwrap().to_owned()).collect();
            let (mut named, mut there) = (ids.remove(url.as_str()).unwrap_or_default(), there);
            named.sort();
            there.sort();
            if named != there {
                return Err(format!("{url} has {there:?}, and the statuses name {named:?}"));
            }
        }
        if ids.is_empty() { Ok(()) } else { Err(format!("elsewhere: {ids:?}")) }
    }

    /// Returns the desired value of the hooks' secrets.
    async fn token(&self) -> Result<String, String> {
        let path = format!("/api/v1/namespaces/{}/secrets/receiver", self.world.namespace.name);
        let coded = self.world.read(&path).await?["data"]["token"].as_str().unwrap_or_default().to_owned();
        let token = STANDARD.decode(coded).map_err(|e| e.to_string())?;
        String::from_utf8(token).map_err(|e| e.to_string())
    }

    async fn rests(&self, when: &str) {
        eventually(REST, &format!("the desired state {when}"), async || self.is_right().await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make soak"]
async fn soak_random_kills() {
    let cycles = number("SOAK_CYCLES").unwrap_or(200);
    let seed = crate::harness::seed();
    println!("{cycles} cycles");
    let mut churn = Churn::start(seed).await;
    churn.faults().await;
    for cycle in 1..=cycles {
        let controller = churn.controller().await;
        churn.act().await;
        tokio::time::sleep(Duration::from_millis(churn.rng.u64(..2000))).await;
        controller.kill9();
        if cycle % 10 == 0 {
            // While calls fail, some object is always being retried.
            churn.no_faults().await;
            let controller = churn.controller().await;
            churn.rests(&format!("after {cycle} kills")).await;
            println!("{cycle} kills, {} writes of users: the state is as desired", churn.writes);
            controller.kill9();
            churn.faults().await;
        }
    }
    churn.no_faults().await;
    let _last = churn.controller().await;
    churn.rests("at the end").await;
    let there = churn.wanted.values().flatten().count();
    println!(
        "{cycles} kills, {} writes of users, {there} objects at the end: no orphan, no duplicate, all ready",
        churn.writes
    );
}
