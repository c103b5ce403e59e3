//! Authentication of requests to a stream. The first line is `Authorization`, the rest is a custom header.
#![no_main]

use hookstream::core::stream_auth::{Credential, authenticate};
use libfuzzer_sys::fuzz_target;
use secrecy::SecretString;

const SECRET: &str = "a secret that cannot be guessed";

fuzz_target!(|data: &[u8]| {
    let cut = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (authorization, custom) = data.split_at(cut);
    let secret = || SecretString::from(SECRET);
    let credentials = [
        Credential::Bearer(secret()),
        Credential::Basic { username: "u".into(), password: secret() },
        Credential::Header { name: "x-custom".into(), value: secret() },
    ];
    let header = |name: &str| match name {
        "authorization" => Some(authorization),
        "x-custom" => Some(custom),
        _ => None,
    };
    // Below this length random input cannot contain the base64 form of the secret.
    if !data.windows(SECRET.len()).any(|bytes| bytes == SECRET.as_bytes()) && data.len() < 40 {
        assert!(authenticate(&credentials, header).is_err());
    }
    authenticate(&credentials, header).ok();
});
