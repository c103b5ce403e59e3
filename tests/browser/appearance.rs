//! Every page: accessible in both colour schemes, without errors of the browser, on a phone, with a picture of each.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::driver::{Browser, Scheme};
use super::seeded::{HOSTILE, ORDER, Seeded};
use crate::harness::Reply;

/// A page of the console.
pub struct PageUnderTest {
    /// The attribute `data-page` of its body.
    pub id: &'static str,
    /// The name of its picture.
    pub picture: &'static str,
    pub path: String,
}

const NAMESPACE: &str = "/console/namespaces/default";

/// Returns the pages with content and their empty states.
pub async fn pages(seeded: &Seeded) -> Vec<PageUnderTest> {
    let dead = seeded.deliveries("warehouse", "dead").await;
    let delivery = dead.iter().find(|delivery| delivery["event"] == ORDER).expect("the order's delivery");
    let delivery = format!("deliveries/{}", delivery["id"].as_str().unwrap());
    let page = |id, picture, path: &str| PageUnderTest { id, picture, path: format!("{NAMESPACE}{path}") };
    vec![
        page("events", "events", "/events"),
        page("events", "events-empty", "/events?hook=nothing"),
        page("event", "event", &format!("/event?id={ORDER}")),
        page("event", "event-unmatched", "/event?id=unmatched-1"),
        page("deliveries", "deliveries", "/deliveries"),
        page("deliveries", "deliveries-dead", "/deliveries?state=dead"),
        page("deliveries", "deliveries-empty", "/deliveries?hook=nothing"),
        page("delivery", "delivery", &format!("/{delivery}")),
        page("search", "search", "/search?q=order"),
        page("confirm", "confirm", "/deliveries/matching?action=replay&state=dead"),
        page("error", "error", "/nothing"),
        page("overview", "overview", ""),
        PageUnderTest { id: "overview", picture: "overview-all", path: "/console/".into() },
        page("hooks", "hooks", "/hooks"),
        page("hook", "hook", "/hooks/warehouse"),
        page("hook", "hook-paused", "/hooks/newsletter"),
        page("hook-test", "hook-test", "/hooks/warehouse/test"),
        page("send", "send", "/send"),
        page("replays", "replays", "/replays"),
        page("connections", "connections", "/connections"),
        page("catalogue", "catalogue", "/catalogue"),
    ]
}

/// Returns the path of a picture in target/console.
fn picture(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("console");
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(format!("{name}.png"))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: make test runs it where Chromium is"]
async fn pages_are_accessible_in_both_schemes_needs_chromium() {
    let seeded = Seeded::start().await;
    let browser = Browser::start().await;
    let mut problems = Vec::new();
    for page in pages(&seeded).await {
        for scheme in Scheme::ALL {
            browser.set_scheme(scheme).await;
            browser.open(&seeded.page(&page.path)).await;
            let shown = browser.find("body").await.attr("data-page").await.unwrap();
            let name = format!("{}-{}", page.picture, scheme.name());
            if shown.as_deref() != Some(page.id) {
                problems.push(format!("{name}: {shown:?} at {}: {}", page.path, browser.text("main").await));
            }
            let structure = "return [document.documentElement.lang, document.title !== '', document.querySelectorAll('h1').length,
                document.querySelectorAll('main').length, document.querySelectorAll('script:not([src]), style, [style], [onclick]').length]";
            let structure = browser.run(structure).await;
            if structure != serde_json::json!(["en", true, 1, 1, 0]) {
                problems.push(format!("{name}: language, title, headings, main, inline code: {structure}"));
            }
            problems.extend(
                browser
                    .accessibility_problems()
                    .await
                    .into_iter()
                    .map(|problem| format!("{name}: {problem}")),
            );
            let is_failed_page = |error: &String| page.id == "error" && error.contains("404");
            let errors = browser.console_errors().await.into_iter().filter(|error| !is_failed_page(error));
            problems.extend(errors.map(|error| format!("{name}: {error}")));
            browser.capture(&picture(&name)).await;
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    browser.quit().await;
}

/// Copy them to docs/images when the pages have changed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: make test runs it where Chromium is"]
async fn pictures_of_the_documents_show_what_is_wrong_needs_chromium() {
    let seeded = Seeded::start().await;
    seeded.bad.script(|_, _| {
        let reply = Reply::status(422).header("content-type", "application/json");
        reply.body("{\"error\": \"article A-17 is unknown\"}")
    });
    let order = json!({"order": 4720, "total": 129.9, "customer": "Ada Lovelace"});
    seeded.publish("order-4720", "order.created", order).await;
    // Twelve failures open the circuit breaker.
    for invoice in 2..13 {
        seeded.publish(&format!("invoice-{invoice}"), "invoice.sent", json!({"invoice": invoice})).await;
    }
    seeded.wait_for_deliveries("warehouse", "dead", 6).await;
    let dead = seeded.deliveries("warehouse", "dead").await;
    let delivery = dead.iter().find(|delivery| delivery["event"] == "order-4720").expect("the delivery");
    let delivery = format!("{NAMESPACE}/deliveries/{}", delivery["id"].as_str().unwrap());
    let browser = Browser::start().await;
    browser.set_size(1200, 780).await;
    for (name, path, scheme, shown) in [
        ("console-overview", "/console/".to_owned(), Scheme::Light, "billing"),
        ("console-event", format!("{NAMESPACE}/event?id=order-4720"), Scheme::Light, "last 422"),
        ("console-delivery-dark", delivery, Scheme::Dark, "article A-17 is unknown"),
    ] {
        browser.set_scheme(scheme).await;
        browser.open(&seeded.page(&path)).await;
        browser.find("body[data-live=on]").await;
        browser.wait_for_text("main", shown).await;
        browser.capture(&picture(name)).await;
    }
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: make test runs it where Chromium is"]
async fn dark_scheme_is_dark_needs_chromium() {
    let seeded = Seeded::start().await;
    let browser = Browser::start().await;
    let mut brightness = Vec::new();
    for scheme in Scheme::ALL {
        browser.set_scheme(scheme).await;
        browser.open(&seeded.page("/console/events")).await;
        let script = "const sum = (of) => getComputedStyle(document.body)[of].match(/[0-9]+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0);
            return [sum('backgroundColor'), sum('color')]";
        let sums = browser.run(script).await;
        brightness.push((sums[0].as_u64().unwrap(), sums[1].as_u64().unwrap()));
    }
    let [light, dark] = brightness[..] else { panic!("{brightness:?}") };
    assert!(light.0 > 650 && light.1 < 200, "light: {light:?}");
    assert!(dark.0 < 150 && dark.1 > 600, "dark: {dark:?}");
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: make test runs it where Chromium is"]
async fn pages_fit_a_phone_needs_chromium() {
    let seeded = Seeded::start().await;
    let browser = Browser::start().await;
    browser.set_size(360, 740).await;
    let mut problems = Vec::new();
    for page in pages(&seeded).await {
        browser.open(&seeded.page(&page.path)).await;
        let script = "const wide = [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1
                && getComputedStyle(e).position !== 'absolute').slice(0, 5).map(e => e.outerHTML.slice(0, 120));
            return [innerWidth, document.documentElement.scrollWidth, wide.join(' ')]";
        let found = browser.run(script).await;
        if found[0] != 360 || found[1].as_u64().unwrap() > 360 {
            problems.push(format!("{}: {found}", page.picture));
        }
        browser.capture(&picture(&format!("{}-phone", page.picture))).await;
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: make test runs it where Chromium is"]
async fn tables_fit_a_laptop_needs_chromium() {
    let seeded = Seeded::start().await;
    let browser = Browser::start().await;
    browser.set_size(1280, 800).await;
    let mut problems = Vec::new();
    for path in ["events", "deliveries", "hooks", "namespaces/default/event?id=order-4711"] {
        browser.open(&seeded.page(&format!("/console/{path}"))).await;
        let script = "return [...document.querySelectorAll('.table')].filter(e => e.scrollWidth > e.clientWidth + 1).length";
        if browser.run(script).await != 0 {
            problems.push(path);
        }
        browser.capture(&picture(&format!("laptop-{}", path.split(['/', '?']).next().unwrap()))).await;
    }
    assert!(problems.is_empty(), "a table is cut off at the right: {problems:?}");
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: make test runs it where Chromium is"]
async fn hostile_texts_stay_texts_needs_chromium() {
    let seeded = Seeded::start().await;
    let browser = Browser::start().await;
    let dead = seeded.deliveries("warehouse", "dead").await;
    let hostile = dead.iter().find(|delivery| delivery["event"] == HOSTILE).expect("the hostile event");
    let query: String = url::form_urlencoded::byte_serialize(HOSTILE.as_bytes()).collect();
    let event: String = percent(HOSTILE);
    let mut shown = 0;
    for path in [
        "/console/events".to_owned(),
        "/console/deliveries".to_owned(),
        format!("{NAMESPACE}/event?id={query}"),
        format!("{NAMESPACE}/deliveries/{}", hostile["id"].as_str().unwrap()),
        format!("{NAMESPACE}/search?q={query}"),
        format!("{NAMESPACE}/events?source={query}&hook={query}"),
        format!("{NAMESPACE}/deliveries?event={query}&since={query}"),
        format!("/console/go?namespace={query}"),
        format!("{NAMESPACE}/{event}"),
    ] {
        browser.open(&seeded.page(&path)).await;
        // Scripts run after the page; an image fails after that.
        let settled = "const done = arguments[0]; setTimeout(() => requestAnimationFrame(() => done(document.title)), 50)";
        let title = browser.run_async(settled).await;
        assert_ne!(title, "pwned", "{path}");
        let injected =
            "return document.querySelectorAll('script:not([src]), img[onerror], img[src=x]').length";
        assert_eq!(browser.run(injected).await, 0, "{path}");
        shown += usize::from(browser.text("main").await.contains("<script>"));
    }
    assert!(shown >= 5, "the hostile texts are on {shown} pages");
    browser.quit().await;
}

/// Encodes a text as one segment of a path.
fn percent(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    text.bytes()
        .map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
