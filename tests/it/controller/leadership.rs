//! Leader election: only the leader calls Kong and writes status. When it is paused, dies or stops, another replica takes
//! over, no replica exits, and no two write.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::objects::documents;
use crate::harness::world::{Setup, World};
use crate::harness::{DEADLINE, Process, ResponseGate, control_plane, eventually};

/// The flag `--lease-duration` of a world's operators.
const LEASE_DURATION: Duration = Duration::from_secs(5);

/// Starts a controller of the world's operator, without a worker.
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

async fn wait_for_other_holder(world: &World, first_holder: &str) -> String {
    eventually(DEADLINE, "another holder of the Lease", async || {
        let current = holder(world).await?;
        if current == first_holder { Err(format!("still {current}")) } else { Ok(current) }
    })
    .await
}

fn signal(process: &Process, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(process.pid()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

fn is_standby_line(line: &str) -> bool {
    line.contains("standing by")
}

fn is_leader_line(line: &str) -> bool {
    line.contains("this replica leads")
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_leader_writes_nothing_after_resuming() {
    let mut world = World::with("paused", Setup { resync: Some("1s"), ..Setup::default() }).await;
    world.stop_operator().await;
    let first = controller(&world);
    first.wait_for_line(is_leader_line, DEADLINE).await;
    let second = controller(&world);
    second.wait_for_line(is_standby_line, DEADLINE).await;
    world.apply(&[world.connection(), world.hook("a")]).await;
    world.ready("eventhooks/a").await;
    let first_holder = holder(&world).await.unwrap();
    assert!(first.log().contains(&first_holder), "the first leads:\n{}", first.log());

    // The first is paused in the middle of its work, for longer than its lease.
    signal(&first, Signal::STOP);
    let second_holder = wait_for_other_holder(&world, &first_holder).await;
    assert!(second.log().contains(&second_holder));
    world.edit("evh/a", json!({"event": "routes"})).await;
    world.kong.until_hooks("the edit, by the second", |h| h.len() == 1 && h[0]["event"] == "routes").await;
    world.ready("eventhooks/a").await;

    // When it resumes, work is due (a resync each second), and it finds that it no longer leads.
    let standby_lines = |log: &str| log.lines().filter(|l| is_standby_line(l)).count();
    signal(&first, Signal::CONT);
    first.wait_for_line(is_standby_line, DEADLINE).await;
    assert_eq!(standby_lines(&first.log()), 1);
    assert_eq!(
        holder(&world).await.unwrap(),
        second_holder,
        "the former leader does not take the lease back"
    );
    assert!(first.ended().is_none() && second.ended().is_none(), "a replica exited");

    // Their metrics differ: the standby makes no call.
    let metric = async |process: &Process, name: &str| world.metric(process, name).await;
    assert_eq!(metric(&first, "hookstream_leader").await, 0.0);
    assert_eq!(metric(&second, "hookstream_leader").await, 1.0);
    let calls = metric(&first, "hookstream_admin_requests_total").await;
    let resyncs = world.kong.count("GET", "/event-hooks").await;
    world.edit("evh/a", json!({"event": "services"})).await;
    world.kong.until_hooks("the second edit", |h| h.len() == 1 && h[0]["event"] == "services").await;
    eventually(DEADLINE, "some resyncs of the second", async || {
        let current = world.kong.count("GET", "/event-hooks").await;
        if current >= resyncs + 3 { Ok(()) } else { Err(format!("{current}, {resyncs} before")) }
    })
    .await;
    assert_eq!(metric(&first, "hookstream_admin_requests_total").await, calls, "the standby called Kong");

    // The second stops gracefully; the first takes over at once and reconciles everything.
    second.terminate().await;
    assert!(second.log().contains("lease released"), "{}", second.log());
    world.edit("evh/a", json!({"event": "plugins"})).await;
    world.kong.until_hooks("the edit, by the first", |h| h.len() == 1 && h[0]["event"] == "plugins").await;
    world.ready("eventhooks/a").await;
    assert!(holder(&world).await.is_ok_and(|h| h == first_holder), "the first replica leads again");
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_paused_during_call_makes_no_further_write() {
    let mut world = World::with("in-flight", Setup { resync: Some("1s"), ..Setup::default() }).await;
    world.stop_operator().await;
    let first = controller(&world);
    first.wait_for_line(is_leader_line, DEADLINE).await;
    let gate = ResponseGate::start(&world.kong.url).await;
    world.apply(&[world.connection_with(json!({"kong": {"adminUrl": gate.url}}))]).await;
    world.ready("connections/kong").await;

    // Kong answers the list for ten hooks, and the gate withholds the answer: each hook still has its write before it.
    gate.close();
    let hooks: Vec<Value> = (0..10).map(|n| world.hook(&format!("h{n}"))).collect();
    world.apply(&hooks).await;
    eventually(DEADLINE, "a read in flight", async || {
        let reads = world.kong.count("GET", "/event-hooks").await;
        if reads >= 1 { Ok(()) } else { Err("no reads".to_owned()) }
    })
    .await;
    assert_eq!(world.kong.count("PUT", "/").await, 0);
    let first_holder = holder(&world).await.unwrap();
    signal(&first, Signal::STOP);
    gate.open();
    let second = controller(&world);
    wait_for_other_holder(&world, &first_holder).await;
    for n in 0..10 {
        world.ready(&format!("eventhooks/h{n}")).await;
    }
    let writes = world.kong.count("PUT", "/").await;
    assert_eq!(writes, 10, "the second replica writes each hook");
    let versions =
        |list: &[Value]| list.iter().map(|o| o["metadata"]["resourceVersion"].clone()).collect::<Vec<_>>();
    let mut objects = Vec::new();
    for n in 0..10 {
        objects.push(world.get(&format!("eventhooks/h{n}")).await.unwrap());
    }

    // The first replica resumes with an answer that requires ten writes.
    signal(&first, Signal::CONT);
    first.wait_for_line(is_standby_line, DEADLINE).await;
    eventually(DEADLINE, "its reconciles to end", async || {
        let reconciles = world.metric(&first, "hookstream_reconciles_total").await;
        if reconciles >= 10.0 { Ok(()) } else { Err(format!("{reconciles}")) }
    })
    .await;
    assert_eq!(world.kong.count("PUT", "/").await, writes, "the former leader wrote to Kong");
    let mut current = Vec::new();
    for n in 0..10 {
        current.push(world.get(&format!("eventhooks/h{n}")).await.unwrap());
    }
    assert_eq!(versions(&current), versions(&objects), "the former leader wrote to objects");
    drop(second);
}

#[tokio::test(flavor = "multi_thread")]
async fn standby_follows_killed_leader() {
    let mut world = World::start("killed").await;
    world.stop_operator().await;
    let first = controller(&world);
    first.wait_for_line(is_leader_line, DEADLINE).await;
    let second = controller(&world);
    second.wait_for_line(is_standby_line, DEADLINE).await;
    first.kill9();
    world.apply(&[world.connection(), world.hook("a")]).await;
    world.ready("eventhooks/a").await;
    assert!(second.log().lines().any(is_leader_line));
    assert_eq!(world.kong.hooks().await.len(), 1);
    let lease = lease(&world).await.unwrap();
    assert!(lease["spec"]["leaseTransitions"].as_i64().unwrap() >= 1, "{lease:#}");
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 5, "{lease:#}");
}

/// Two installations in one namespace, each with its own Lease and watched namespaces.
#[tokio::test(flavor = "multi_thread")]
async fn two_leases_have_two_leaders() {
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
    first.wait_for_line(is_leader_line, DEADLINE).await;
    second.wait_for_line(is_leader_line, DEADLINE).await;
    let objects = [world.connection(), world.hook("a")];
    world.apply(&objects).await;
    other.apply(&documents(&objects)).await.unwrap();
    world.ready("eventhooks/a").await;
    world.kong.until_hooks("one of each", |hooks| hooks.len() == 2).await;
    assert!(!first.log().lines().chain(second.log().lines()).any(is_standby_line), "neither stands by");
}

async fn delete_lease(world: &World) {
    world.home.kubectl(&["delete", "lease", "hookstream-controller"]).await.unwrap();
}

/// The leader cannot notice that its Lease was deleted, and would go on after a pause that is shorter than its lease.
#[tokio::test(flavor = "multi_thread")]
async fn no_replica_leads_beside_holder_of_deleted_lease() {
    let mut world = World::start("deleted-lease").await;
    world.stop_operator().await;
    let first = controller(&world);
    first.wait_for_line(is_leader_line, DEADLINE).await;
    let second = controller(&world);
    second.wait_for_line(is_standby_line, DEADLINE).await;
    signal(&first, Signal::STOP);
    let deleted = Instant::now();
    delete_lease(&world).await;
    // A replica that starts now does not know that there was a holder.
    let third = controller(&world);
    let leader_lines = || [&second, &third].map(|p| p.log().lines().filter(|l| is_leader_line(l)).count());
    eventually(DEADLINE, "a new leader", async || match leader_lines() {
        [0, 0] => Err(format!("{}\n{}", second.log(), third.log())),
        _ => Ok(()),
    })
    .await;
    assert!(deleted.elapsed() >= LEASE_DURATION, "it leads while the first may: {:?}", deleted.elapsed());
    signal(&first, Signal::CONT);
    first.wait_for_line(is_standby_line, DEADLINE).await;
    assert_eq!(leader_lines().iter().sum::<usize>(), 1, "one leader");
    world.apply(&[world.connection(), world.hook("a")]).await;
    world.ready("eventhooks/a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holder_of_deleted_lease_pauses_before_it_leads_again() {
    let mut world = World::start("recreated-lease").await;
    world.stop_operator().await;
    let first = controller(&world);
    first.wait_for_line(is_leader_line, DEADLINE).await;
    let deleted = Instant::now();
    delete_lease(&world).await;
    first.wait_for_line(|line| line.contains("waiting until a former holder has stopped"), DEADLINE).await;
    let leader_lines = || first.log().lines().filter(|line| is_leader_line(line)).count();
    eventually(DEADLINE, "leadership again", async || match leader_lines() {
        2 => Ok(()),
        lines => Err(format!("{lines}")),
    })
    .await;
    assert!(deleted.elapsed() >= LEASE_DURATION, "another replica may have led: {:?}", deleted.elapsed());
    world.apply(&[world.connection(), world.hook("a")]).await;
    world.ready("eventhooks/a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_unsafe_lease_settings() {
    for (flag, value) in
        [("--lease-duration", "10s"), ("--lease-retry-period", "8s"), ("--watch-timeout", "1h")]
    {
        let process = Process::spawn(["controller", flag, value], &[("KUBECONFIG", "/dev/null")]);
        let status = process.wait(DEADLINE).await;
        assert_eq!(status.code(), Some(2), "{}", process.log());
        assert!(process.log().contains(flag), "{}", process.log());
    }
}
