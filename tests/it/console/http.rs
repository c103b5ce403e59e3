//! The console's pages over HTTP: headers, sessions, many items, hostile names, secrets.

use std::path::PathBuf;

use reqwest::Response;
use reqwest::redirect::Policy;
use serde_json::json;

use crate::harness::deliveries::list_deliveries;
use crate::harness::manifests::{event, hook, quick};
use crate::harness::standalone::{EVENTS, Standalone};
use crate::harness::{DEADLINE, Receiver, Reply, eventually, watchdog};

/// A browser without scripts: it follows no redirect by itself.
pub fn browser() -> reqwest::Client {
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder().no_proxy().redirect(Policy::none()).timeout(DEADLINE).build().unwrap()
}

pub fn url(standalone: &Standalone, path: &str) -> String {
    format!("http://{}{path}", standalone.api)
}

/// Adds a form's fields to a request.
pub fn form(request: reqwest::RequestBuilder, fields: &[(&str, &str)]) -> reqwest::RequestBuilder {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    request.header("content-type", "application/x-www-form-urlencoded").body(body)
}

/// Gets a page that must be there.
pub async fn page(standalone: &Standalone, path: &str) -> String {
    let response = browser().get(url(standalone, path)).send().await.unwrap();
    let (status, text) = (response.status().as_u16(), response.text().await.unwrap());
    assert_eq!(status, 200, "{path}: {text}");
    text
}

/// Returns the value of the first CSRF field of a page.
pub fn csrf(page: &str) -> String {
    let (_, rest) = page.split_once("name=\"csrf\" value=\"").expect("a form");
    rest.split('"').next().unwrap().to_owned()
}

/// Writes a token file. Returns its path and the token.
fn token_file() -> (PathBuf, &'static str) {
    let path = watchdog::unique_path("token");
    std::fs::write(&path, "s3cr3t-console-token\n").unwrap();
    (path, "s3cr3t-console-token")
}

/// Logs in. Returns the cookie.
async fn log_in(standalone: &Standalone, token: &str) -> Response {
    let page = browser().get(url(standalone, "/console/login")).send().await.unwrap().text().await.unwrap();
    let csrf = csrf(&page);
    let fields = [("csrf", csrf.as_str()), ("token", token), ("next", "/console/events")];
    form(browser().post(url(standalone, "/console/login")), &fields).send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_response_has_the_security_headers() {
    let standalone = Standalone::start(&hook("h", "http://127.0.0.1:9/", json!({})), &[]).await;
    for path in
        ["/console/", "/console/events", "/console/nothing", "/console/login", "/console/namespaces/X"]
    {
        let response = browser().get(url(&standalone, path)).send().await.unwrap();
        let headers = response.headers();
        let policy = headers["content-security-policy"].to_str().unwrap();
        for part in ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"]
        {
            assert!(policy.contains(part) && !policy.contains("unsafe"), "{path}: {policy}");
        }
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(headers["referrer-policy"], "same-origin", "{path}");
        assert_eq!(headers["cache-control"], "no-store", "{path}");
    }
    let text = page(&standalone, "/console/").await;
    assert!(!text.contains("style=") && !text.contains("<style") && !text.contains("onclick"), "{text}");
    let (_, style) = text.split_once("rel=\"stylesheet\" href=\"").unwrap();
    let style = browser().get(url(&standalone, style.split('"').next().unwrap())).send().await.unwrap();
    assert_eq!(style.status(), 200);
    assert!(style.headers()["cache-control"].to_str().unwrap().contains("immutable"));
    let stale = browser().get(url(&standalone, "/console/assets/0000/style.css")).send().await.unwrap();
    assert_eq!(stale.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_an_empty_and_of_a_full_worker_are_shown() {
    let receiver = Receiver::start(|_, n| Reply::status(if n % 3 == 0 { 200 } else { 400 }));
    let terminal = json!({"delivery": {"retry": {"maxAttempts": 1}}});
    let manifests = format!(
        "{}---\n{}",
        hook("a", &receiver.url(), terminal),
        hook("b", &receiver.url(), json!({"event": "other"}))
    );
    let standalone = Standalone::start(&manifests, &[]).await;
    let empty = ["", "/hooks", "/events", "/deliveries", "/replays", "/connections", "/catalogue"];
    for path in empty {
        page(&standalone, &format!("/console/namespaces/default{path}")).await;
        page(
            &standalone,
            &format!("/console{path}")
                .replace("/console", if path.is_empty() { "/console/" } else { "/console" }),
        )
        .await;
    }
    assert!(page(&standalone, "/console/namespaces/default/deliveries").await.contains("No deliveries yet"));
    for n in 0..60 {
        standalone.publish_accepted(&event(&format!("order-{n}"))).await;
    }
    receiver.wait_for(60, DEADLINE).await;
    eventually(DEADLINE, "all deliveries to end", async || {
        match list_deliveries(&standalone, "state=pending").await.len() {
            0 => Ok(()),
            pending => Err(pending.to_string()),
        }
    })
    .await;
    let first = page(&standalone, "/console/namespaces/default/deliveries?state=dead").await;
    assert!(first.contains("rel=\"next\"") || first.matches("data-row").count() <= 50, "{first}");
    let events = page(&standalone, "/console/namespaces/default/events").await;
    assert_eq!(events.matches("data-row").count(), 50);
    let (_, next) = events.split_once("rel=\"next\" href=\"").unwrap();
    let next = next.split('"').next().unwrap().replace("&amp;", "&");
    assert_eq!(page(&standalone, &next).await.matches("data-row").count(), 10);

    let shown = page(&standalone, "/console/namespaces/default/event?id=order-1").await;
    assert!(
        shown.contains("id=\"verdict\"") && shown.contains(">b</a>") && shown.contains("OtherEvent"),
        "{shown}"
    );
    let dead = list_deliveries(&standalone, "state=dead&limit=1").await;
    let id = dead[0]["id"].as_str().unwrap();
    let delivery = page(&standalone, &format!("/console/namespaces/default/deliveries/{id}")).await;
    assert!(delivery.contains("dead after 1 attempt, last 400 from 127.0.0.1"), "{delivery}");
    assert!(
        delivery.contains("Last request and response") && delivery.contains("webhook-signature")
            || delivery.contains("POST"),
        "{delivery}"
    );
    // A search opens the only result.
    let search = browser().get(url(&standalone, "/console/search?q=order-17")).send().await.unwrap();
    assert_eq!(search.status(), 303);
    assert_eq!(search.headers()["location"], "/console/namespaces/default/event?id=order-17");
    // Problems have the id of the request.
    let problem = browser()
        .get(url(&standalone, "/console/namespaces/default/event?id=lost"))
        .header("x-request-id", "my-request")
        .send()
        .await
        .unwrap();
    assert_eq!(problem.status(), 404);
    let problem = problem.text().await.unwrap();
    assert!(problem.contains("id=\"problem\"") && problem.contains(">my-request<"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_delivery_says_that_the_receiver_answers_again() {
    let receiver = Receiver::start(|_, n| Reply::status(if n <= 2 { 503 } else { 200 }));
    let spec =
        json!({"delivery": {"retry": {"initialBackoff": "10ms", "maxBackoff": "20ms", "maxAttempts": 2}}});
    let standalone = Standalone::start(&hook("warehouse", &receiver.url(), spec), &[]).await;
    let order = |id: &str| json!({"specversion": "1.0", "id": id, "source": "s", "type": "e", "subject": "order/4711", "data": {}});
    standalone.publish_accepted(&order("order-1")).await;
    let of_state = async |state: &str| {
        let query = format!("state={state}");
        eventually(DEADLINE, &format!("a {state} delivery"), async || {
            let found = list_deliveries(&standalone, &query).await;
            found
                .first()
                .map(|found| found["id"].as_str().unwrap().to_owned())
                .ok_or_else(|| "none".to_owned())
        })
        .await
    };
    let own = format!("/console/namespaces/default/deliveries/{}", of_state("dead").await);
    let shown = page(&standalone, &own).await;
    assert!(
        shown.contains("Its 2 attempts were made within") && !shown.contains("has answered again"),
        "{shown}"
    );
    assert!(shown.contains("</a> (order/4711) to warehouse</h1>"), "{shown}");

    standalone.publish_accepted(&order("order-2")).await;
    of_state("delivered").await;
    let shown = page(&standalone, &own).await;
    for part in [
        "The receiver has answered again since",
        "(1 delivered): replay this delivery.",
        "the retries were too short for that.",
        "<code>delivery.retry.maxAttempts</code> (now 2)",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let event = page(&standalone, "/console/namespaces/default/event?id=order-1").await;
    assert!(event.contains("id=\"id\">order-1</span> (order/4711)</h1>"), "{event}");
    let overview = page(&standalone, "/console/").await;
    assert!(overview.contains("1 dead letter in 24 h"), "{overview}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_events_and_receivers_are_escaped() {
    let hostile = "</td></title><script>alert(1)</script>\"'><img src=x onerror=alert(1)>";
    let receiver = Receiver::start(|_, _| Reply::status(400));
    let standalone = Standalone::start(
        &hook("h", &receiver.url(), json!({"delivery": {"retry": {"maxAttempts": 1}}})),
        &[],
    )
    .await;
    let event = json!({"id": hostile, "source": "s", "event": "e", "data": {hostile: [hostile]}});
    standalone.publish_accepted(&event).await;
    let other = json!({"id": "other", "source": hostile, "event": hostile, "data": {}});
    let (status, _) = standalone.publish(&other).await;
    assert!(status == 202 || status == 400, "{status}");
    receiver.wait_for(1, DEADLINE).await;
    eventually(DEADLINE, "the delivery to die", async || {
        if list_deliveries(&standalone, "state=dead").await.len() == 1 {
            Ok(())
        } else {
            Err("pending".to_owned())
        }
    })
    .await;
    let encoded: String = url::form_urlencoded::byte_serialize(hostile.as_bytes()).collect();
    let id = list_deliveries(&standalone, "state=dead").await[0]["id"].as_str().unwrap().to_owned();
    for path in [
        "/console/".to_owned(),
        "/console/events".to_owned(),
        "/console/deliveries".to_owned(),
        format!("/console/namespaces/default/event?id={encoded}"),
        format!("/console/namespaces/default/deliveries/{id}"),
        format!("/console/events?text={encoded}"),
        format!("/console/namespaces/default/hooks/h/test?event={encoded}"),
        format!("/console/namespaces/default/send?source={encoded}&data={encoded}"),
        format!("/console/namespaces/default/catalogue?event={encoded}&filter={encoded}"),
    ] {
        let text = page(&standalone, &path).await;
        // The one script of a page is the console's own.
        assert_eq!(text.matches("<script").count(), 1, "{path}: {text}");
        assert!(!text.contains("<img src=x"), "{path}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_in_gives_a_session_that_only_the_console_accepts() {
    let (path, token) = token_file();
    let flags = ["--token-file", path.to_str().unwrap()];
    let mut standalone = Standalone::start(&hook("h", "http://127.0.0.1:9/", quick()), &flags).await;
    let events = url(&standalone, "/console/events");
    let anonymous = browser().get(&events).send().await.unwrap();
    assert_eq!(anonymous.status(), 303);
    assert_eq!(anonymous.headers()["location"], "/console/login?next=%2Fconsole%2Fevents");

    let wrong = log_in(&standalone, "wrong").await;
    assert_eq!(wrong.status(), 401);
    assert!(wrong.headers().get("set-cookie").is_none());
    let response = log_in(&standalone, token).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["location"]),
        (303, &"/console/events".parse().unwrap())
    );
    let cookie = response.headers()["set-cookie"].to_str().unwrap().to_owned();
    for part in ["HttpOnly", "SameSite=Lax", "Path=/console/", "Max-Age="] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains(token) && !cookie.contains("Secure"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();
    let with_cookie = |path: &str| browser().get(url(&standalone, path)).header("cookie", cookie);
    assert_eq!(with_cookie("/console/events").send().await.unwrap().status(), 200);
    // Never accepted by the API.
    for path in ["/v1/events", "/v1/namespaces/default/deliveries", "/v1/rights"] {
        assert_eq!(with_cookie(path).send().await.unwrap().status(), 401, "{path}");
    }
    let tampered = format!("{}A", &cookie[..cookie.len() - 1]);
    let response = browser().get(&events).header("cookie", tampered).send().await.unwrap();
    assert_eq!(response.status(), 303);
    // A proxy's token needs no session.
    assert_eq!(browser().get(&events).bearer_auth(token).send().await.unwrap().status(), 200);

    // A process with the same key ring accepts the session.
    standalone.restart().await;
    let text = browser().get(&events).header("cookie", cookie).send().await.unwrap();
    assert_eq!(text.status(), 200);
    let text = text.text().await.unwrap();
    assert!(!text.contains(token) && text.contains("Log out"), "{text}");
    let log_out =
        browser().post(url(&standalone, "/console/logout")).header("cookie", cookie).send().await.unwrap();
    assert!(log_out.headers()["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    let is_log_out = |line: &str| line.contains("console action") && line.contains("log-out");
    standalone.process().wait_for_line(is_log_out, DEADLINE).await;
    let log = standalone.process().log();
    assert!(!log.contains(token), "the token is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn log_in_is_limited_for_each_client_behind_a_trusted_proxy() {
    let (path, token) = token_file();
    let flags = ["--token-file", path.to_str().unwrap(), "--trusted-proxies", "127.0.0.0/8"];
    let standalone = Standalone::start(&hook("h", "http://127.0.0.1:9/", quick()), &flags).await;
    let login = url(&standalone, "/console/login");
    let csrf = csrf(&browser().get(&login).send().await.unwrap().text().await.unwrap());
    let attempt = async |token: &str, client: &str| {
        let fields = [("csrf", csrf.as_str()), ("token", token)];
        let request = form(browser().post(&login), &fields).header("x-forwarded-for", client);
        request.send().await.unwrap().status().as_u16()
    };
    for _ in 0..10 {
        assert_eq!(attempt("wrong", "198.51.100.7").await, 401);
    }
    assert_eq!(attempt(token, "203.0.113.1, 198.51.100.7").await, 429, "the client chose the first address");
    assert_eq!(attempt(token, "198.51.100.8").await, 303, "another client");
    let log = standalone.process().log();
    let failed = |line: &&str| line.contains("console action") && line.contains("198.51.100.7");
    assert_eq!(log.lines().filter(failed).count(), 11, "{log}");
    assert!(!log.contains(token), "the token is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_sites_and_hosts_reach_no_page() {
    let standalone = Standalone::start(&hook("h", "http://127.0.0.1:9/", json!({})), &[]).await;
    let status = async |headers: &[(&str, &str)]| {
        let request =
            headers.iter().fold(browser().get(url(&standalone, "/console/")), |request, (name, value)| {
                request.header(*name, *value)
            });
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(status(&[("host", "evil.example")]).await, 403);
    assert_eq!(status(&[("origin", "http://evil.example")]).await, 403);
    assert_eq!(
        status(&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")])
            .await,
        403
    );
    // A link that the user follows, from a chat.
    let link =
        [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
    assert_eq!(status(&link).await, 200);
    assert_eq!(
        status(&[
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "iframe")
        ])
        .await,
        403
    );
    // The console is not on the ingest port.
    let ingest = browser().get(standalone.url("/console/")).send().await.unwrap();
    assert_eq!(ingest.status(), 404, "{EVENTS}");
}

#[tokio::test(flavor = "multi_thread")]
async fn console_can_be_switched_off() {
    let standalone =
        Standalone::start(&hook("h", "http://127.0.0.1:9/", json!({})), &["--console", "false"]).await;
    let response = browser().get(url(&standalone, "/console/")).send().await.unwrap();
    assert_eq!(response.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_on_any_page() {
    let secret = "s3cr3t-of-a-header";
    let receiver = Receiver::start(|_, _| Reply::status(400));
    let spec = json!({"handler": {"webhook": {"url": format!("{}?key={secret}", receiver.url()),
        "headers": {"authorization": format!("Bearer {secret}")}}}, "delivery": {"retry": {"maxAttempts": 1}}});
    let standalone = Standalone::start(&hook("h", &receiver.url(), spec), &[]).await;
    standalone.publish_accepted(&event("1")).await;
    receiver.wait_for(1, DEADLINE).await;
    eventually(DEADLINE, "the delivery to die", async || {
        if list_deliveries(&standalone, "state=dead").await.len() == 1 {
            Ok(())
        } else {
            Err("pending".to_owned())
        }
    })
    .await;
    let id = list_deliveries(&standalone, "state=dead").await[0]["id"].as_str().unwrap().to_owned();
    for path in [
        "/console/",
        "/console/hooks",
        "/console/namespaces/default/hooks/h",
        "/console/namespaces/default/event?id=1",
    ]
    .map(str::to_owned)
    .into_iter()
    .chain([format!("/console/namespaces/default/deliveries/{id}")])
    {
        let text = page(&standalone, &path).await;
        assert!(!text.contains(&format!("Bearer {secret}")), "{path}: {text}");
    }
}
