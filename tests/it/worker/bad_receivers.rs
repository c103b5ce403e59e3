//! Misbehaving receivers: each attempt takes bounded time and memory, and its outcome is the documented one.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::deliveries::list_deliveries;
use crate::harness::manifests::{event, hook, merge};
use crate::harness::metrics::{DEAD, DELIVERED, FINISHED};
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Receiver, Reply, eventually};

/// Starts a server that reads a part of each request and then runs `answer` on the connection. Returns its URL.
async fn server<F>(answer: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> String
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let read = socket.read(&mut [0; 8192]).await;
                if read.is_ok_and(|read| read > 0) {
                    // The worker closes most of these connections early.
                    answer(socket).await.ok();
                }
            });
        }
    });
    url
}

/// Sends a byte every 20 ms without end.
async fn drip(socket: &mut TcpStream) -> std::io::Result<()> {
    loop {
        socket.write_all(b"x").await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Returns the hook `name` for events of the source `name`, with this number of attempts and their timeout.
fn hook_named(name: &str, url: &str, attempts: u32, timeout: &str) -> String {
    let retry = json!({"maxAttempts": attempts, "initialBackoff": "100ms", "maxBackoff": "100ms"});
    let delivery = json!({"timeout": timeout, "retry": retry});
    hook(name, url, json!({"source": name, "delivery": delivery}))
}

async fn publish(standalone: &Standalone, source: &str) {
    let mut body = event(source);
    merge(&mut body, json!({"source": source}));
    standalone.publish_accepted(&body).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_answer_has_its_outcome() {
    let hangs = server(|socket| async move {
        std::future::pending::<()>().await;
        drop(socket);
        Ok(())
    })
    .await;
    let drips_its_head = server(|mut socket| async move {
        socket.write_all(b"HTTP/1.1 200 OK\r\nx-head: ").await?;
        drip(&mut socket).await
    })
    .await;
    let drips_its_body = server(|mut socket| async move {
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n").await?;
        drip(&mut socket).await
    })
    .await;
    // With a linger time of zero, closing the socket sends a reset.
    let resets = server(|socket| async move { socket.set_zero_linger() }).await;
    let nonsense =
        server(|mut socket| async move { socket.write_all(b"SSH-2.0-OpenSSH_9.9\r\n").await }).await;
    let endless_head = server(|mut socket| async move {
        socket.write_all(b"HTTP/1.1 200 OK\r\n").await?;
        let lines = "x-more: 0123456789\r\n".repeat(1000);
        loop {
            socket.write_all(lines.as_bytes()).await?;
        }
    })
    .await;
    let continues_for_ever = server(|mut socket| async move {
        loop {
            socket.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let two_lengths = server(|mut socket| async move {
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx").await
    })
    .await;
    let gigabyte = server(|mut socket| async move {
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n").await?;
        let chunk = vec![b'x'; 1 << 16];
        loop {
            socket.write_all(&chunk).await?;
        }
    })
    .await;

    // Name, address, timeout, and the error of the attempts; None: the status was read, and a 2xx is a success whatever
    // follows. The timeout is short only where it must expire: a slow machine must not turn another error into a timeout.
    let table = [
        ("hangs", &hangs, "700ms", Some("Timeout")),
        ("drips-its-head", &drips_its_head, "700ms", Some("Timeout")),
        // Expires while the worker reads the body.
        ("drips-its-body", &drips_its_body, "8s", None),
        ("resets", &resets, "30s", Some("Protocol")),
        ("nonsense", &nonsense, "30s", Some("Protocol")),
        ("endless-head", &endless_head, "30s", None),
        ("continues-for-ever", &continues_for_ever, "700ms", Some("Timeout")),
        ("two-lengths", &two_lengths, "30s", None),
        ("gigabyte", &gigabyte, "30s", None),
    ];
    let manifests: String =
        table.iter().map(|(name, url, timeout, _)| hook_named(name, url, 2, timeout)).collect();
    let working = Receiver::start(|_, _| Reply::status(200));
    let standalone =
        Standalone::start(&(manifests + &hook_named("fine", &working.url(), 1, "30s")), &[]).await;
    for (name, ..) in table {
        publish(&standalone, name).await;
    }
    // A hook with a working receiver is not delayed.
    publish(&standalone, "fine").await;
    working.wait_for(1, DEADLINE).await;
    let failing = table.iter().filter(|(.., error)| error.is_some()).count();
    standalone.wait_for_count(FINISHED, &[DEAD], failing as u64).await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], (table.len() - failing) as u64 + 1).await;
    for (name, .., error) in table {
        let delivery = list_deliveries(&standalone, &format!("hook={name}")).await.remove(0);
        let attempts = delivery["attempts"].as_array().unwrap();
        let errors: Vec<&str> = attempts.iter().filter_map(|a| a["error"].as_str()).collect();
        match error {
            Some(error) => assert_eq!(
                (errors, &delivery["reason"]),
                (vec![error; 2], &json!("MaxAttempts")),
                "{name}: {delivery}"
            ),
            None => assert_eq!(
                (errors.len(), attempts.len(), &attempts[0]["status"]),
                (0, 1, &json!(200)),
                "{name}: {delivery}"
            ),
        }
    }
}

/// Returns milliseconds since the epoch of an RFC 3339 time.
fn millis(time: &Value) -> i64 {
    hookstream::core::time::Millis::parse(time.as_str().expect("a time")).expect("RFC 3339").0
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_429_sets_next_attempt() {
    // Long enough that the test reads the schedule before that time, however slow the machine is.
    let retry_time = std::time::SystemTime::now() + Duration::from_secs(3600);
    let date = httpdate::fmt_http_date(retry_time);
    let delays = [
        ("seconds", "1800".to_owned()),
        ("date", date),
        ("garbage", "soon".to_owned()),
        ("past", "Sun, 06 Nov 1994 08:49:37 GMT".to_owned()),
        ("for-ever", "99999999999".to_owned()),
    ];
    let answers = delays.clone();
    let receiver = Receiver::start(move |request, _| {
        let (_, text) = answers.iter().find(|(name, _)| request.path == format!("/{name}")).expect("a path");
        Reply::status(429).header("retry-after", text)
    });
    let spec = |name: &str| json!({"source": name, "delivery": {"retry": {"initialBackoff": "100s"}}});
    let manifests: String = delays
        .iter()
        .map(|(name, _)| hook(name, &format!("{}/{name}", receiver.url()), spec(name)))
        .collect();
    let standalone = Standalone::start(&manifests, &[]).await;
    for (name, _) in &delays {
        publish(&standalone, name).await;
    }
    let retry_millis = retry_time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64 * 1000;
    for (name, _) in &delays {
        let delivery = eventually(DEADLINE, name, async || {
            let delivery = list_deliveries(&standalone, &format!("hook={name}")).await.remove(0);
            if delivery["attempts"].as_array().is_some_and(|attempts| attempts.len() == 1) {
                Ok(delivery)
            } else {
                Err(delivery.to_string())
            }
        })
        .await;
        let attempt = &delivery["attempts"][0];
        assert_eq!((&delivery["state"], &attempt["status"]), (&json!("pending"), &json!(429)), "{delivery}");
        let (ended, next) = (millis(&attempt["time"]), millis(&delivery["nextAttemptTime"]));
        let wait = next - ended;
        let is_expected = match *name {
            "seconds" => (1_800_000..1_830_000).contains(&wait),
            // An HTTP date has a resolution of one second.
            "date" => (retry_millis - 1000..=retry_millis + 1000).contains(&next),
            "for-ever" => (86_400_000..86_430_000).contains(&wait),
            // The backoff: between half and all of the interval.
            _ => (50_000..130_000).contains(&wait),
        };
        assert!(is_expected, "{name}: {wait} ms later: {delivery}");
    }
    assert_eq!(receiver.requests().len(), delays.len(), "an attempt was made too early");
}
