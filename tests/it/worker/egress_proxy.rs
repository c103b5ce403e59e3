//! `--egress-proxy`: deliveries and admin calls use the proxy of the flag, and no other.

use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::http::answer;
use crate::harness::manifests::{event, hook, merge, quick};
use crate::harness::objects::message;
use crate::harness::standalone::Standalone;
use crate::harness::world::{Setup, World};
use crate::harness::{DEADLINE, Receiver, Reply, eventually, watchdog};

/// A CONNECT proxy that records the requested authorities.
struct Proxy {
    url: String,
    requested: Arc<Mutex<Vec<String>>>,
    /// The status of every answer; only 200 opens a tunnel.
    status: Arc<Mutex<u16>>,
}

impl Proxy {
    /// Starts a proxy. `auth` is the required `proxy-authorization`.
    async fn start(auth: Option<&'static str>) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (requested, status) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(200)));
        let proxy = Proxy { url, requested: requested.clone(), status: status.clone() };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, auth, requested.clone(), status.clone()));
            }
        });
        proxy
    }

    fn has_request_for(&self, url: &str) -> bool {
        let authority = url.trim_start_matches("http://");
        self.requested.lock().unwrap().iter().any(|requested| requested == authority)
    }
}

async fn serve(
    mut client: TcpStream,
    auth: Option<&str>,
    requested: Arc<Mutex<Vec<String>>>,
    status: Arc<Mutex<u16>>,
) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let authority = head.strip_prefix("CONNECT ").expect("CONNECT").split(' ').next().unwrap();
    requested.lock().unwrap().push(authority.to_owned());
    let is_rejected = auth.is_some_and(|auth| !head.contains(&format!("proxy-authorization: {auth}\r\n")));
    let status = if is_rejected { 407 } else { *status.lock().unwrap() };
    client.write_all(format!("HTTP/1.1 {status} Any\r\n\r\n").as_bytes()).await.ok()?;
    if status == 200 {
        let mut target = TcpStream::connect(authority).await.ok()?;
        tokio::io::copy_bidirectional(&mut client, &mut target).await.ok()?;
    }
    Some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_retry_while_proxy_refuses() {
    let proxy = Proxy::start(None).await;
    *proxy.status.lock().unwrap() = 403;
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let direct = Receiver::start(|_, _| Reply::status(200));
    let mut direct_spec = quick();
    merge(&mut direct_spec, json!({"source": "other"}));
    let manifests = hook("proxied", &receiver.url(), quick())
        + &hook("direct", &direct.url().replace("127.0.0.1", "localhost"), direct_spec);
    let flags = ["--egress-proxy", &proxy.url, "--egress-proxy-bypass", ".svc,localhost"];
    let standalone = Standalone::start(&manifests, &flags).await;
    standalone.publish_accepted(&json!({"source": "other", "event": "e", "data": {}})).await;
    direct.wait_for(1, DEADLINE).await;
    assert!(proxy.requested.lock().unwrap().is_empty());

    standalone.publish_accepted(&event("1")).await;
    let url = format!("http://{}/v1/namespaces/default/deliveries?hook=proxied", standalone.api);
    let attempt = eventually(DEADLINE, "a failed attempt", async || {
        let (_, list) = answer(standalone.client.get(&url)).await;
        let attempt = list["items"][0]["attempts"][0].clone();
        if attempt["error"].is_null() { Err(list.to_string()) } else { Ok(attempt) }
    })
    .await;
    assert_eq!(attempt["error"], "Proxy", "{attempt}");
    assert!(receiver.requests().is_empty());
    *proxy.status.lock().unwrap() = 200;
    receiver.wait_for(1, DEADLINE).await;
    assert!(proxy.has_request_for(&receiver.url()));
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_calls_use_proxy_and_ignore_environment() {
    // The user name us:er, percent-encoded.
    let proxy = Proxy::start(Some("Basic dXM6ZXI=")).await;
    let unreachable = "http://127.0.0.1:1";
    let env = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];
    let env = env.map(|name| (name, unreachable));
    let auth = watchdog::unique_path("auth");
    std::fs::write(&auth, "us:wr0ngpass").unwrap();
    let flags = ["--egress-proxy", &proxy.url, "--egress-proxy-auth", auth.to_str().unwrap()];
    let world = World::with("proxied", Setup { flags: &flags, env: &env, ..Setup::default() }).await;
    world.apply(&[world.connection(), world.hook("relayed")]).await;
    let object = world.not_ready("connections/kong", "Unreachable").await;
    let message = message(&object);
    assert!(message.contains("rejected the credentials") && message.contains("407"), "{message}");
    std::fs::write(&auth, "us:er\n").unwrap();
    world.request("connections/kong", "again").await;
    world.ready("connections/kong").await;
    world.request("eventhooks/relayed", "again").await;
    world.ready("eventhooks/relayed").await;
    assert!(proxy.has_request_for(&world.kong.url));
    world.kong.emit("crud", "consumers", json!({"operation": "create"})).await;
    world.receiver.wait_for(1, DEADLINE).await;
    assert!(proxy.has_request_for(&world.receiver.url()));
    world.assert_hides(&["wr0ngpass", "dXM6"]).await;
}

#[test]
fn invalid_proxy_is_rejected() {
    let folder = watchdog::unique_path("proxy");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("auth"), "missing").unwrap();
    let (auth, missing) = (folder.join("auth"), folder.join("missing"));
    let (auth, missing) = (auth.to_str().unwrap(), missing.to_str().unwrap());
    let proxy = ["--egress-proxy", "http://127.0.0.1:1"];
    for (flags, expected) in [
        (vec!["--egress-proxy", "http://us:er@127.0.0.1:1"], "--egress-proxy-auth"),
        (vec!["--egress-proxy", "socks5://127.0.0.1:1"], "plain HTTP"),
        (vec!["--egress-proxy", "http://127.0.0.1:1/x"], "no path"),
        (vec!["--egress-proxy-auth", auth], "--egress-proxy <URL>"),
        ([&proxy[..], &["--egress-proxy-bypass", "*.svc"]].concat(), "must be a host"),
        ([&proxy[..], &["--egress-proxy-auth", auth]].concat(), "user:password"),
        ([&proxy[..], &["--egress-proxy-auth", missing]].concat(), "missing"),
    ] {
        let command = ["standalone", "--manifests", folder.to_str().unwrap(), "--data", missing];
        let args = command.iter().chain(&["--ops-listen", "127.0.0.1:0"]).chain(&flags);
        let output = crate::harness::Process::command(args, &[]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {text}");
        assert!(text.contains(expected) && !text.contains("us:er"), "{flags:?}: {text}");
    }
}
