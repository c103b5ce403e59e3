//! Texts from strangers, made fit to be shown.

/// Shorter secrets are not looked for: `a` would mask half of every text.
const SHORTEST: usize = 4;

/// Replaces what was sent in secret, and what no terminal or JSON reader should get.
pub fn redact<'a>(text: &str, secrets: impl IntoIterator<Item = &'a str>) -> String {
    let mut shown: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    for secret in secrets {
        if secret.len() >= SHORTEST {
            shown = shown.replace(secret, "***");
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
        assert_eq!(redact("a\nb\u{1b}[31m", []), "a b [31m");
    }
}
