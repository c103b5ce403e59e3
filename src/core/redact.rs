//! Texts from strangers, made fit to be shown.

/// Shorter secrets are not looked for: `a` would mask half of every text.
const SHORTEST: usize = 4;

/// What stands for a secret.
pub const MASK: &str = "***";

/// True where a header of this name is likely to carry a secret, whoever wrote it into the spec.
pub fn is_secret_header(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["authorization", "cookie"].contains(&name.as_str())
        || ["token", "secret", "password", "api-key", "apikey", "credential"]
            .iter()
            .any(|part| name.contains(part))
}

/// Replaces what was sent in secret, and what no terminal or JSON reader should get.
pub fn redact<'a>(text: &str, secrets: impl IntoIterator<Item = &'a str>) -> String {
    let shown: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    mask(&shown, secrets)
}

/// Replaces what was sent in secret, and nothing else.
pub fn mask<'a>(text: &str, secrets: impl IntoIterator<Item = &'a str>) -> String {
    let mut shown = text.to_owned();
    for secret in secrets {
        if secret.len() >= SHORTEST {
            shown = shown.replace(secret, MASK);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
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
