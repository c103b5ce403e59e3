//! The syntax of label selectors, as `kubectl --selector` takes them.

use regex::Regex;

/// A requirement without its key and value, built from the patterns of both.
fn requirement(key: &str, value: &str) -> String {
    let values = format!(r"\(\s*{value}(?:\s*,\s*{value})*\s*\)");
    format!(r"\s*(?:!\s*{key}|{key}(?:\s*(?:==?|!=)\s*{value}|\s+(?:in|notin)\s*{values})?)\s*")
}

/// Checks the syntax. The API server would reject a malformed selector at each list, without an error at the start.
pub fn check_selector(text: &str) -> Result<(), &'static str> {
    const NAME: &str = "[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?";
    let key = format!("(?:[a-z0-9](?:[-a-z0-9.]{{0,251}}[a-z0-9])?/)?{NAME}");
    let one = requirement(&key, &format!("(?:{NAME})?"));
    let pattern = Regex::new(&format!("^{one}(?:,{one})*$")).map_err(|_| "cannot be checked")?;
    if pattern.is_match(text) {
        Ok(())
    } else {
        Err("is no label selector: write, for example, team=payments,env in (test, staging)")
    }
}

/// True if the text is a label's value that is not empty.
pub fn is_label_value(text: &str) -> bool {
    let is_edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let is_inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    text.len() <= 63
        && is_edge(text.chars().next())
        && is_edge(text.chars().last())
        && text.chars().all(is_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_selectors_of_kubectl_and_rejects_others() {
        for good in [
            "a",
            "!a",
            "a=b",
            "a==b",
            "a!=b",
            "a=",
            "example.com/team=payments,env in (test, staging),tier notin (x)",
            "a = b , ! c",
        ] {
            assert_eq!(check_selector(good), Ok(()), "{good}");
        }
        for bad in
            ["", ",", "a,", "a b", "a in", "a in b", "a=b=c", "-a", "a=-b", "a/b/c", "A.com/x/y", "a=(b)"]
        {
            assert!(check_selector(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn label_values_have_letters_or_digits_at_both_ends() {
        assert!(["a", "blue", "v1.2_x-Y", &"a".repeat(63)].into_iter().all(is_label_value));
        assert!(!["", "-a", "a-", "a b", "a/b", "ä", &"a".repeat(64)].into_iter().any(is_label_value));
    }
}
