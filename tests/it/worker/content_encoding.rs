//! Request bodies with a content coding: gzip and deflate are decoded within the limits, others are rejected.

use std::io::Write;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use hookstream::api::{SignatureAlgorithm, SignatureEncoding};
use hookstream::core::sign::kong_signature;
use serde_json::{Value, json};

use crate::harness::http::answer;
use crate::harness::manifests::{event, hook, merge, quick};
use crate::harness::standalone::{EVENTS, Standalone};
use crate::harness::{DEADLINE, Kong, Receiver, Reply};

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn deflate(body: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn encoded_bodies_are_decoded_within_the_limits() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let standalone = Standalone::start(&hook("h", &receiver.url(), quick()), &[]).await;
    let post = |coding: &str, body: Vec<u8>| {
        let request =
            standalone.client.post(standalone.url(EVENTS)).header("content-type", "application/json");
        request.header("content-encoding", coding).body(body)
    };
    let body = |id: &str| event(id).to_string().into_bytes();
    for (coding, encoded) in [
        ("gzip", gzip(&body("gzip"))),
        ("deflate", deflate(&body("deflate"))),
        ("identity", body("identity")),
    ] {
        let (status, answer) = answer(post(coding, encoded)).await;
        assert_eq!((status, answer), (202, json!({"id": coding, "deliveries": 1})));
    }
    let mut ids: Vec<Value> =
        receiver.wait_for(3, DEADLINE).await.iter().map(|r| r.json()["id"].clone()).collect();
    ids.sort_by_key(ToString::to_string);
    assert_eq!(ids, ["deflate", "gzip", "identity"]);

    let bomb = json!({"source": "s", "event": "e", "data": "x".repeat(64 << 20)}).to_string().into_bytes();
    for (coding, encoded, want) in [
        ("gzip", gzip(&bomb), (413, "TooBig")),
        ("deflate", deflate(&bomb), (413, "TooBig")),
        ("gzip", body("plain"), (400, "CorruptBody")),
        ("gzip", gzip(&body("cut"))[..40].to_vec(), (400, "CorruptBody")),
        ("br", body("br"), (415, "ContentEncoding")),
        ("gzip, gzip", gzip(&gzip(&body("twice"))), (415, "ContentEncoding")),
    ] {
        let response = post(coding, encoded).send().await.unwrap();
        let accepted = response.headers().get("accept-encoding").cloned();
        let (status, problem) = (response.status().as_u16(), response.json::<Value>().await.unwrap());
        assert_eq!((status, problem["reason"].as_str().unwrap()), want, "{problem}");
        assert_eq!(accepted.is_some(), status == 415, "RFC 9110, 15.5.16");
    }
    assert_eq!(receiver.requests().len(), 3);
}

/// Kong signs the bytes that it sends, so the signature is verified before they are decoded.
#[tokio::test(flavor = "multi_thread")]
async fn relay_signature_covers_the_encoded_body() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let kong = Kong::start(&[]).await;
    let mut spec = quick();
    merge(&mut spec, json!({"source": "crud", "connectionRef": {"name": "kong"}}));
    let standalone = Standalone::start(&(kong.connection() + &hook("h", &receiver.url(), spec)), &[]).await;
    let config = kong.wait_for_hooks(1).await[0]["config"].clone();
    let text = |name: &str| config[name].as_str().unwrap().to_owned();
    let sign = |body: &[u8]| {
        let encoding = SignatureEncoding::PrefixedHex;
        kong_signature(text("secret").as_bytes(), SignatureAlgorithm::SHA256, encoding, body)
    };
    let relay = |coding: &str, body: Vec<u8>, signature: String| {
        let request = standalone.client.post(text("url")).header("x-kong-signature", signature);
        request.header("content-encoding", coding).body(body)
    };
    let body = json!({"source": "crud", "event": "consumers", "operation": "create"}).to_string();
    let encoded = gzip(body.as_bytes());
    let (status, problem) = answer(relay("gzip", encoded.clone(), sign(body.as_bytes()))).await;
    assert_eq!(status, 401, "{problem}");
    let (status, answered) = answer(relay("gzip", encoded.clone(), sign(&encoded))).await;
    assert_eq!((status, &answered["deliveries"]), (202, &json!(1)), "{answered}");
    assert_eq!(receiver.wait_for(1, DEADLINE).await[0].json()["operation"], "create");
    let bomb = gzip(&vec![b' '; 8 << 20]);
    assert_eq!(answer(relay("gzip", bomb.clone(), sign(&bomb))).await.0, 413);
    assert_eq!(answer(relay("br", encoded.clone(), sign(&encoded))).await.0, 415);
}
