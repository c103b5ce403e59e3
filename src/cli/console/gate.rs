//! Access to the proxy: only pages of the proxy itself, in the browser that opened the one-time link.
//!
//! Every page in a browser on this machine can send requests to a loopback address, and so can pages of other ports, which
//! count as the same site. Therefore each request needs the proxy's host, each change needs the proxy's origin, and
//! everything but the link needs the cookie that the link sets.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{COOKIE, HOST, HeaderName, ORIGIN};
use http::{HeaderMap, HeaderValue, Method, Uri};
use parking_lot::Mutex;
use subtle::ConstantTimeEq;

use crate::cli::failure::{Failure, OrFail};

/// How long a link is valid.
pub const LINK_LIFETIME: Duration = Duration::from_secs(60);
/// The path that redeems the link.
pub const LINK_PATH: &str = "/console/-/open";

/// The site and the mode of a request, and whether it is speculative, as browsers state them.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const PURPOSES: [&str; 2] = ["sec-purpose", "purpose"];

/// Why a request was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateRejection {
    #[error(
        "This address belongs to hookstream console, and the request names another host: open the printed link"
    )]
    ForeignHost,
    #[error("The page of another site caused this request: open the console's own pages")]
    ForeignSite,
    #[error("The console accepts GET, HEAD and POST")]
    Method,
    #[error(
        "This browser has not opened the link of hookstream console: open the link that it printed, or start it again"
    )]
    NoSession,
    #[error(
        "The link was used already, is older than 60 seconds, or is incomplete: press Enter in the terminal of hookstream \
         console for a new link, or start it again"
    )]
    SpentLink,
}

/// A random text of 256 bits that is compared in constant time.
pub struct RandomKey(String);

impl RandomKey {
    pub fn generate() -> Result<Self, Failure> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).or_fail(|| "reading random bytes".into())?;
        Ok(RandomKey(URL_SAFE_NO_PAD.encode(bytes)))
    }

    pub fn matches(&self, text: &str) -> bool {
        self.0.as_bytes().ct_eq(text.as_bytes()).into()
    }

    /// Returns the key. It must not reach a log.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Decides which requests the proxy answers.
pub struct BrowserGate {
    /// `host:port` as browsers write the proxy's address.
    authorities: Vec<String>,
    cookie: String,
    session: RandomKey,
    /// The link that was not redeemed yet, and its end.
    link: Mutex<Option<(RandomKey, Instant)>>,
}

impl BrowserGate {
    /// `authority`: the address of the proxy, with its port.
    pub fn new(authority: String, port: u16) -> Result<Self, Failure> {
        let mut authorities = vec![authority];
        authorities.extend(["127.0.0.1", "localhost", "[::1]"].map(|host| format!("{host}:{port}")));
        Ok(BrowserGate {
            authorities,
            // The cookies of all ports of a host are one set.
            cookie: format!("hookstream-proxy-{port}"),
            session: RandomKey::generate()?,
            link: Mutex::new(None),
        })
    }

    /// Creates a link, which replaces the one before, and returns it.
    pub fn create_link(&self, now: Instant) -> Result<String, Failure> {
        let key = RandomKey::generate()?;
        let authority = self.authorities.first().map_or("", String::as_str);
        let url = format!("http://{authority}{LINK_PATH}?key={}", key.expose());
        *self.link.lock() = Some((key, now + LINK_LIFETIME));
        Ok(url)
    }

    /// Redeems the link. It is then spent. Returns the value of the header that sets the session's cookie.
    pub fn redeem(&self, request: &Uri, headers: &HeaderMap, now: Instant) -> Result<String, GateRejection> {
        // A browser that loads the link in advance, or a program that previews it, would spend it.
        if PURPOSES.into_iter().any(|name| headers.contains_key(name)) {
            return Err(GateRejection::SpentLink);
        }
        let query = request.query().unwrap_or_default();
        let key = query.strip_prefix("key=").unwrap_or_default();
        let mut link = self.link.lock();
        let is_valid = link.as_ref().is_some_and(|(valid, end)| valid.matches(key) && now < *end);
        if !is_valid {
            return Err(GateRejection::SpentLink);
        }
        *link = None;
        let (name, session) = (&self.cookie, self.session.expose());
        Ok(format!("{name}={session}; Path=/console/; HttpOnly; SameSite=Strict"))
    }

    /// Checks where a request was sent to and which page caused it.
    pub fn check_site(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), GateRejection> {
        let is_own = |authority: &[u8]| {
            self.authorities.iter().any(|own| own.as_bytes().eq_ignore_ascii_case(authority))
        };
        let named = headers.get_all(HOST).iter().map(HeaderValue::as_bytes);
        let mut named =
            named.chain(uri.authority().map(|authority| authority.as_str().as_bytes())).peekable();
        if named.peek().is_none() || !named.all(is_own) {
            return Err(GateRejection::ForeignHost);
        }
        if ![Method::GET, Method::HEAD, Method::POST].contains(method) {
            return Err(GateRejection::Method);
        }
        let is_change = method == Method::POST;
        let mut origins = headers.get_all(ORIGIN).iter().map(HeaderValue::as_bytes).peekable();
        if is_change && origins.peek().is_none() {
            return Err(GateRejection::ForeignSite);
        }
        let is_own_origin = |origin: &[u8]| origin.strip_prefix(b"http://").is_some_and(is_own);
        if !origins.all(is_own_origin) {
            return Err(GateRejection::ForeignSite);
        }
        // A link on another page may lead here; the cookie then decides. Its frames, images and scripts may not.
        let is_navigation = !is_change && headers.get(FETCH_MODE).is_some_and(|mode| mode == "navigate");
        let is_own_site = |site: &HeaderValue| site == "same-origin" || site == "none";
        if !is_navigation && !headers.get_all(FETCH_SITE).iter().all(is_own_site) {
            return Err(GateRejection::ForeignSite);
        }
        Ok(())
    }

    /// Requires the cookie that the link has set.
    pub fn check_session(&self, headers: &HeaderMap) -> Result<(), GateRejection> {
        let has_session =
            cookies(headers).any(|(name, value)| name == self.cookie && self.session.matches(value));
        if has_session { Ok(()) } else { Err(GateRejection::NoSession) }
    }
}

/// Returns the names and values of a browser's cookies.
pub fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let texts = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> BrowserGate {
        BrowserGate::new("127.0.0.1:8088".into(), 8088).unwrap()
    }

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in all {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn redeem(gate: &BrowserGate, link: &str, now: Instant) -> Result<String, GateRejection> {
        gate.redeem(&link.parse().unwrap(), &HeaderMap::new(), now)
    }

    #[test]
    fn link_is_valid_once_and_for_a_minute() {
        let (gate, start) = (gate(), Instant::now());
        let link = gate.create_link(start).unwrap();
        let last = start + LINK_LIFETIME - Duration::from_millis(1);
        assert_eq!(redeem(&gate, &link, start + LINK_LIFETIME), Err(GateRejection::SpentLink));
        let prefetch = headers(&[("sec-purpose", "prefetch")]);
        assert_eq!(gate.redeem(&link.parse().unwrap(), &prefetch, last), Err(GateRejection::SpentLink));
        let cookie = redeem(&gate, &link, last).unwrap();
        assert!(cookie.ends_with("; Path=/console/; HttpOnly; SameSite=Strict"), "{cookie}");
        assert_eq!(redeem(&gate, &link, last), Err(GateRejection::SpentLink));

        let sent = headers(&[("cookie", &format!("a=b; {}", cookie.split(';').next().unwrap()))]);
        assert_eq!(gate.check_session(&sent), Ok(()));
        let name = cookie.split('=').next().unwrap();
        for wrong in ["", "a=b", &format!("{name}="), &format!("{name}=x"), &format!("x{cookie}")] {
            let sent = headers(&[("cookie", wrong)]);
            assert_eq!(gate.check_session(&sent), Err(GateRejection::NoSession), "{wrong}");
        }
    }

    #[test]
    fn new_link_replaces_the_one_before() {
        let (gate, now) = (gate(), Instant::now());
        let first = gate.create_link(now).unwrap();
        let second = gate.create_link(now).unwrap();
        assert_eq!(redeem(&gate, &first, now), Err(GateRejection::SpentLink));
        let without_key = second.split('?').next().unwrap();
        for wrong in [without_key, &format!("{without_key}?key="), &format!("{second}x")] {
            assert_eq!(redeem(&gate, wrong, now), Err(GateRejection::SpentLink), "{wrong}");
        }
        redeem(&gate, &second, now).unwrap();
    }

    #[test]
    fn accepts_only_its_own_pages() {
        let own = ("host", "127.0.0.1:8088");
        let (get, post) = (Method::GET, Method::POST);
        let check = |method: &Method, all: &[(&'static str, &str)]| {
            gate().check_site(method, &Uri::from_static("/console/"), &headers(all)).err()
        };
        for (method, all, expected) in [
            (&get, vec![own], None),
            (&get, vec![("host", "LOCALHOST:8088")], None),
            (&get, vec![("host", "[::1]:8088")], None),
            (&get, vec![], Some(GateRejection::ForeignHost)),
            (&get, vec![("host", "evil.example:8088")], Some(GateRejection::ForeignHost)),
            (&get, vec![("host", "127.0.0.1:8082")], Some(GateRejection::ForeignHost)),
            (&get, vec![own, ("host", "evil.example")], Some(GateRejection::ForeignHost)),
            (&Method::DELETE, vec![own], Some(GateRejection::Method)),
            (&get, vec![own, ("sec-fetch-site", "none")], None),
            (&get, vec![own, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")], None),
            (
                &get,
                vec![own, ("sec-fetch-site", "same-site"), ("sec-fetch-mode", "no-cors")],
                Some(GateRejection::ForeignSite),
            ),
            (&get, vec![own, ("origin", "http://127.0.0.1:3000")], Some(GateRejection::ForeignSite)),
            (&post, vec![own], Some(GateRejection::ForeignSite)),
            (&post, vec![own, ("origin", "null")], Some(GateRejection::ForeignSite)),
            (&post, vec![own, ("origin", "http://127.0.0.1:3000")], Some(GateRejection::ForeignSite)),
            (&post, vec![own, ("origin", "https://127.0.0.1:8088")], Some(GateRejection::ForeignSite)),
            (&post, vec![own, ("origin", "http://127.0.0.1:8088")], None),
            (
                &post,
                vec![
                    own,
                    ("origin", "http://127.0.0.1:8088"),
                    ("sec-fetch-site", "cross-site"),
                    ("sec-fetch-mode", "navigate"),
                ],
                Some(GateRejection::ForeignSite),
            ),
        ] {
            assert_eq!(check(method, &all), expected, "{method} {all:?}");
        }
    }
}
