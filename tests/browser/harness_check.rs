//! The browser itself: that its emulations have an effect, so that the tests of pages test something.

use axum::Router;
use axum::response::Html;
use axum::routing::get;

use super::driver::{Browser, Scheme};

const PAGE: &str = "<!doctype html><html lang=en><title>Page</title><style>
    body { background: white } @media (prefers-color-scheme: dark) { body { background: black } }</style>
    <main><h1>Page</h1><p id=p>no script</p><img src=x.png><div style='width: 500px'>wide</div></main>
    <script>document.getElementById('p').textContent = 'script'</script>";

async fn serve() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let router = Router::new().route("/", get(async || Html(PAGE)));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: make test runs it where Chromium is"]
async fn emulations_have_an_effect_needs_chromium() {
    let url = serve().await;
    let browser = Browser::start().await;
    for (scheme, colour) in [(Scheme::Dark, "rgb(0, 0, 0)"), (Scheme::Light, "rgb(255, 255, 255)")] {
        browser.set_scheme(scheme).await;
        browser.open(&url).await;
        assert_eq!(browser.run("return getComputedStyle(document.body).backgroundColor").await, colour);
    }
    assert_eq!(browser.text("#p").await, "script");
    browser.set_size(360, 740).await;
    let width = browser.run("return [innerWidth, document.documentElement.scrollWidth > innerWidth]").await;
    assert_eq!(width, serde_json::json!([360, true]));
    let problems = browser.accessibility_problems().await;
    assert!(problems.iter().any(|problem| problem.starts_with("image-alt")), "{problems:?}");
    let errors = browser.console_errors().await;
    assert!(errors.iter().any(|error| error.contains("x.png")), "{errors:?}");
    browser.quit().await;

    let browser = Browser::without_scripts().await;
    browser.open(&url).await;
    assert_eq!(browser.text("#p").await, "no script");
    browser.quit().await;
}
