//! What users do: find out why an order did not arrive, replay, cancel, with and without scripts, and with the keyboard only.

use super::driver::{Browser, ENTER, TAB};
use super::seeded::{ORDER, Seeded};
use crate::harness::{DEADLINE, Reply, eventually};

const NAMESPACE: &str = "/console/namespaces/default";

/// Returns the path of the page of the order's delivery to `warehouse`.
async fn order_delivery(seeded: &Seeded) -> String {
    let dead = seeded.deliveries("warehouse", "dead").await;
    let delivery = dead.iter().find(|delivery| delivery["event"] == ORDER).expect("the order's delivery");
    format!("{NAMESPACE}/deliveries/{}", delivery["id"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: make test runs it where Chromium is"]
async fn search_answers_why_an_order_did_not_arrive_needs_chromium() {
    let seeded = Seeded::start().await;
    let browser = Browser::start().await;
    browser.open(&seeded.page(&format!("{NAMESPACE}/events"))).await;
    browser.fill("#q", "4711").await;
    browser.press(ENTER).await;
    browser.find("body[data-page=event]").await;
    assert!(browser.text("h1").await.contains(ORDER));
    let verdict = browser.text("#verdict").await;
    assert!(verdict.contains("warehouse") && verdict.contains("422"), "{verdict}");
    let page = browser.text("main").await;
    assert!(page.contains("fulfilment") && page.contains("delivered"), "{page}");
    assert!(page.contains("sales-alerts") && page.contains("filter"), "{page}");
    // The second click: the answer of the receiver.
    browser.click("tr:has(a[href$='/hooks/warehouse']) a[data-row]").await;
    browser.find("body[data-page=delivery]").await;
    let page = browser.text("main").await;
    assert!(page.contains("article A-17 is unknown") && page.contains("Attempt 1"), "{page}");
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: make test runs it where Chromium is"]
async fn event_replays_first_what_is_dead_needs_chromium() {
    let seeded = Seeded::start().await;
    let browser = Browser::start().await;
    let received = seeded.good.requests().len();
    browser.open(&seeded.page(&format!("{NAMESPACE}/event?id={ORDER}"))).await;
    assert_eq!(browser.text(".title .actions .primary").await, "Replay the dead delivery");
    // All of them is another action, which first says what it repeats.
    browser.click(".title .actions form:last-child button").await;
    browser.wait_for_text("h1", "Replay 2 deliveries?").await;
    browser
        .wait_for_text("main .notice", "Already arrived: 1 delivery. Its receiver gets it a second time.")
        .await;
    assert!(browser.find_all("main .primary").await.is_empty(), "a replay of what arrived is not primary");
    browser.open(&seeded.page(&format!("{NAMESPACE}/event?id={ORDER}"))).await;
    seeded.bad.script(|_, _| Reply::status(200));
    browser.click(".title .actions .primary").await;
    browser.wait_for_text("main", "The delivery is replayed now").await;
    seeded.wait_for_deliveries("warehouse", "delivered", 1).await;
    assert_eq!(seeded.good.requests().len(), received, "what had arrived is not repeated");
    browser.quit().await;
}

/// Replays the order after its receiver was repaired.
async fn replay_order(browser: &Browser, seeded: &Seeded) {
    browser.open(&seeded.page(&order_delivery(seeded).await)).await;
    seeded.bad.script(|_, _| Reply::status(200));
    browser.click("form[action$='/replay'] button").await;
    browser.wait_for_text("main", "The delivery is replayed now").await;
    seeded.wait_for_deliveries("warehouse", "delivered", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: make test runs it where Chromium is"]
async fn replayed_delivery_shows_its_result_without_a_reload_needs_chromium() {
    let seeded = Seeded::start().await;
    let browser = Browser::start().await;
    replay_order(&browser, &seeded).await;
    browser.wait_for_text("#verdict", "delivered after 2 attempts").await;
    browser.wait_for_text(".title .pill", "delivered").await;
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: make test runs it where Chromium is"]
async fn lists_are_updated_live_needs_chromium() {
    let seeded = Seeded::start().await;
    let browser = Browser::start().await;
    for (page, hook) in [("deliveries", "fulfilment"), ("events", "")] {
        browser.open(&seeded.page(&format!("{NAMESPACE}/{page}?hook={hook}"))).await;
        browser.find("body[data-live=on]").await;
        browser.run("window.isTheSamePage = true").await;
        // A context menu takes the end of this.
        browser.run("document.dispatchEvent(new PointerEvent('pointerdown', {button: 2}))").await;
        let id = format!("live-{page}");
        seeded.publish(&id, "order.created", serde_json::json!({"total": 1.5})).await;
        browser.wait_for_text("#content", &id).await;
        assert_eq!(browser.run("return window.isTheSamePage").await, true, "{page} was loaded again");
    }
    // A form that is being filled is left alone.
    browser.fill("#f-hook", "half-typed").await;
    seeded.publish("live-later", "order.created", serde_json::json!({"total": 1.5})).await;
    seeded.wait_for_deliveries("fulfilment", "delivered", 8).await;
    assert_eq!(browser.run("return document.activeElement.value").await, "half-typed");
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: make test runs it where Chromium is"]
async fn live_updates_keep_a_changed_filter_and_a_selection_needs_chromium() {
    let seeded = Seeded::start().await;
    let browser = Browser::start().await;
    let order = serde_json::json!({"total": 1.5});
    browser.open(&seeded.page(&format!("{NAMESPACE}/deliveries?hook=fulfilment&state=delivered"))).await;
    browser.find("body[data-live=on]").await;
    // A filter that is not applied yet: a box that was checked, one that was not, and a text.
    browser.click("input[name=state][value=delivered]").await;
    browser.click("input[name=state][value=pending]").await;
    browser.fill("#f-reason", "Timeout").await;
    browser.run("document.activeElement.blur()").await;
    seeded.publish("live-filter", "order.created", order.clone()).await;
    browser.wait_for_text("#content table", "live-filter").await;
    let script = "const box = (state) => document.querySelector(`input[name=state][value=${state}]`).checked;
        return [box('delivered'), box('pending'), document.querySelector('#f-reason').value]";
    assert_eq!(browser.run(script).await, serde_json::json!([false, true, "Timeout"]));
    // The filter that was kept still works.
    browser.click("form.filters button[type=submit]").await;
    browser.wait_for_text("#content", "No delivery matches this filter").await;
    assert!(browser.url().await.contains("reason=Timeout"), "{}", browser.url().await);

    // Selected rows stay where they are until the selection is used or cleared.
    browser.open(&seeded.page(&format!("{NAMESPACE}/deliveries?hook=fulfilment"))).await;
    browser.find("body[data-live=on]").await;
    // Opens the page's own stream again, to show when it has received the change.
    browser
        .run(
            "const Stream = window.EventSource;
            window.EventSource = class extends Stream {
                constructor(...args) {
                    super(...args);
                    this.addEventListener('open', () => { document.body.dataset.observed = true });
                    this.addEventListener('content', (event) => {
                        document.body.dataset.seen = event.data.includes('live-selected');
                    });
                }
            };
            window.dispatchEvent(new Event('pagehide'));
            document.dispatchEvent(new Event('visibilitychange'))",
        )
        .await;
    browser.find("body[data-observed=true]").await;
    browser.click("tbody tr:nth-child(2) input[name=id]").await;
    browser.run("document.activeElement.blur()").await;
    browser.wait_for_text("[data-selected-count]", "1 selected, updates are paused").await;
    let selected = "return document.querySelector('input[name=id]:checked')?.value";
    let before = browser.run(selected).await;
    seeded.publish("live-selected", "order.created", order).await;
    browser.find("body[data-seen=true]").await;
    assert_eq!(browser.run(selected).await, before);
    browser.click("tbody tr:nth-child(2) input[name=id]").await;
    browser.run("document.activeElement.blur()").await;
    browser.wait_for_text("#content table", "live-selected").await;
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: make test runs it where Chromium is"]
async fn pending_deliveries_are_cancelled_needs_chromium() {
    let seeded = Seeded::start().await;
    let browser = Browser::start().await;
    // One, on its own page, which shows the result.
    browser.open(&seeded.page(&format!("{NAMESPACE}/deliveries?state=pending&hook=billing"))).await;
    browser.click("a[data-row]").await;
    browser.find("body[data-page=delivery]").await;
    browser.click("form[action$='/cancel'] button").await;
    browser.wait_for_text("main", "The delivery was cancelled").await;
    browser.wait_for_text(".title .pill", "cancelled").await;
    assert_eq!(seeded.deliveries("billing", "cancelled").await.len(), 1);

    // Selected ones.
    for customer in 2..7 {
        let data = serde_json::json!({"customer": customer});
        seeded.publish(&format!("customer-{customer}"), "customer.registered", data).await;
    }
    seeded.wait_for_deliveries("newsletter", "pending", 6).await;
    let list = format!("{NAMESPACE}/deliveries?state=pending&hook=newsletter");
    browser.open(&seeded.page(&list)).await;
    for row in [1, 2] {
        browser.click(&format!("tbody tr:nth-child({row}) input[name=id]")).await;
    }
    browser.click("button[name=action][value=cancel]").await;
    browser.wait_for_text("h1", "Cancel 2 deliveries?").await;
    assert_eq!(seeded.deliveries("newsletter", "pending").await.len(), 6, "a question changes nothing");
    browser.click("form[action$='/confirm'] button").await;
    browser.wait_for_text("h1", "2 deliveries cancelled").await;
    seeded.wait_for_deliveries("newsletter", "cancelled", 2).await;

    // All that match, after their number.
    browser.open(&seeded.page(&list)).await;
    browser.click("a[href*='/matching?'][href*='action=cancel']").await;
    browser.wait_for_text("h1", "Cancel 4 deliveries?").await;
    assert_eq!(seeded.deliveries("newsletter", "pending").await.len(), 4, "a count changes nothing");
    browser.click("form[action*='matching/cancel'] button[type=submit]").await;
    browser.wait_for_text("h1", "4 deliveries cancelled").await;
    seeded.wait_for_deliveries("newsletter", "cancelled", 6).await;
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: make test runs it where Chromium is"]
async fn everything_works_without_scripts_needs_chromium() {
    let seeded = Seeded::start().await;
    let browser = Browser::without_scripts().await;
    // Filter, select, confirm.
    browser.open(&seeded.page(&format!("{NAMESPACE}/deliveries"))).await;
    browser.click("input[name=state][value=dead]").await;
    browser.click("form.filters button[type=submit]").await;
    assert!(browser.url().await.contains("state=dead"));
    let boxes = browser.find_all("input[name=id]").await;
    assert_eq!(boxes.len(), 5);
    for found in &boxes[..2] {
        found.click().await.unwrap();
    }
    seeded.bad.script(|_, _| Reply::status(200));
    browser.click("button[name=action][value=replay]").await;
    browser.wait_for_text("h1", "Replay 2 deliveries?").await;
    browser.click("form[action$='/confirm'] button").await;
    browser.wait_for_text("h1", "2 deliveries replayed").await;
    seeded.wait_for_deliveries("warehouse", "delivered", 2).await;
    // One delivery by its own button; the page shows the result when it is loaded again.
    browser.open(&seeded.page(&format!("{NAMESPACE}/event?id={ORDER}"))).await;
    browser.click("form[action$='/replay'] button").await;
    browser.wait_for_text("main", "The delivery is replayed now").await;
    // Cancel a pending one.
    browser.open(&seeded.page(&format!("{NAMESPACE}/deliveries?state=pending&hook=billing"))).await;
    browser.click("a[data-row]").await;
    browser.click("form[action$='/cancel'] button").await;
    browser.wait_for_text("main", "The delivery was cancelled").await;
    assert_eq!(seeded.deliveries("billing", "cancelled").await.len(), 1);
    // Search.
    browser.fill("#q", "4711").await;
    browser.press(ENTER).await;
    browser.find("body[data-page=event]").await;
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: make test runs it where Chromium is"]
async fn keyboard_is_enough_needs_chromium() {
    let seeded = Seeded::start().await;
    let browser = Browser::start().await;
    browser.open(&seeded.page(&format!("{NAMESPACE}/events"))).await;
    // The first stop leads past the navigation.
    browser.press(TAB).await;
    assert_eq!(browser.run("return document.activeElement.className").await, "skip");
    browser.press(ENTER).await;
    assert_eq!(browser.run("return document.activeElement.id").await, "main");
    // Every stop is visible and has an outline.
    for stop in 0..12 {
        browser.press(TAB).await;
        let script = "const e = document.activeElement, r = e.getBoundingClientRect(), s = getComputedStyle(e);
            return [e.tagName, r.width > 0 && r.height > 0, s.outlineStyle !== 'none' || s.boxShadow !== 'none']";
        let found = browser.run(script).await;
        assert!(found[0] == "BODY" || (found[1] == true && found[2] == true), "stop {stop}: {found}");
    }
    // Search, move through a list, open, replay.
    browser.open(&seeded.page(&format!("{NAMESPACE}/events"))).await;
    browser.press("/").await;
    assert_eq!(browser.run("return document.activeElement.id").await, "q");
    browser.press("4711").await;
    browser.press(ENTER).await;
    browser.find("body[data-page=event]").await;
    browser.press("j").await;
    browser.press(ENTER).await;
    browser.find("body[data-page=delivery]").await;
    seeded.bad.script(|_, _| Reply::status(200));
    let script = "document.querySelector(\"form[action$='/replay'] button\").focus()";
    browser.run(script).await;
    browser.press(ENTER).await;
    browser.wait_for_text("main", "The delivery is replayed now").await;
    // Another page.
    browser.press("g").await;
    browser.press("d").await;
    browser.find("body[data-page=deliveries]").await;
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: make test runs it where Chromium is"]
async fn bulk_change_counts_first_needs_chromium() {
    let seeded = Seeded::start().await;
    let browser = Browser::start().await;
    browser.open(&seeded.page(&format!("{NAMESPACE}/deliveries?state=dead&hook=warehouse"))).await;
    browser.click("input[data-select-all]").await;
    browser.wait_for_text("[data-selected-count]", "5 selected").await;
    browser.click("a[href*='/matching?'][href*='action=replay']").await;
    browser.wait_for_text("h1", "Replay 5 deliveries?").await;
    assert_eq!(seeded.deliveries("warehouse", "dead").await.len(), 5, "a count changes nothing");
    seeded.bad.script(|_, _| Reply::status(200));
    browser.click("form[action*='matching/replay'] button[type=submit]").await;
    browser.wait_for_text("main", "replay").await;
    seeded.wait_for_deliveries("warehouse", "delivered", 5).await;
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: make test runs it where Chromium is"]
async fn times_are_those_of_the_viewer_needs_chromium() {
    let seeded = Seeded::start().await;
    let browser = Browser::start().await;
    let mut shown = Vec::new();
    for zone in ["UTC", "Asia/Kolkata"] {
        browser.set_time_zone(zone).await;
        browser.open(&seeded.page(&format!("{NAMESPACE}/event?id={ORDER}"))).await;
        let text = eventually(DEADLINE, "a local time", async || {
            let text = browser.text("dl.facts time").await;
            if text.is_empty() || text.contains("UTC") { Err(text) } else { Ok(text) }
        })
        .await;
        let exact = browser.run("return document.querySelector('dl.facts time').title").await;
        let exact = exact.as_str().expect("the exact time");
        assert!(exact.ends_with('Z') && exact.contains('T'), "{exact}");
        shown.push(text);
    }
    assert_ne!(shown[0], shown[1], "half past five hours apart");
    browser.quit().await;
}
