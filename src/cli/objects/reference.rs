//! References to objects on the command line, as kubectl writes them: `evh/orders`.

use std::fmt;
use std::str::FromStr;

use crate::cluster::ResourceKind;
use crate::core::names::is_object_name;
use crate::core::suggest::closest;

/// The names of the kinds, lower case: plural, singular and short names.
const KINDS: [(&str, ResourceKind); 11] = [
    ("eventhook", ResourceKind::EventHook),
    ("eventhooks", ResourceKind::EventHook),
    ("evh", ResourceKind::EventHook),
    ("eventstream", ResourceKind::EventStream),
    ("eventstreams", ResourceKind::EventStream),
    ("evs", ResourceKind::EventStream),
    ("hook", ResourceKind::Hook),
    ("hooks", ResourceKind::Hook),
    ("connection", ResourceKind::Connection),
    ("connections", ResourceKind::Connection),
    ("conn", ResourceKind::Connection),
];

/// An object of one of our kinds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectReference {
    pub kind: ResourceKind,
    pub name: String,
}

impl FromStr for ObjectReference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = text.split_once('/').ok_or("must be KIND/NAME, such as evh/orders")?;
        // As kubectl: also with the group.
        let lower = kind.to_ascii_lowercase();
        let plain = lower.strip_suffix(".hookstream.dev").unwrap_or(&lower);
        let Some((_, kind)) = KINDS.into_iter().find(|(name, _)| *name == plain) else {
            let similar = closest(plain, KINDS.into_iter().map(|(name, _)| name));
            let hint = similar.map(|similar| format!(": did you mean {similar}?")).unwrap_or_default();
            return Err(format!("there is no kind '{}'{hint}", plain.escape_default()));
        };
        if !is_object_name(name) {
            return Err(format!("'{}' is not a valid name", name.escape_default()));
        }
        Ok(ObjectReference { kind, name: name.to_owned() })
    }
}

impl fmt::Display for ObjectReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind: &str = (&self.kind).into();
        write!(f, "{}/{}", kind.to_ascii_lowercase(), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_references_as_kubectl_does() {
        for (text, kind) in [
            ("evh/a.b-c", ResourceKind::EventHook),
            ("EventHook/a.b-c", ResourceKind::EventHook),
            ("eventstreams.hookstream.dev/a.b-c", ResourceKind::EventStream),
            ("hook/a.b-c", ResourceKind::Hook),
            ("conn/a.b-c", ResourceKind::Connection),
        ] {
            let parsed: ObjectReference = text.parse().unwrap();
            assert_eq!(parsed, ObjectReference { kind, name: "a.b-c".into() });
            assert_eq!(parsed.to_string().parse::<ObjectReference>().unwrap(), parsed);
        }
        for (text, part) in [
            ("orders", "must be KIND/NAME"),
            ("evh/", "is not a valid name"),
            ("evh/A", "is not a valid name"),
            ("evh/a/b", "is not a valid name"),
            ("eventhok/a", "did you mean eventhook?"),
            ("pod/a", "there is no kind 'pod'"),
        ] {
            let error = text.parse::<ObjectReference>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
