//! Removes secrets and control characters from untrusted texts before they are shown.

/// Minimum length in bytes of a secret that is masked. Masking a secret such as `a` would make every text unreadable.
const MIN_SECRET: usize = 4;

/// Replaces a secret in shown texts.
pub const MASK: &str = "***";

/// Returns true if a header with this name probably holds a secret.
pub fn is_secret_header(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["authorization", "cookie"].contains(&name.as_str())
        || ["token", "secret", "password", "api-key", "apikey", "credential"]
            .iter()
            .any(|part| name.contains(part))
}

/// Masks the secrets and replaces control characters with spaces, which protects terminals and JSON readers.
pub fn redact<'a>(text: &str, secrets: impl IntoIterator<Item = &'a str>) -> String {
    let shown: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    mask(&shown, secrets)
}

/// Masks the secrets and changes nothing else.
pub fn mask<'a>(text: &str, secrets: impl IntoIterator<Item = &'a str>) -> String {
    let mut shown = text.to_owned();
    for secret in secrets {
        if secret.len() >= MIN_SECRET {
            shown = shown.replace(secret, MASK);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_secrets_and_control_characters() {
        assert_eq!(redact("key s3cr3t is wrong", ["s3cr3t"]), "key *** is wrong");
        assert_eq!(redact("abc", ["a", ""]), "abc");
        assert_eq!(mask("a\n s3cr3t", ["s3cr3t"]), "a\n ***");
        for name in ["Authorization", "X-Auth-Token", "x-api-key"] {
            assert!(is_secret_header(name), "{name}");
        }
        assert!(!is_secret_header("content-type"));
        assert_eq!(redact("a\nb\u{1b}[31m", []), "a b [31m");
    }
}
