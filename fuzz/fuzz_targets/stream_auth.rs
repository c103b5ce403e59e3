//! What a stranger shows at a stream's address: the first line is `Authorization`, the rest a header of the user's own.
#![no_main]

use hookstream::core::stream_auth::{Credential, authenticate};
use libfuzzer_sys::fuzz_target;
use secrecy::SecretString;

const SECRET: &str = "a secret that nobody guesses";

fuzz_target!(|data: &[u8]| {
    let cut = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (authorization, own) = data.split_at(cut);
    let secret = || SecretString::from(SECRET);
    let credentials = [
        Credential::Bearer(secret()),
        Credential::Basic { username: "u".into(), password: secret() },
        Credential::Header { name: "x-own".into(), value: secret() },
    ];
    let header = |name: &str| match name {
        "authorization" => Some(authorization),
        "x-own" => Some(own),
        _ => None,
    };
    // None of these is in base64 by chance.
    if !data.windows(SECRET.len()).any(|bytes| bytes == SECRET.as_bytes()) && data.len() < 40 {
        assert!(authenticate(&credentials, header).is_err());
    }
    authenticate(&credentials, header).ok();
});
