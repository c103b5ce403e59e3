//! Pages of hooks, replays, connections and the catalogue, and what they do.

use serde_json::json;

use super::driver::Browser;
use super::seeded::{ORDER, Seeded};
use crate::harness::manifests::event;
use crate::harness::worker::{Service, Worker, create_accounts, key_ring_secret, own_address};
use crate::harness::{DEADLINE, Process, eventually};

const NAMESPACE: &str = "/console/namespaces/default";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: make test runs it where Chromium is"]
async fn overview_leads_to_what_is_wrong_needs_chromium() {
    let seeded = Seeded::start().await;
    let browser = Browser::start().await;
    // Twelve failures: the circuit breaker opens, and the hook counts as failing.
    for invoice in 2..13 {
        seeded.publish(&format!("invoice-{invoice}"), "invoice.sent", json!({"invoice": invoice})).await;
    }
    browser.open(&seeded.page("/console/")).await;
    browser.wait_for_text("main", "billing").await;
    // Lost deliveries come before a hook that tries again by itself.
    let wrong = "section[aria-labelledby=wrong] tbody tr";
    browser.wait_for_text(&format!("{wrong}:nth-child(1)"), "warehouse").await;
    browser.wait_for_text(&format!("{wrong}:nth-child(1)"), "5 dead letters in 24 h").await;
    browser
        .wait_for_text("#verdict", "5 deliveries to warehouse became dead letters in the last 24 hours.")
        .await;
    browser.wait_for_text(&format!("{wrong}:nth-child(2)"), "billing").await;
    browser.click("main a[href$='/hooks/billing']").await;
    browser.find("body[data-page=hook]").await;
    browser.wait_for_text("#verdict", "Attempts fail").await;
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: make test runs it where Chromium is"]
async fn hook_is_tested_with_typed_and_stored_data_needs_chromium() {
    let seeded = Seeded::start().await;
    for browser in [Browser::start().await, Browser::without_scripts().await] {
        browser.open(&seeded.page(&format!("{NAMESPACE}/hooks/warehouse"))).await;
        browser.click("a[href$='/hooks/warehouse/test']").await;
        browser.click("input[name=with][value=data]").await;
        browser.fill("#data", "{\"order\": 1}").await;
        browser.click("form[action$='/test'] button[type=submit]").await;
        browser.wait_for_text("#verdict", "422").await;
        let page = browser.text("main").await;
        assert!(page.contains("article A-17 is unknown") && page.contains("POST"), "{page}");
        let sent = seeded.bad.requests().pop().unwrap().json();
        assert_eq!(sent["order"], 1, "{sent}");
        browser.click("input[name=with][value=event]").await;
        browser.fill("#event", ORDER).await;
        browser.click("form[action$='/test'] button[type=submit]").await;
        browser.wait_for_text("#verdict", "422").await;
        assert_eq!(seeded.bad.requests().pop().unwrap().json()["order"], 4711);
        browser.click("input[name=with][value=data]").await;
        browser.fill("#data", "{").await;
        browser.click("form[action$='/test'] button[type=submit]").await;
        browser.wait_for_text("main", "JSON").await;
        browser.quit().await;
    }
    assert_eq!(seeded.deliveries("warehouse", "dead").await.len(), 5, "a test stores nothing");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: make test runs it where Chromium is"]
async fn hook_page_shows_its_deliveries_live_and_commands_needs_chromium() {
    let seeded = Seeded::start().await;
    let browser = Browser::start().await;
    browser.open(&seeded.page(&format!("{NAMESPACE}/hooks/fulfilment"))).await;
    browser.find("body[data-live=on]").await;
    seeded.publish("live-hook", "order.created", json!({"total": 1.5})).await;
    browser.wait_for_text("#content", "live-hook").await;
    let page = browser.text("main").await;
    assert!(
        page.contains("kubectl patch eventhook fulfilment -n default") && page.contains("GitOps"),
        "{page}"
    );
    assert!(
        browser.find_all("form[action^='/console/-/']").await.is_empty(),
        "there is no cluster to change"
    );
    // Ping, where the hook's handler has one.
    browser.click("form[action$='/ping'] button").await;
    browser.find("#verdict").await;
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: make test runs it where Chromium is"]
async fn hooks_are_filtered_by_the_address_needs_chromium() {
    let seeded = Seeded::start().await;
    let browser = Browser::start().await;
    browser.open(&seeded.page(&format!("{NAMESPACE}/hooks"))).await;
    let all = browser.text("main").await;
    assert!(all.contains("fulfilment") && all.contains("newsletter") && all.contains("billing"), "{all}");
    browser.click("form.filters input[name=state][value=paused]").await;
    browser.click("form.filters button[type=submit]").await;
    browser.wait_for_text("main", "newsletter").await;
    let url = browser.url().await;
    assert!(url.contains("state=paused"), "{url}");
    assert!(!browser.text("main table").await.contains("fulfilment"));
    // The address alone leads to the same list.
    browser.open("about:blank").await;
    browser.open(&url).await;
    assert!(browser.text("main table").await.contains("newsletter"));
    assert!(!browser.text("main table").await.contains("fulfilment"));
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: make test runs it where Chromium is"]
async fn sent_event_opens_its_page_needs_chromium() {
    let seeded = Seeded::start().await;
    for (browser, id) in [(Browser::start().await, "sent-1"), (Browser::without_scripts().await, "sent-2")] {
        browser.open(&seeded.page(&format!("{NAMESPACE}/send"))).await;
        for (field, text) in
            [("#source", "shop"), ("#event", "order.created"), ("#id", id), ("#data", "{\"total\": 700.5}")]
        {
            browser.fill(field, text).await;
        }
        browser.click("form[action$='/send'] button[type=submit]").await;
        browser.find("body[data-page=event]").await;
        let page = browser.text("main").await;
        assert!(page.contains("The event was accepted") && page.contains("sales-alerts"), "{page}");
        browser.quit().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: make test runs it where Chromium is"]
async fn running_replay_is_shown_and_cancelled_needs_chromium() {
    let seeded = Seeded::start().await;
    let browser = Browser::start().await;
    browser.open(&seeded.page(&format!("{NAMESPACE}/deliveries/matching?action=replay&state=dead"))).await;
    // So slow that it still runs.
    browser.fill("#rate", "1").await;
    browser.click("form[action*='matching/replay'] button[type=submit]").await;
    browser.open(&seeded.page(&format!("{NAMESPACE}/replays"))).await;
    browser.wait_for_text("main", "running").await;
    browser.click("form[action*='/replays/'] button").await;
    browser.wait_for_text("main", "The replay was cancelled").await;
    browser.wait_for_text("main table", "cancelled").await;
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: make test runs it where Chromium is"]
async fn filter_is_tried_on_a_stored_event_needs_chromium() {
    let seeded = Seeded::start().await;
    let browser = Browser::without_scripts().await;
    browser.open(&seeded.page(&format!("{NAMESPACE}/catalogue"))).await;
    browser.wait_for_text("main", "shop").await;
    browser.fill("#f-event", ORDER).await;
    browser.fill("#f-filter", "data.total > 500.0 && data.customer == 'Ada'").await;
    browser.click("main form[action$='/catalogue'] button[type=submit]").await;
    browser.wait_for_text(".verdict", "The filter rejects the event").await;
    let parts = browser.text("main table").await;
    assert!(parts.contains("false") && parts.contains("true"), "{parts}");
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: make test runs it where Chromium is"]
async fn connection_shows_its_error_and_the_command_needs_chromium() {
    let seeded = Seeded::start().await;
    let browser = Browser::start().await;
    browser.open(&seeded.page(&format!("{NAMESPACE}/connections"))).await;
    browser.wait_for_text("main table", "kong").await;
    browser.click("main table details summary").await;
    browser.wait_for_text("main table", "hookstream reconcile conn/kong -n default").await;
    browser.quit().await;
}

/// The whole way: `hookstream console`, the API server, a worker in a cluster, and changes with the user's kubeconfig.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium and an address other than loopback: make test runs it where both are"]
async fn objects_are_changed_through_hookstream_console_needs_chromium() {
    let Some(ip) = own_address() else {
        return println!("skipped: this machine has no address other than loopback");
    };
    let (namespace, kubeconfig) = create_accounts("console-browser").await;
    let name = namespace.name.clone();
    let rights = json!([
        {"apiGroups": ["hookstream.dev"], "resources": ["deliveries", "eventhooks"], "verbs": ["get", "list"]},
        {"apiGroups": ["hookstream.dev"], "resources": ["events"], "verbs": ["create"]}]);
    namespace.service_account("viewer", &rights.to_string()).await;
    let rights = json!([
        {"apiGroups": [""], "resources": ["services/proxy"], "verbs": ["get", "create"]},
        {"apiGroups": [""], "resources": ["serviceaccounts/token"], "resourceNames": ["viewer"], "verbs": ["create"]},
        {"apiGroups": ["hookstream.dev"], "resources": ["eventhooks", "connections"], "verbs": ["get", "patch"]}]);
    let user = namespace.service_account("user", &rights.to_string()).await;
    namespace.apply(&key_ring_secret()).await.expect("the key ring");
    let worker = Worker::start_on(ip, namespace, kubeconfig, &[]).await;
    let port = worker.api.rsplit(':').next().unwrap().parse().unwrap();
    Service { name: "worker-api", ip, api: port, ingest: None }.create(&worker.namespace).await;
    let hook = json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook", "metadata": {"name": "orders"},
        "spec": {"source": "s", "handler": {"webhook": {"url": "https://receiver.example/"}}}});
    worker.namespace.apply(&hook.to_string()).await.expect("the hook");
    let connection = json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "Connection", "metadata": {"name": "kong"},
        "spec": {"kong": {"adminUrl": "https://kong.example:8444"}}});
    worker.namespace.apply(&connection.to_string()).await.expect("the Connection");
    let publisher = worker.namespace.token("publisher", &["hookstream"]).await;
    let id = event("a/b ?&#%2F")["id"].as_str().unwrap().to_owned();
    let (status, answer) = worker.publish(&name, Some(&publisher), &id).await;
    assert_eq!(status, 202, "{answer}");

    let service = format!("--service={name}/worker-api:api");
    let args = [
        "console",
        "--no-open",
        "--listen",
        "127.0.0.1:0",
        "-n",
        &name,
        &service,
        "--service-account",
        "viewer",
    ];
    let envs = [("KUBECONFIG", user.to_str().unwrap())];
    // Until the API server uses the endpoints, the command fails.
    let (_console, link) = eventually(DEADLINE, "hookstream console to reach the worker", async || {
        let console = Process::spawn(args, &envs);
        let link = eventually(DEADLINE, "the link, or the end", async || {
            let log = console.log();
            match log.lines().find(|line| line.starts_with("http://")) {
                Some(link) => Ok(Ok(link.to_owned())),
                None if console.ended().is_some() => Ok(Err(log)),
                None => Err(log),
            }
        })
        .await?;
        Ok((console, link))
    })
    .await;
    let browser = Browser::start().await;
    browser.open(&link).await;
    browser.find("body[data-page]").await;
    let origin = link.split("/console/").next().unwrap();
    assert_eq!(
        browser.url().await,
        format!("{}/console/namespaces/{name}", link.split("/console/").next().unwrap())
    );
    // An id that a server on the way would change.
    browser.open(&format!("{origin}/console/namespaces/{name}/events")).await;
    browser.wait_for_text("main table", &id).await;
    browser.click("main table a[data-row]").await;
    browser.wait_for_text("#id", &id).await;

    browser.open(&format!("{origin}/console/namespaces/{name}/hooks/orders")).await;
    browser.find("body[data-live=on]").await;
    browser.click("form[action='/console/-/pause'] button").await;
    browser.wait_for_text("h1", "Pause EventHook").await;
    let problems = browser.accessibility_problems().await;
    assert!(problems.is_empty(), "{problems:?}");
    browser.click("form[action='/console/-/pause'] button").await;
    browser.wait_for_text("main", "The hook is paused").await;
    let paused = ["get", "evh", "orders", "-o", "jsonpath={.spec.delivery.paused}"];
    assert_eq!(worker.namespace.kubectl(&paused).await.unwrap(), "true");
    // The worker has seen it; the page follows.
    browser.wait_for_text(".title .pill", "paused").await;
    browser.click("form[action='/console/-/resume'] button").await;
    browser.click("form[action='/console/-/resume'] button").await;
    browser.wait_for_text("main", "The hook was resumed").await;

    // A reconcile changes an annotation, which no GitOps tool reverts.
    browser.open(&format!("{origin}/console/namespaces/{name}/connections")).await;
    browser.click("main table form[action='/console/-/reconcile'] button").await;
    browser.wait_for_text("h1", "Reconcile Connection").await;
    browser.click("form[action='/console/-/reconcile'] button").await;
    browser.wait_for_text("main", "A reconcile was requested").await;
    let requested = [
        "get",
        "conn",
        "kong",
        "-o",
        "jsonpath={.metadata.annotations.hookstream\\.dev/reconcileRequestedAt}",
    ];
    let requested = worker.namespace.kubectl(&requested).await.unwrap();
    assert!(requested.starts_with("20"), "{requested}");
    let errors = browser.console_errors().await;
    assert!(errors.is_empty(), "{errors:?}");
    browser.quit().await;
}
