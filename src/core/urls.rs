//! URLs in specs, Secrets and flags: one parser, which never accepts a URL that the API server rejects.

use std::net::Ipv6Addr;

use url::Url;

/// Parses a destination URL. The error never repeats the text, which may come from a Secret.
pub fn parse_url(text: &str) -> Result<Url, &'static str> {
    let url = parse_any_url(text).ok_or("is not a URL: write it as https://example.com/hooks")?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must be an http or https URL");
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("has no host");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not contain user information: put credentials into headersFrom");
    }
    Ok(url)
}

/// Parses an absolute URL of any scheme. None: it is none, or the API server rejects it.
pub fn parse_any_url(text: &str) -> Option<Url> {
    // The parser of browsers repairs much that the API server rejects, such as line ends and backslashes.
    Url::parse(text).ok().filter(|_| is_url(text))
}

/// Returns a URL without user information, query and fragment. None: the text is no URL, or has none of them.
pub fn without_secrets(text: &str) -> Option<String> {
    let mut url = parse_any_url(text).filter(|url| url.has_host())?;
    let has_secrets = !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some();
    if !has_secrets || url.set_username("").is_err() || url.set_password(None).is_err() {
        return None;
    }
    url.set_fragment(None);
    if url.query().is_some() {
        url.set_query(Some("..."));
    }
    Some(url.into())
}

/// Returns a URL without its path too, which may be a secret. None: the text is no URL.
pub fn without_path(text: &str) -> Option<String> {
    let mut url = parse_any_url(text).filter(|url| url.has_host())?;
    if url.path() == "/" && url.query().is_none() && url.fragment().is_none() && url.username().is_empty() {
        return Some(text.to_owned());
    }
    if url.set_username("").is_err() || url.set_password(None).is_err() {
        return None;
    }
    url.set_path("...");
    url.set_query(None);
    url.set_fragment(None);
    Some(url.into())
}

/// Evaluates CEL's `isURL` as the API server does, which uses `url.ParseRequestURI` of Go 1.26. Older API servers also
/// accept a host with several colons.
pub fn is_url(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return false;
    }
    if text == "*" {
        return true;
    }
    let Some((scheme, rest)) = split_scheme(text) else { return false };
    // Everything after the first question mark is the query, which may contain anything. A fragment is not recognized.
    let rest = rest.split('?').next().unwrap_or_default();
    if !rest.starts_with('/') {
        return !scheme.is_empty();
    }
    let path = match rest.strip_prefix("//").filter(|_| !scheme.is_empty()) {
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            if !is_authority(scheme, authority) {
                return false;
            }
            path
        }
        None => rest,
    };
    has_valid_escapes(path)
}

/// Splits off the scheme, which may be empty. None: the text starts with a colon.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    let end = text.bytes().position(|byte| !is_scheme(byte)).unwrap_or(text.len());
    let (scheme, rest) = text.split_at(end);
    match (rest.strip_prefix(':'), scheme.bytes().next()) {
        (Some(_), None) => None,
        (Some(rest), Some(first)) if first.is_ascii_alphabetic() => Some((scheme, rest)),
        _ => Some(("", text)),
    }
}

fn is_authority(scheme: &str, authority: &str) -> bool {
    match authority.rsplit_once('@') {
        None => is_host(scheme, authority),
        Some((user, host)) => {
            let is_user = |c: char| c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(c);
            is_host(scheme, host) && user.chars().all(is_user) && has_valid_escapes(user)
        }
    }
}

/// True for `host[:port]`.
fn is_host(scheme: &str, host: &str) -> bool {
    if let Some(open) = host.rfind('[') {
        let Some((address, port)) = host.strip_prefix('[').and_then(|rest| rest.rsplit_once(']')) else {
            return false;
        };
        return open == 0 && is_optional_port(port) && is_ipv6(address);
    }
    let port = match host.split_once(':') {
        None => "",
        Some((_, port)) if !port.contains(':') => port,
        // Only other schemes may have a list of hosts.
        Some(_) if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") => {
            return false;
        }
        Some((_, more)) => more.rsplit(':').next().unwrap_or_default(),
    };
    port.bytes().all(|byte| byte.is_ascii_digit()) && is_host_text(host, |byte| byte >= 8 * 16)
}

fn is_optional_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()))
}

/// True for an IPv6 address, also one with a zone after `%25`.
fn is_ipv6(text: &str) -> bool {
    let (address, zone) = match text.split_once("%25") {
        None => (text, None),
        Some((address, zone)) => (address, Some(zone)),
    };
    let is_zone_byte = |byte: u8| byte == b' ' || is_host_byte(byte);
    address.parse::<Ipv6Addr>().is_ok()
        && zone.is_none_or(|zone| !zone.is_empty() && is_host_text(zone, is_zone_byte))
}

/// True if all bytes may stand in a host and its percent codes stand for allowed bytes.
fn is_host_text(text: &str, allows_code: impl Fn(u8) -> bool) -> bool {
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first == b'%' {
            let Some(byte) = percent_code(after) else { return false };
            if byte != b'%' && !allows_code(byte) {
                return false;
            }
            rest = after.get(2..).unwrap_or_default();
        } else if !is_host_byte(*first) {
            return false;
        }
    }
    true
}

fn is_host_byte(byte: u8) -> bool {
    byte >= 0x80 || byte.is_ascii_alphanumeric() || b"!\"$&'()*+,-.:;<=>[]_~".contains(&byte)
}

/// True if two hexadecimal digits follow each percent sign.
fn has_valid_escapes(text: &str) -> bool {
    text.split('%').skip(1).all(|code| percent_code(code.as_bytes()).is_some())
}

/// Returns the byte of the two hexadecimal digits at the start.
fn percent_code(text: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*text.get(at)?).to_digit(16);
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_destinations() {
        for text in [
            "https://example.com/x",
            "http://[::1]:8080/a?b=c#d",
            "https://example.com/a b",
            "https://bücher.example",
            "https://example.com?x=%",
            "https://a_b.example:/",
        ] {
            assert!(parse_url(text).is_ok(), "{text}");
        }
        for (text, part) in [
            ("example.com", "not a URL"),
            ("mailto:a@b", "http or https"),
            ("https://u:p@example.com", "user information"),
            ("https://", "not a URL"),
            ("https://example.com\n", "not a URL"),
            (" https://example.com", "not a URL"),
            ("https://example.com:99999/", "not a URL"),
        ] {
            assert!(parse_url(text).unwrap_err().contains(part), "{text}");
        }
    }

    #[test]
    fn accepts_what_go_accepts() {
        for text in [
            "*",
            "/a",
            "mailto:a",
            "https://",
            "https://example.com/a#b",
            "https://a%C3%A9/",
            "https://[fe80::1%25en0]:80",
            "https://[fe80::1%25e%20n]",
            "postgres://a:1,b:2/x",
            "https://h:/",
            "https:/a",
            "https://us%20er@h",
            "//%zz".get(..2).unwrap(),
        ] {
            assert!(is_url(text), "{text}");
        }
        for text in [
            "",
            "a",
            ":a",
            "1a:b",
            "#a",
            "https://example.com/a%2",
            "https://example.com/%zz",
            "https://example.com#top",
            "https://exam\tple.com/",
            "https://example.com\\hook",
            "https://exa mple.com",
            "https://h:8a/",
            "https://a:1:2/",
            "https://::1/",
            "https://[::1",
            "https://a[::1]",
            "https://[1.2.3.4]",
            "https://[::1]8/",
            "https://[fe80::1%25]/",
            "https://a%20b/",
            "https://u ser@h",
            "https://a^b",
            "https://a\u{7f}",
        ] {
            assert!(!is_url(text), "{text}");
        }
    }
}
