//! Rejects changes that another site causes in the user's browser.

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, HeaderValue};

use crate::console::problem::Problem;

/// Checks the headers of a change that name the page that caused it. A proxy that checked them itself removes them.
pub fn check_origin(headers: &HeaderMap) -> Result<(), Problem> {
    let mut sites = headers.get_all("sec-fetch-site").iter().peekable();
    let is_same_site = sites.peek().is_some();
    let is_foreign = sites.any(|site| site != "same-origin");
    // The browser itself compared them. A proxy may have changed the Host since.
    let is_own = is_same_site && !is_foreign;
    let host = headers.get(HOST);
    if is_foreign || (!is_own && headers.get_all(ORIGIN).iter().any(|origin| !is_origin_of(origin, host))) {
        return Err(Problem::new(
            403,
            "CrossSiteRequest",
            "the browser sent this request for another site: open the page of the console and use its buttons",
        ));
    }
    Ok(())
}

fn is_origin_of(origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
    let text = origin.to_str().unwrap_or_default();
    let authority = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    authority.zip(host).is_some_and(|(origin, host)| origin.as_bytes().eq_ignore_ascii_case(host.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[(&'static str, &'static str)]) -> bool {
        let headers = headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
        check_origin(&headers.collect()).is_ok()
    }

    #[test]
    fn accepts_own_pages_and_programs() {
        assert!(check(&[("host", "h")]));
        assert!(check(&[("host", "h:1"), ("origin", "https://H:1")]));
        assert!(check(&[("host", "h"), ("origin", "http://h"), ("sec-fetch-site", "same-origin")]));
        assert!(check(&[("host", "10.0.0.1"), ("origin", "https://h"), ("sec-fetch-site", "same-origin")]));
    }

    #[test]
    fn rejects_other_sites() {
        assert!(!check(&[("host", "h"), ("origin", "https://evil.example")]));
        assert!(!check(&[("host", "h"), ("origin", "null")]));
        assert!(!check(&[("host", "h"), ("origin", "h")]));
        assert!(!check(&[("host", "h"), ("origin", "http://h:2")]));
        for site in ["cross-site", "same-site", "none", "new"] {
            let header = ("sec-fetch-site", site);
            assert!(!check(&[("host", "h"), ("origin", "http://h"), header]), "{site}");
        }
    }
}
