//! Log-in, and users without rights.

use super::driver::Browser;
use super::seeded::{ORDER, Seeded};
use crate::harness::watchdog;
use crate::harness::worker::{Worker, create_accounts, key_ring_secret};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: make test runs it where Chromium is"]
async fn user_logs_in_and_out_needs_chromium() {
    let file = watchdog::unique_path("token");
    std::fs::write(&file, "a-long-token-of-the-test").unwrap();
    let seeded = Seeded::start_with_token(&file).await;
    let browser = Browser::start().await;
    let page = seeded.page(&format!("/console/namespaces/default/event?id={ORDER}"));
    browser.open(&page).await;
    browser.find("body[data-page=login]").await;
    browser.fill("#token", "wrong").await;
    browser.click("form[action='/console/login'] button").await;
    browser.find("#problem").await;
    let problems = browser.accessibility_problems().await;
    assert!(problems.is_empty(), "{problems:?}");
    browser.fill("#token", "a-long-token-of-the-test").await;
    browser.click("form[action='/console/login'] button").await;
    browser.find("body[data-page=event]").await;
    assert_eq!(browser.url().await, page, "log-in leads to the requested page");
    let cookies = browser.run("return document.cookie").await;
    assert_eq!(cookies, "", "scripts see no session");
    assert!(!browser.source().await.contains("a-long-token-of-the-test"));
    browser.click("form[action='/console/logout'] button").await;
    browser.find("body[data-page=login]").await;
    browser.open(&page).await;
    browser.find("body[data-page=login]").await;
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: make test runs it where Chromium is"]
async fn user_without_rights_sees_the_role_needs_chromium() {
    let (namespace, kubeconfig) = create_accounts("console-rights").await;
    let name = namespace.name.clone();
    let list = "[{apiGroups: [hookstream.dev], resources: [deliveries], verbs: [get, list]}]";
    namespace.service_account("lists", list).await;
    namespace.apply(&key_ring_secret()).await.expect("the key ring");
    let worker = Worker::start(namespace, kubeconfig, &[]).await;
    let publisher = worker.namespace.token("publisher", &["hookstream"]).await;
    let (status, body) = worker.publish(&name, Some(&publisher), "e-1").await;
    assert_eq!(status, 202, "{body}");
    let browser = Browser::start().await;
    let page = format!("{}/console/namespaces/{name}/events", worker.api);
    let log_in = async |account: &str| {
        let token = worker.namespace.token(account, &["hookstream"]).await;
        browser.open(&page).await;
        browser.fill("#token", &token).await;
        browser.click("form[action='/console/login'] button").await;
    };
    log_in("reader").await;
    browser.find("body[data-page=error]").await;
    let text = browser.text("main").await;
    assert!(text.contains("the role deliveries-reader"), "{text}");
    let problems = browser.accessibility_problems().await;
    assert!(problems.is_empty(), "{problems:?}");
    browser.click("form[action='/console/logout'] button").await;
    browser.find("body[data-page=login]").await;

    // An account that lists events sees which role can read their data.
    log_in("lists").await;
    browser.find("body[data-page=events]").await;
    browser.open(&format!("{}/console/namespaces/{name}/event?id=e-1", worker.api)).await;
    browser.wait_for_text("main", "the role deliveries-payload").await;
    browser.quit().await;
}
