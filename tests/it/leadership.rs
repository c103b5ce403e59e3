//! One replica leads: it alone calls Kong and writes status. When it is paused, dies or stops, another goes on; nobody
//! exits, and two never write.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::{DEADLINE, Process, control_plane, eventually};
use crate::world::{Setup, World, documents};

/// A controller as the world's operator, without its worker.
fn controller(world: &World) -> Process {
    world.another("controller", &[])
}

async fn lease(world: &World) -> Result<Value, String> {
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", world.home.name);
    world.read(&format!("{path}/hookstream-controller")).await
}

async fn holder(world: &World) -> Result<String, String> {
    let lease = lease(world).await?;
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
    if holder.is_empty() { Err(format!("{lease:#}")) } else { Ok(holder.to_owned()) }
}

async fn until_held_by_other_than(world: &World, before: &str) -> String {
    eventually(DEADLINE, "another holder of the Lease", async || {
        let now = holder(world).await?;
        if now == before { Err(format!("still {now}")) } else { Ok(now) }
    })
    .await
}

fn signal(process: &Process, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(process.pid()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

fn stands_by(line: &str) -> bool {
    line.contains("this one stands by")
}

fn leads(line: &str) -> bool {
    line.contains("this replica leads")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_leader_writes_nothing_when_it_wakes() {
    let mut world = World::with("paused", Setup { resync: Some("1s"), ..Setup::default() }).await;
    world.stop_operator().await;
    let first = controller(&world);
    first.wait_for_line(leads, DEADLINE).await;
    let second = controller(&world);
    second.wait_for_line(stands_by, DEADLINE).await;
    world.apply(&[world.connection(), world.hook("a")]).await;
    world.ready("eventhooks/a").await;
    let before = holder(&world).await.unwrap();
    assert!(first.log().contains(&before), "the first leads:\n{}", first.log());

    // Stopped in the middle of its work, for longer than its lease.
    signal(&first, Signal::STOP);
    let after = until_held_by_other_than(&world, &before).await;
    assert!(second.log().contains(&after));
    world.edit("evh/a", json!({"event": "routes"})).await;
    world.kong.until_hooks("the edit, by the second", |h| h.len() == 1 && h[0]["event"] == "routes").await;
    world.ready("eventhooks/a").await;

    // It wakes up with work that is due (a resync each second) and finds that it does not lead.
    let told = |log: &str| log.lines().filter(|l| stands_by(l)).count();
    signal(&first, Signal::CONT);
    first.wait_for_line(stands_by, DEADLINE).await;
    assert_eq!(told(&first.log()), 1);
    assert_eq!(holder(&world).await.unwrap(), after, "it did not take it back");
    assert!(first.ended().is_none() && second.ended().is_none(), "nobody exits");

    // Each was told apart by what it answers for: the one that stands by makes no call, whatever happens.
    let metric = async |process: &Process, name: &str| world.metric(process, name).await;
    assert_eq!(metric(&first, "hookstream_leader").await, 0.0);
    assert_eq!(metric(&second, "hookstream_leader").await, 1.0);
    let calls = metric(&first, "hookstream_admin_requests_total").await;
    let resyncs = world.kong.count("GET", "/event-hooks").await;
    world.edit("evh/a", json!({"event": "services"})).await;
    world.kong.until_hooks("the second edit", |h| h.len() == 1 && h[0]["event"] == "services").await;
    eventually(DEADLINE, "some resyncs of the second", async || {
        let now = world.kong.count("GET", "/event-hooks").await;
        if now >= resyncs + 3 { Ok(()) } else { Err(format!("{now}, {resyncs} before")) }
    })
    .await;
    assert_eq!(
        metric(&first, "hookstream_admin_requests_total").await,
        calls,
        "one that stands by calls nobody"
    );

    // And back: the second goes in good order, the first takes over at once and looks at everything.
    second.terminate().await;
    assert!(second.log().contains("let the Lease go"), "{}", second.log());
    world.edit("evh/a", json!({"event": "plugins"})).await;
    world.kong.until_hooks("the edit, by the first", |h| h.len() == 1 && h[0]["event"] == "plugins").await;
    world.ready("eventhooks/a").await;
    assert!(holder(&world).await.is_ok_and(|h| h == before), "the first, which never exited");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_leader_that_is_paused_in_a_call_that_call_alone_goes_out() {
    let mut world = World::with("in-flight", Setup { resync: Some("1s"), ..Setup::default() }).await;
    world.stop_operator().await;
    let first = controller(&world);
    first.wait_for_line(leads, DEADLINE).await;
    world.apply(&[world.connection()]).await;
    world.ready("connections/kong").await;

    // What ten hooks are compared with is held back: each has its write still before it.
    world.kong.fault(json!({"method": "GET", "path": "/event-hooks", "delayMs": 3000})).await;
    let hooks: Vec<Value> = (0..10).map(|n| world.hook(&format!("h{n}"))).collect();
    world.apply(&hooks).await;
    eventually(DEADLINE, "a read under way", async || {
        if world.kong.met_faults().await >= 1 { Ok(()) } else { Err("no reads".into()) }
    })
    .await;
    assert_eq!(world.kong.count("PUT", "/").await, 0);
    let before = holder(&world).await.unwrap();
    signal(&first, Signal::STOP);
    world.kong.no_faults().await;
    let second = controller(&world);
    until_held_by_other_than(&world, &before).await;
    for n in 0..10 {
        world.ready(&format!("eventhooks/h{n}")).await;
    }
    let writes = world.kong.count("PUT", "/").await;
    assert_eq!(writes, 10, "by the second");
    let versions =
        |list: &[Value]| list.iter().map(|o| o["metadata"]["resourceVersion"].clone()).collect::<Vec<_>>();
    let mut objects = Vec::new();
    for n in 0..10 {
        objects.push(world.get(&format!("eventhooks/h{n}")).await.unwrap());
    }

    // The first wakes with an answer in its hands that asks for ten writes.
    signal(&first, Signal::CONT);
    first.wait_for_line(stands_by, DEADLINE).await;
    eventually(DEADLINE, "its reconciles to end", async || {
        let begun = world.metric(&first, "hookstream_reconciles_total").await;
        if begun >= 10.0 { Ok(()) } else { Err(format!("{begun}")) }
    })
    .await;
    assert_eq!(world.kong.count("PUT", "/").await, writes, "it wrote nothing to Kong");
    let mut now = Vec::new();
    for n in 0..10 {
        now.push(world.get(&format!("eventhooks/h{n}")).await.unwrap());
    }
    assert_eq!(versions(&now), versions(&objects), "nor to the objects");
    drop(second);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_followed_by_the_one_that_stands_by() {
    let mut world = World::start("killed").await;
    world.stop_operator().await;
    let first = controller(&world);
    first.wait_for_line(leads, DEADLINE).await;
    let second = controller(&world);
    second.wait_for_line(stands_by, DEADLINE).await;
    first.kill9();
    world.apply(&[world.connection(), world.hook("a")]).await;
    world.ready("eventhooks/a").await;
    assert!(second.log().lines().any(leads));
    assert_eq!(world.kong.hooks().await.len(), 1);
    let lease = lease(&world).await.unwrap();
    assert!(lease["spec"]["leaseTransitions"].as_i64().unwrap() >= 1, "{lease:#}");
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 5, "{lease:#}");
}

/// Two installations in one namespace, each with a Lease and namespaces of its own.
#[tokio::test(flavor = "multi_thread")]
async fn two_leases_in_one_namespace_are_two_leaders() {
    let mut world = World::start("two-leases").await;
    world.stop_operator().await;
    let other = control_plane().namespace("two-leases-other").await;
    let rules = "- {apiGroups: [coordination.k8s.io], resources: [leases], resourceNames: [second], verbs: [get, update]}";
    let rules: Value = serde_saphyr::from_str(rules).unwrap();
    let metadata = json!({"name": "second-lease"});
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": rules});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "second-lease"},
        "subjects": [{"kind": "ServiceAccount", "name": "hookstream-controller", "namespace": world.home.name}]});
    world.home.apply(&documents(&[role, binding])).await.unwrap();

    let first = controller(&world);
    let second = world.another("controller", &["--lease-name", "second", "--namespace", &other.name]);
    first.wait_for_line(leads, DEADLINE).await;
    second.wait_for_line(leads, DEADLINE).await;
    let objects = [world.connection(), world.hook("a")];
    world.apply(&objects).await;
    other.apply(&documents(&objects)).await.unwrap();
    world.ready("eventhooks/a").await;
    world.kong.until_hooks("one of each", |hooks| hooks.len() == 2).await;
    assert!(!first.log().lines().chain(second.log().lines()).any(stands_by), "neither waits for the other");
}

#[tokio::test(flavor = "multi_thread")]
async fn terms_under_which_two_could_lead_are_refused() {
    for (flag, value) in
        [("--lease-duration", "10s"), ("--lease-retry-period", "8s"), ("--watch-timeout", "1h")]
    {
        let process = Process::spawn(["controller", flag, value], &[("KUBECONFIG", "/dev/null")]);
        let status = process.wait(DEADLINE).await;
        assert_eq!(status.code(), Some(2), "{}", process.log());
        assert!(process.log().contains(flag), "{}", process.log());
    }
}
