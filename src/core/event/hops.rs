//! The hop counter, which ends loops between hooks that trigger each other.

use std::collections::BTreeMap;

use serde_json::Value;

/// The CloudEvents attribute that counts how many hooks an event has passed through.
pub const HOPS_ATTRIBUTE: &str = "hookstreamhops";
/// An event with this many hops is rejected, so a loop between two hooks ends.
pub const MAX_HOPS: u32 = 8;

/// Returns how many hooks an event with these attributes has passed through.
pub fn hops(attributes: &BTreeMap<String, Value>) -> u32 {
    match attributes.get(HOPS_ATTRIBUTE) {
        Some(Value::Number(n)) => n.as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        Some(Value::String(text)) => hops_of(text),
        _ => 0,
    }
}

/// Parses a hop count. Returns 0 for text that is not a decimal number.
pub fn hops_of(text: &str) -> u32 {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // A count that overflows means "too many hops", so it must not become 0.
    if digits { text.parse().unwrap_or(u32::MAX) } else { 0 }
}
