//! Names of namespaces and objects, by the rules of the API server.
//!
//! Standalone has no API server, and a name becomes part of the path of a file. Without these checks, a namespace `..`
//! would leave its folder.

/// The longest name of a namespace.
const MAX_NAMESPACE: usize = 63;
/// The longest name of an object.
const MAX_OBJECT_NAME: usize = 253;

/// What a namespace may be called, as the end of a message.
pub const NAMESPACE_RULE: &str = "must consist of lower-case letters, digits and hyphens, begin and end with a letter or digit, and have at most 63 characters";
/// What an object may be called, as the end of a message.
pub const OBJECT_NAME_RULE: &str = "must consist of lower-case letters, digits, hyphens and dots, at most 253 characters; each part between dots begins and ends with a letter or digit";

/// True for the name of a namespace: an RFC 1123 label.
pub fn is_namespace(text: &str) -> bool {
    text.len() <= MAX_NAMESPACE && is_label(text)
}

/// True for the name of an object: an RFC 1123 subdomain.
pub fn is_object_name(text: &str) -> bool {
    text.len() <= MAX_OBJECT_NAME && text.split('.').all(is_label)
}

fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_the_api_server_accepts() {
        for name in ["a", "0", "kube-system", "a--b", "1-2"] {
            assert!(is_namespace(name) && is_object_name(name), "{name}");
        }
        assert!(is_object_name("a.b-c.d"));
        assert!(is_namespace(&"n".repeat(63)) && is_object_name(&"n".repeat(253)));
    }

    #[test]
    fn rejects_other_names() {
        for name in ["", ".", "..", "../a", "a/b", "-a", "a-", "A", "a_b", "ä", "a b", "a\0", "%2e%2e"] {
            assert!(!is_namespace(name) && !is_object_name(name), "{name}");
        }
        assert!(!is_namespace("a.b"), "a namespace is one label");
        for name in ["a..b", ".a", "a.", "a.-b"] {
            assert!(!is_object_name(name), "{name}");
        }
        assert!(!is_namespace(&"n".repeat(64)) && !is_object_name(&"n".repeat(254)));
    }
}
