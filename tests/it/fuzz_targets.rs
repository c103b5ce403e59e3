//! The fuzz targets, compiled as tests and run on inputs from a few seeds, so that they stay correct between two runs
//! of `make fuzz`, which needs nightly and cargo-fuzz.
//!
//! In the targets, `libfuzzer_sys` is this crate (`extern crate self`, in main.rs).

// `no_main` is for cargo-fuzz's binaries.
#![allow(unused_attributes)]

use std::collections::BTreeSet;

/// The input of a target.
pub trait Input<'a>: Sized {
    /// Returns None if the bytes are not of this type.
    fn from_bytes(bytes: &'a [u8]) -> Option<Self>;
}

impl<'a> Input<'a> for &'a [u8] {
    fn from_bytes(bytes: &'a [u8]) -> Option<Self> {
        Some(bytes)
    }
}

impl<'a> Input<'a> for &'a str {
    fn from_bytes(bytes: &'a [u8]) -> Option<Self> {
        std::str::from_utf8(bytes).ok()
    }
}

#[path = "../../fuzz/fuzz_targets/admin_object.rs"]
mod admin_object;
#[path = "../../fuzz/fuzz_targets/duration.rs"]
mod duration;
#[path = "../../fuzz/fuzz_targets/filter.rs"]
mod filter;
#[path = "../../fuzz/fuzz_targets/headers.rs"]
mod headers;
#[path = "../../fuzz/fuzz_targets/manifest.rs"]
mod manifest;
#[path = "../../fuzz/fuzz_targets/publish.rs"]
mod publish;
#[path = "../../fuzz/fuzz_targets/relay.rs"]
mod relay;
#[path = "../../fuzz/fuzz_targets/retry_after.rs"]
mod retry_after;
#[path = "../../fuzz/fuzz_targets/sandbox.rs"]
mod sandbox;
#[path = "../../fuzz/fuzz_targets/signature.rs"]
mod signature;
#[path = "../../fuzz/fuzz_targets/stream_auth.rs"]
mod stream_auth;
#[path = "../../fuzz/fuzz_targets/template.rs"]
mod template;
#[path = "../../fuzz/fuzz_targets/url.rs"]
mod url;
#[path = "../../fuzz/fuzz_targets/webhook_handshake.rs"]
mod webhook_handshake;

type Target = (&'static str, fn(&[u8]));

const TARGETS: &[Target] = &[
    ("admin_object", admin_object::run),
    ("duration", duration::run),
    ("filter", filter::run),
    ("headers", headers::run),
    ("manifest", manifest::run),
    ("publish", publish::run),
    ("relay", relay::run),
    ("retry_after", retry_after::run),
    ("sandbox", sandbox::run),
    ("signature", signature::run),
    ("stream_auth", stream_auth::run),
    ("template", template::run),
    ("url", url::run),
    ("webhook_handshake", webhook_handshake::run),
];

/// Inputs that some target accepts.
const SEEDS: &[&str] = &[
    "\u{2}\u{5}01234{\"specversion\": \"1.0\", \"id\": \"1\", \"source\": \"/s\", \"type\": \"t\", \"data\": {\"n\": 1.10}}",
    "\u{1}\0{\"source\": \"crud\", \"event\": \"consumers\", \"data\": [null, 1e400, \"\\ud800\"]}",
    "{\"source\": \"crud\", \"event\": \"consumers\", \"operation\": \"create\", \"entity\": {\"id\": \"x\"}}",
    "Wed, 21 Oct 2026 07:28:00 GMT",
    "120",
    "200\n*\n120\nshop.example\n*",
    "sha256=00ff\n{}",
    "whsec_c2VjcmV0\nanother",
    "1h30m500ms",
    "512MiB",
    "data.a[0] == 'x' && has(data.b) || size(data.a) > 2\n{\"a\": [\"x\"], \"b\": 1}",
    "apiVersion: hookstream.dev/v1alpha1\nkind: EventHook\nmetadata: {name: h}\nspec: {source: s, handler: {log: {}}}",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\nrojo=1,congo=2",
    "Basic dTpw\nanother header",
    "https://user@[::1]:8443/a%20b?c=d#e",
    "{\"a\": \"\\ud83d\", \"n\": 1e999, \"big\": 18446744073709551617}\n{{ a }} {* json(n) *} {{ big }}",
    "data.big == 1 || data.a < 2\n{\"a\": \"\\ud83d\", \"n\": 1e999, \"big\": 18446744073709551617}",
    "{% for _, v in ipairs(list) do %}{{ v }}{* json(v) *}{# no #}{-b-}x{-b-}{% end %}",
];

#[test]
fn no_target_panics_on_mutated_seeds() {
    let mut random = fastrand::Rng::with_seed(7);
    for (name, run) in TARGETS {
        for seed in SEEDS {
            run(seed.as_bytes());
            for _ in 0..50 {
                let bytes = mutated(seed.as_bytes(), &mut random);
                let outcome = std::panic::catch_unwind(|| run(&bytes));
                assert!(outcome.is_ok(), "{name} panics on {:?}", String::from_utf8_lossy(&bytes));
            }
        }
    }
}

/// Truncates the seed, inserts, repeats or changes bytes at random.
fn mutated(seed: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..random.usize(1..6) {
        let at = random.usize(0..=bytes.len());
        match random.u8(0..4) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.choice(*b"\"'{}[]().,:%*-=\n\0 9az").unwrap()),
            2 => bytes.extend_from_within(at..),
            _ if at < bytes.len() => bytes[at] = random.u8(..),
            _ => {}
        }
    }
    bytes.truncate(4096);
    bytes
}

/// A target that is missing in one of the lists is never fuzzed, or never compiled here.
#[test]
fn every_target_is_in_all_lists() {
    let compiled: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let files = std::fs::read_dir("fuzz/fuzz_targets").unwrap().map(|entry| entry.unwrap().path());
    let files: BTreeSet<String> =
        files.map(|path| path.file_stem().unwrap().to_string_lossy().into()).collect();
    assert_eq!(compiled, files);
    let manifest = std::fs::read_to_string("fuzz/Cargo.toml").unwrap();
    let binaries: BTreeSet<String> =
        manifest.split("[[bin]]").skip(1).map(|bin| bin.split('"').nth(1).unwrap().to_owned()).collect();
    assert_eq!(compiled, binaries);
    let makefile = std::fs::read_to_string("Makefile").unwrap();
    let in_makefile = makefile.lines().find_map(|line| line.strip_prefix("FUZZ_TARGETS := ")).unwrap();
    assert_eq!(compiled, in_makefile.split(' ').map(ToOwned::to_owned).collect());
}

/// As libfuzzer's macro, but a test calls the function. It is defined below the targets, because they import it.
#[macro_export]
macro_rules! fuzz_target {
    (|$data:ident: $type:ty| $body:block) => {
        pub fn run(bytes: &[u8]) {
            fn target($data: $type) $body
            if let Some(data) = $crate::fuzz_targets::Input::from_bytes(bytes) {
                target(data);
            }
        }
    };
}
