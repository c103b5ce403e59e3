//! The mark of an installation in the URL of a relay. It states which installation configured the relay, and for which
//! object: `.../v1/namespaces/NAMESPACE/relays/NAME?installation=ID&uid=UID&proof=PROOF`.
//!
//! Every installation at a vendor can read the mark, so that two of them do not overwrite each other's relays silently.
//! The proof is derived from the key ring: only the installation with that key ring can make it. The worker ignores the
//! query of a relay.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use secrecy::ExposeSecret;
use url::Url;

use super::keys::{KeyRing, Owner, Purpose};

/// The names of the query parameters.
const INSTALLATION: &str = "installation";
const UID: &str = "uid";
const PROOF: &str = "proof";
/// The length of a proof in hexadecimal digits: 128 bits.
const PROOF_LENGTH: usize = 32;
/// The longest id of an installation, in bytes.
const MAX_ID: usize = 63;

/// The mark of an installation in the URL of a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayMark {
    pub installation: String,
    /// The uid of the custom resource for which the relay was configured.
    pub uid: String,
    proof: String,
}

/// The object to which a relay leads, by the path of its URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayTarget {
    pub namespace: String,
    /// `relays` for an EventHook, `streams` for an EventStream.
    pub collection: String,
    pub name: String,
}

/// Returns true for an id that an installation may have: at most 63 letters, digits, dots, dashes and underscores.
pub fn is_installation_id(text: &str) -> bool {
    (1..=MAX_ID).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Returns the object to which a URL leads; None if it is no URL of a worker.
pub fn parse_target(url: &Url) -> Option<RelayTarget> {
    let segments: Vec<&str> = url.path_segments()?.collect();
    let (_, last) = segments.split_at(segments.len().checked_sub(5)?);
    match last {
        ["v1", "namespaces", namespace, collection @ ("relays" | "streams"), name] => Some(RelayTarget {
            namespace: (*namespace).to_owned(),
            collection: (*collection).to_owned(),
            name: (*name).to_owned(),
        }),
        _ => None,
    }
}

impl RelayMark {
    /// Creates the mark of an object's relay. None if the key ring has no such key.
    pub fn new(key_ring: &KeyRing, key_id: &str, installation: &str, object: &ObjectMeta) -> Option<Self> {
        let uid = object.uid.clone().unwrap_or_default();
        let (namespace, name) = (object.namespace.as_deref(), object.name.as_deref());
        let owner = owner(namespace.unwrap_or_default(), name.unwrap_or_default(), &uid, installation);
        let proof = derive(key_ring, key_id, owner)?;
        Some(RelayMark { installation: installation.to_owned(), uid, proof })
    }

    /// Parses the mark in a URL. None if the URL is not a worker's or has no mark.
    pub fn parse(text: &str) -> Option<Self> {
        // Most of a vendor's URLs have no mark; parsing each one would cost time in a list of thousands.
        if !text.contains(PROOF) || !text.contains(INSTALLATION) {
            return None;
        }
        let url = Url::parse(text).ok()?;
        parse_target(&url)?;
        let value =
            |wanted: &str| url.query_pairs().find(|(name, _)| name == wanted).map(|(_, v)| v.into_owned());
        let mark = RelayMark { installation: value(INSTALLATION)?, uid: value(UID)?, proof: value(PROOF)? };
        // The id appears in conditions and on terminals.
        is_installation_id(&mark.installation).then_some(mark)
    }

    /// Appends the mark to the URL of a relay.
    pub fn append_to(&self, url: &mut Url) {
        let mut query = url.query_pairs_mut();
        query.append_pair(INSTALLATION, &self.installation);
        query.append_pair(UID, &self.uid);
        query.append_pair(PROOF, &self.proof);
    }

    /// Returns true if a key of this key ring made the mark for this object.
    pub fn is_proven(&self, target: &RelayTarget, key_ring: &KeyRing) -> bool {
        let owner = || owner(&target.namespace, &target.name, &self.uid, &self.installation);
        key_ring.entries().any(|(id, _)| derive(key_ring, id, owner()).as_deref() == Some(&*self.proof))
    }
}

/// Returns the URL of a relay without its mark, so that relays of several installations for one object can be compared.
pub fn without_mark(text: &str) -> &str {
    // The mark is what `append_to` appended last.
    let start = text.rfind("installation=").and_then(|at| at.checked_sub(1));
    match start.and_then(|at| text.get(..at)) {
        Some(plain) if RelayMark::parse(text).is_some() => plain,
        _ => text,
    }
}

/// Returns true if two URLs lead to the same relay of the same installation, as far as the URLs show without a key
/// ring: a proof is not compared, and one URL may have no mark.
pub fn is_same_relay(one: &str, other: &str) -> bool {
    let is_same_mark = match (RelayMark::parse(one), RelayMark::parse(other)) {
        (Some(one), Some(other)) => one.installation == other.installation && one.uid == other.uid,
        (Some(_), None) | (None, Some(_)) => true,
        (None, None) => one == other,
    };
    is_same_mark && without_mark(one) == without_mark(other)
}

fn owner<'a>(namespace: &'a str, name: &'a str, uid: &'a str, installation: &'a str) -> Owner<'a> {
    Owner { namespace, name, uid, rotation: installation }
}

fn derive(key_ring: &KeyRing, key_id: &str, owner: Owner<'_>) -> Option<String> {
    let secret = key_ring.derive(key_id, Purpose::Mark, owner)?;
    secret.expose_secret().get(..PROOF_LENGTH).map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_ring(byte: u8) -> KeyRing {
        KeyRing::from_data([("k1", [byte; 32].as_slice()), ("k2", [9; 32].as_slice())].into_iter()).unwrap()
    }

    fn object(name: &str, uid: &str) -> ObjectMeta {
        ObjectMeta {
            namespace: Some("shop".into()),
            name: Some(name.into()),
            uid: Some(uid.into()),
            ..ObjectMeta::default()
        }
    }

    fn marked(key_ring: &KeyRing, installation: &str) -> Url {
        let mut url = Url::parse("https://hooks.example.com/base/v1/namespaces/shop/relays/orders").unwrap();
        RelayMark::new(key_ring, "k1", installation, &object("orders", "u1")).unwrap().append_to(&mut url);
        url
    }

    #[test]
    fn mark_survives_a_round_trip_and_proves_its_key_ring() {
        let url = marked(&key_ring(1), "blue");
        let (mark, target) = (RelayMark::parse(url.as_str()).unwrap(), parse_target(&url).unwrap());
        assert_eq!((mark.installation.as_str(), mark.uid.as_str()), ("blue", "u1"));
        assert_eq!(
            (target.namespace.as_str(), target.collection.as_str(), target.name.as_str()),
            ("shop", "relays", "orders")
        );
        assert!(mark.is_proven(&target, &key_ring(1)));
        assert!(!mark.is_proven(&target, &key_ring(2)), "another key ring");
        let other = RelayTarget { name: "other".into(), ..target.clone() };
        assert!(!mark.is_proven(&other, &key_ring(1)), "another object");
        for (from, to) in [("blue", "green"), ("u1", "u2")] {
            let changed = RelayMark::parse(&url.as_str().replace(from, to)).unwrap();
            assert!(!changed.is_proven(&target, &key_ring(1)), "{to}");
        }
    }

    #[test]
    fn parses_only_marks_in_urls_of_a_worker() {
        let url = marked(&key_ring(1), "blue");
        let text = url.as_str();
        for other in [
            text.replace("/v1/", "/v2/"),
            text.replace("relays", "events"),
            text.replace("proof=", "p="),
            text.replace("blue", "%1b%5b31m"),
            text.replace("https://", ""),
            "https://hooks.example.com/v1/namespaces/shop/relays/orders".to_owned(),
        ] {
            assert_eq!(RelayMark::parse(&other), None, "{other}");
        }
    }

    #[test]
    fn relays_of_two_installations_are_equal_without_their_marks() {
        let (blue, green) = (marked(&key_ring(1), "blue"), marked(&key_ring(2), "green"));
        assert_ne!(blue, green);
        assert_eq!(without_mark(blue.as_str()), without_mark(green.as_str()));
        assert_eq!(
            without_mark(blue.as_str()),
            "https://hooks.example.com/base/v1/namespaces/shop/relays/orders"
        );
        let mut with_query =
            Url::parse("https://hooks.example.com/v1/namespaces/shop/relays/orders?a=b").unwrap();
        RelayMark::new(&key_ring(1), "k1", "blue", &object("orders", "u1"))
            .unwrap()
            .append_to(&mut with_query);
        assert!(without_mark(with_query.as_str()).ends_with("/relays/orders?a=b"));
        assert_eq!(without_mark("https://Example.com"), "https://Example.com", "other URLs stay as they are");
    }

    #[test]
    fn checks_ids_of_installations() {
        assert!(is_installation_id("6f1c9a36-6c5e-4d0c-9a55-0f2a4ce4b5f5") && is_installation_id("blue_1.a"));
        assert!(
            !is_installation_id("") && !is_installation_id("a b") && !is_installation_id(&"a".repeat(64))
        );
    }

    #[test]
    fn same_relay_is_found_without_the_key_ring() {
        let relay = "http://i.test:8080/v1/namespaces/shop/relays/orders";
        let marked = |installation: &str, uid: &str, proof: char| {
            format!("{relay}?installation={installation}&uid={uid}&proof={}", proof.to_string().repeat(32))
        };
        for (one, other, is_same) in [
            (marked("a", "u", '1'), marked("a", "u", '2'), true),
            (marked("a", "u", '1'), relay.to_owned(), true),
            (relay.to_owned(), relay.to_owned(), true),
            (marked("a", "u", '1'), marked("b", "u", '1'), false),
            (marked("a", "u", '1'), marked("a", "v", '1'), false),
            (marked("a", "u", '1'), marked("a", "u", '1').replace("i.test", "j.test"), false),
            (relay.to_owned(), format!("{relay}2"), false),
        ] {
            assert_eq!(is_same_relay(&one, &other), is_same, "{one} {other}");
            assert_eq!(is_same_relay(&other, &one), is_same, "{one} {other}");
        }
    }
}
