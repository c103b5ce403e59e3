//! `hookstream console` in front of a worker at a URL: the link, the session, what is forwarded, streams, and failures.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use reqwest::header::{COOKIE, HOST, LOCATION, ORIGIN, SET_COOKIE};
use reqwest::{Client, RequestBuilder, Response};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::Semaphore;

use crate::harness::{DEADLINE, Process, Receiver, Reply, free_port, watchdog};

/// A running `hookstream console` whose link was printed.
pub struct Console {
    pub process: Process,
    pub link: String,
    /// `http://host:port`.
    pub origin: String,
    pub client: Client,
}

impl Console {
    /// Starts it on a free port and waits for the link.
    pub async fn start(args: &[&str], envs: &[(&str, &str)]) -> Console {
        let all = [&["console", "--no-open", "--listen", "127.0.0.1:0"], args].concat();
        let process = Process::spawn(all, envs);
        let link = process.wait_for_line(|line| line.starts_with("http://"), DEADLINE).await;
        let origin = link.split("/console/").next().unwrap().to_owned();
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        Console { process, link, origin, client: client.timeout(DEADLINE).build().unwrap() }
    }

    /// Opens the link. Returns the cookie.
    pub async fn open(&self) -> String {
        let response = self.client.get(&self.link).send().await.unwrap();
        let (status, page) = redirect(&response);
        assert!(status == 303 && page.starts_with("/console/"), "{status}: {page}");
        assert_eq!(response.headers()["referrer-policy"], "no-referrer");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let cookie = response.headers()[SET_COOKIE].to_str().unwrap();
        assert!(cookie.contains("HttpOnly; SameSite=Strict"), "{cookie}");
        cookie.split(';').next().unwrap().to_owned()
    }

    pub fn get(&self, path: &str, cookie: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.origin)).header(COOKIE, cookie)
    }

    /// Returns a request as a browser sends it for a form of a page.
    pub fn post(&self, path: &str, cookie: &str) -> RequestBuilder {
        let request = self.client.post(format!("{}{path}", self.origin)).header(COOKIE, cookie);
        request.header(ORIGIN, &self.origin).header("content-type", "application/x-www-form-urlencoded")
    }
}

/// Returns the status and the location.
pub fn redirect(response: &Response) -> (u16, &str) {
    let location = response.headers().get(LOCATION).map_or("", |value| value.to_str().unwrap());
    (response.status().as_u16(), location)
}

/// Sends a request. Returns the status and the text.
pub async fn text(request: RequestBuilder) -> (u16, String) {
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

/// Answers as a worker with a console.
fn page() -> Reply {
    Reply::status(200)
        .header("content-type", "text/html; charset=utf-8")
        .header("set-cookie", "hookstream-console=c; Path=/console/")
        .header("hookstream-console-test", "private")
        .body("<h1>Overview</h1>")
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_browser_with_the_link_gets_pages() {
    let worker = Receiver::start(|_, _| page());
    let token = watchdog::unique_path("token");
    std::fs::write(&token, "the-token\n").unwrap();
    let args = ["--url", &worker.url(), "--token-file", token.to_str().unwrap()];
    let console = Console::start(&args, &[]).await;
    let probes = worker.requests().len();
    let (status, body) = text(console.get("/console/", "")).await;
    assert!(status == 403 && body.contains("open the link that it printed"), "{status}: {body}");
    let (status, _) = text(console.client.get(format!("{}x", console.link))).await;
    assert_eq!(status, 403, "a wrong key");
    let (status, _) = text(console.client.get(&console.link).header("sec-purpose", "prefetch")).await;
    assert_eq!(status, 403, "a prefetch must not spend the link");

    let cookie = console.open().await;
    assert_eq!(redirect(&console.get("/", &cookie).send().await.unwrap()), (303, "/console/"));
    let (status, body) = text(console.client.get(&console.link)).await;
    assert!(status == 403 && body.contains("used already"), "{status}: {body}");
    assert_eq!(worker.requests().len(), probes, "nothing was forwarded so far");

    let request = console
        .get("/console/hooks?q=a%2Fb", &format!("other=1; {cookie}; hookstream-console=c"))
        .header("authorization", "Bearer of-the-browser")
        .header("x-hookstream-token", "of-the-browser")
        .header("hookstream-console-proxy", "forged");
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8");
    assert_eq!(response.headers()[SET_COOKIE], "hookstream-console=c; Path=/console/");
    assert!(!response.headers().contains_key("hookstream-console-test"));
    assert_eq!(response.text().await.unwrap(), "<h1>Overview</h1>");
    let forwarded = worker.requests().pop().unwrap();
    assert_eq!(forwarded.path, "/console/hooks?q=a%2Fb");
    assert_eq!(forwarded.header("authorization"), "Bearer the-token");
    assert_eq!(forwarded.header("cookie"), "hookstream-console=c");
    for absent in ["x-hookstream-token", "hookstream-console-proxy", "origin", "referer"] {
        assert_eq!(forwarded.header(absent), "", "{absent}");
    }

    // A renewed file is used by the next request.
    std::fs::write(&token, "the-next-token\n").unwrap();
    let body = "payload=%7B%7D";
    let (status, _) = text(console.post("/console/events/test", &cookie).body(body)).await;
    let forwarded = worker.requests().pop().unwrap();
    assert_eq!((status, forwarded.method.as_str(), &forwarded.body[..]), (200, "POST", body.as_bytes()));
    assert_eq!(forwarded.header("authorization"), "Bearer the-next-token");

    let count = worker.requests().len();
    for path in ["/v1/status", "/console/..%2fv1/status", "/console/%2e%2e/v1", "/metrics", "/console/-/x"] {
        let url = reqwest::Url::parse(&format!("{}{path}", console.origin)).unwrap();
        let (status, _) = text(console.client.get(url).header(COOKIE, &cookie)).await;
        assert!(status == 404 || status == 405, "{path}: {status}");
    }
    let own = |request: RequestBuilder| text(request.header(COOKIE, &cookie));
    let url = format!("{}/console/", console.origin);
    for (request, why) in [
        (console.client.get(&url).header(HOST, "evil.example"), "another host"),
        (console.client.post(&url), "no origin"),
        (console.client.post(&url).header(ORIGIN, "http://127.0.0.1:1"), "another port's origin"),
        (console.client.get(&url).header("sec-fetch-site", "same-site"), "another port's page"),
    ] {
        let (status, _) = own(request).await;
        assert_eq!(status, 403, "{why}");
    }
    assert_eq!(worker.requests().len(), count, "none of them was forwarded");

    // Without a cluster, nothing can be paused.
    let (status, body) = text(console.post("/console/-/pause", &cookie).body("proxy_token=x")).await;
    assert!(status == 400 && body.contains("has no cluster to change"), "{status}: {body}");

    worker.script(|_, _| Reply::Close);
    let (status, body) = text(console.get("/console/", &cookie)).await;
    assert!(status == 502 && body.contains("cannot be reached"), "{status}: {body}");

    kill_process(Pid::from_raw(console.process.pid() as i32).unwrap(), Signal::INT).unwrap();
    assert_eq!(console.process.wait(DEADLINE).await.code(), Some(0), "Ctrl-C is no failure");
    assert!(!console.process.log().contains("the-token"), "{}", console.process.log());
}

/// A worker whose event stream sends an event for each permit.
async fn stream_events(State(permits): State<Arc<Semaphore>>) -> axum::response::Response {
    let events = futures::stream::unfold((permits, 0), async |(permits, n)| {
        permits.acquire().await.unwrap().forget();
        Some((Ok::<_, Infallible>(format!("id: {n}\ndata: event {n}\n\n")), (permits, n + 1)))
    });
    let response = http::Response::builder().header("content-type", "text/event-stream");
    response.body(Body::from_stream(events)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_pass_without_delay() {
    let permits = Arc::new(Semaphore::new(0));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let pages = Router::new()
        .route("/console/", axum::routing::get(async || "page"))
        .route("/console/events/live", axum::routing::get(stream_events))
        .with_state(permits.clone());
    let server = tokio::spawn(async move { axum::serve(listener, pages).await });
    let console = Console::start(&["--url", &url], &[]).await;
    let cookie = console.open().await;
    let mut response = console.get("/console/events/live", &cookie).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    for n in 0..3 {
        // The worker sends the next event only when this one has arrived.
        permits.add_permits(1);
        let event = response.chunk().await.expect("an event").unwrap();
        assert_eq!(event, format!("id: {n}\ndata: event {n}\n\n"));
    }
    // Other pages are answered meanwhile.
    assert_eq!(text(console.get("/console/", &cookie)).await, (200, "page".to_owned()));
    server.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_one_line() {
    let worker = Receiver::start(|request, _| match request.header("authorization") {
        "Bearer expired" => Reply::status(401),
        _ => Reply::status(404),
    });
    let holder = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let in_use = holder.local_addr().unwrap().to_string();
    let token = watchdog::unique_path("token");
    std::fs::write(&token, "expired").unwrap();
    let unused = format!("http://127.0.0.1:{}", free_port());
    let url = worker.url();
    for (args, expected) in [
        (vec!["--url", &unused], "cannot be reached: Connection refused"),
        (vec!["--url", &url], "has no console: update the worker"),
        (vec!["--url", &url, "--token-file", token.to_str().unwrap()], "rejects the token (401)"),
        (vec!["--url", &url, "--listen", &in_use], "Address already in use"),
        (vec!["--url", &url, "--listen", "0.0.0.0:0"], "the address must be a loopback one"),
    ] {
        let mut all = vec!["console", "--no-open"];
        if !args.contains(&"--listen") {
            all.extend(["--listen", "127.0.0.1:0"]);
        }
        all.extend(args);
        let process = Process::spawn(&all, &[]);
        let status = process.wait(DEADLINE).await;
        let log = process.log();
        assert_eq!(status.code(), Some(2), "{all:?}: {log}");
        assert!(log.lines().count() == 1 && log.contains(expected), "{all:?}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_at_a_time_are_bounded() {
    let permits = Arc::new(Semaphore::new(0));
    let held = permits.clone();
    let worker = Receiver::start(move |request, _| match request.path.as_str() {
        "/console/slow" => Reply::AfterPermit(held.clone(), Box::new(page())),
        _ => page(),
    });
    let console = Arc::new(Console::start(&["--url", &worker.url()], &[]).await);
    let cookie = console.open().await;
    let probes = worker.requests().len();
    let slow: Vec<_> = (0..64)
        .map(|_| {
            let request = console.get("/console/slow", &cookie);
            tokio::spawn(async move { text(request).await.0 })
        })
        .collect();
    worker.wait_for(probes + 64, DEADLINE).await;
    let (status, body) = text(console.get("/console/", &cookie)).await;
    assert!(status == 503 && body.contains("close some pages"), "{status}: {body}");
    permits.add_permits(64);
    for request in slow {
        assert_eq!(request.await.unwrap(), 200);
    }
    assert_eq!(text(console.get("/console/", &cookie).timeout(Duration::from_secs(20))).await.0, 200);
}
