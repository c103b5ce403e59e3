//! The decide stage: compares the external object with the desired one and chooses the action. It uses no I/O and no
//! clock, so that `sync` and `preview` decide alike and a table test covers every branch.

use std::sync::Arc;

use serde_json::Value;

use super::kind::{DesiredObject, Policies, SecretHashes, value_at};
use crate::api::{AdoptMode, DeletionPolicy};
use crate::controller::error::SyncError;
use crate::controller::state::is_hash_of;
use crate::core::keys::KeyRing;
use crate::core::plan::{Plan, plan};

/// An external object as the vendor shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub id: String,
    pub item: Arc<Value>,
    /// True if it belongs to an earlier custom resource of the same name, and this one takes it over.
    pub is_inherited: bool,
}

impl Found {
    /// An object that the custom resource owns, observes or adopts.
    pub fn new(id: String, item: Arc<Value>) -> Self {
        Found { id, item, is_inherited: false }
    }
}

/// An external object, compared with the desired one. It holds paths and no values, because values may be secret.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    pub found: Found,
    /// The paths to write: those that differ, and the unverified secrets unless a policy exempts them.
    pub fields: Vec<String>,
    /// The paths of secrets that cannot be compared: the vendor masks them and no hash of them is stored.
    pub unverified: Vec<String>,
}

/// A policy that forbids a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOnlyPolicy {
    ObserveOnly,
    AdoptMatch,
}

impl ReadOnlyPolicy {
    /// Returns the policy as a manifest spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            ReadOnlyPolicy::ObserveOnly => "managementPolicy: ObserveOnly",
            ReadOnlyPolicy::AdoptMatch => "adopt.mode: Match",
        }
    }
}

/// The action of a sync on one external object.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Create the external object.
    Create,
    /// Write the fields that differ.
    Update(Comparison),
    /// Take ownership of an existing external object and write the `fields` that differ, possibly none.
    Adopt(Comparison),
    /// The same for an external object of an earlier custom resource of this name.
    TakeOver(Comparison),
    /// Write nothing: the owned external object is as desired.
    Keep(Comparison),
    /// Write nothing and take no ownership: the external object is as desired, and the policy is `ObserveOnly`.
    Observe(Comparison),
    /// Write nothing and report the difference.
    ReportDifference(Comparison, ReadOnlyPolicy),
}

impl Action {
    pub fn comparison_mut(&mut self) -> Option<&mut Comparison> {
        match self {
            Action::Create => None,
            Action::Update(comparison)
            | Action::Adopt(comparison)
            | Action::TakeOver(comparison)
            | Action::Keep(comparison)
            | Action::Observe(comparison)
            | Action::ReportDifference(comparison, _) => Some(comparison),
        }
    }

    /// Returns the comparison with the external object; None if there is none yet.
    pub fn comparison(&self) -> Option<&Comparison> {
        match self {
            Action::Create => None,
            Action::Update(comparison)
            | Action::Adopt(comparison)
            | Action::TakeOver(comparison)
            | Action::Keep(comparison)
            | Action::Observe(comparison)
            | Action::ReportDifference(comparison, _) => Some(comparison),
        }
    }
}

/// The facts on which the decision depends, besides the external object, the desired object and the policies.
#[derive(Clone, Debug, Default)]
pub struct DecisionFacts<'a> {
    /// The name of the external object in messages, such as "hook at Kong".
    pub what: &'static str,
    pub uid: &'a str,
    /// The id under which the external object was expected.
    pub expected_id: Option<&'a str>,
    /// True if the external object belongs to the custom resource already: nothing is left to adopt.
    pub is_owned: bool,
    /// True if the status names the external object.
    pub is_in_status: bool,
    /// Another custom resource that owns the external object.
    pub other_owner: Option<String>,
    /// The hashes of the secrets that were last written.
    pub hashes: Option<&'a SecretHashes>,
    /// The key ring of these hashes. None: they cannot be checked.
    pub key_ring: Option<&'a KeyRing>,
    /// False if the vendor masks secrets.
    pub secrets_read_back: bool,
    /// True if the desired secrets are placeholders, because there is no key ring to derive them from.
    pub secrets_are_placeholders: bool,
}

/// Chooses the action. Fails if another custom resource owns the object to adopt, or if nothing exists to observe.
pub fn decide<D>(
    found: Option<Found>,
    desired: &DesiredObject<D>,
    policies: &Policies<'_>,
    facts: &DecisionFacts<'_>,
) -> Result<Action, SyncError> {
    let Some(found) = found else { return decide_missing(desired.name.as_deref(), policies, facts) };
    let mode = policies.adopt.map(|adopt| adopt.mode);
    // For an object that is only observed or matched, a masked secret that was never written is no difference. Until
    // the status names a matched object, an earlier attempt may have matched it already: it must not be written either.
    let is_inherited = found.is_inherited;
    // The secret of a relay derives from the uid, so the one of an earlier object is always another.
    let is_own_relay = desired.relay_url.is_some() && (facts.is_owned || is_inherited);
    let is_being_matched = mode == Some(AdoptMode::Match) && !facts.is_in_status && !is_own_relay;
    let exempts_unverified = policies.observes_only() || is_being_matched;
    let comparison = compare(found, desired, facts, exempts_unverified);
    // The earlier object managed it, so this one need not match it first.
    let adopts = if is_inherited { Some(AdoptMode::Override) } else { mode.filter(|_| !facts.is_owned) };

    let read_only = match adopts {
        _ if policies.observes_only() => Some(ReadOnlyPolicy::ObserveOnly),
        Some(AdoptMode::Match) => Some(ReadOnlyPolicy::AdoptMatch),
        _ => None,
    };
    let differs = !comparison.fields.is_empty();
    match read_only {
        Some(policy) if differs => return Ok(Action::ReportDifference(comparison, policy)),
        Some(ReadOnlyPolicy::ObserveOnly) => return Ok(Action::Observe(comparison)),
        _ => {}
    }
    match (adopts, &facts.other_owner) {
        (Some(_), Some(by)) => {
            Err(SyncError::Held { what: facts.what, id: comparison.found.id, by: by.clone() })
        }
        (Some(_), None) if is_inherited => Ok(Action::TakeOver(comparison)),
        (Some(_), None) => Ok(Action::Adopt(comparison)),
        (None, _) if differs => Ok(Action::Update(comparison)),
        (None, _) => Ok(Action::Keep(comparison)),
    }
}

fn decide_missing(
    name: Option<&str>,
    policies: &Policies<'_>,
    facts: &DecisionFacts<'_>,
) -> Result<Action, SyncError> {
    if !policies.observes_only() {
        return Ok(Action::Create);
    }
    let what = facts.what;
    Err(match (name, facts.expected_id) {
        (Some(name), None) => SyncError::NotThere { what, name: name.to_owned() },
        (_, id) => SyncError::AdoptNotFound { what, id: id.unwrap_or_default().to_owned() },
    })
}

fn compare<D>(
    found: Found,
    desired: &DesiredObject<D>,
    facts: &DecisionFacts<'_>,
    exempts_unverified: bool,
) -> Comparison {
    let mut fields = match plan(&desired.readable, Some(&found.item)) {
        Plan::Update(fields) => fields,
        Plan::Create | Plan::Nothing => Vec::new(),
    };
    let mut unverified = Vec::new();
    for (path, value) in &desired.secrets {
        let is_same = is_same_secret(&found.item, path, value, facts);
        if is_same.is_none() {
            unverified.push(path.clone());
        }
        if is_same == Some(false) || (is_same.is_none() && !exempts_unverified) {
            fields.push(path.clone());
        }
    }
    Comparison { found, fields, unverified }
}

/// Returns true if the vendor has this secret, by the stored hash or by the value that reads back. None if unknown.
fn is_same_secret(item: &Value, path: &str, value: &Value, facts: &DecisionFacts<'_>) -> Option<bool> {
    if facts.secrets_are_placeholders {
        return None;
    }
    match facts.hashes.and_then(|hashes| hashes.get(path)) {
        Some(hash) => facts.key_ring.map(|key_ring| is_hash_of(key_ring, hash, facts.uid, path, value)),
        None if facts.secrets_read_back => Some(value_at(item, path) == Some(value)),
        // Other secrets have hashes and this one has none: it is new.
        None => facts.hashes.map(|_| false),
    }
}

/// The fate of an external object at a former address of its Connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormerAddress {
    /// The object exists at the new address too: this is the same vendor under another address.
    SameVendor,
    /// Delete the object at the former address.
    Delete,
    /// Leave the object at the former address.
    Orphan,
}

/// Decides about an external object at a former address.
pub fn decide_former_address(
    exists_at_new_address: bool,
    deletion: DeletionPolicy,
    policies: &Policies<'_>,
) -> FormerAddress {
    match deletion {
        _ if exists_at_new_address => FormerAddress::SameVendor,
        DeletionPolicy::Delete if !policies.observes_only() => FormerAddress::Delete,
        DeletionPolicy::Delete | DeletionPolicy::Orphan => FormerAddress::Orphan,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Adopt, ManagementPolicy};
    use crate::controller::state::hash_with_newest_key;
    use serde_json::json;

    const UID: &str = "u";

    fn key_ring() -> KeyRing {
        KeyRing::from_data([("k1", [1; 32].as_slice())].into_iter()).unwrap()
    }

    fn found(object: Value) -> Option<Found> {
        Some(Found::new("x".into(), Arc::new(object)))
    }

    fn desired() -> DesiredObject<()> {
        DesiredObject::new((), json!({"url": "new", "token": "t"}), &["token"], Some("name".into()))
    }

    fn adopt(mode: AdoptMode) -> Adopt {
        Adopt { id: "x".into(), mode }
    }

    fn hashes(of: &str) -> SecretHashes {
        [("token".to_owned(), hash_with_newest_key(&key_ring(), UID, "token", &json!(of)).unwrap())].into()
    }

    fn observing<'a>() -> Policies<'a> {
        Policies { management: Some(ManagementPolicy::ObserveOnly), ..Policies::default() }
    }

    fn adopting(adopt: &Adopt) -> Policies<'_> {
        Policies { adopt: Some(adopt), ..Policies::default() }
    }

    /// A vendor that shows secrets, and an object that the custom resource owns.
    fn owned<'a>() -> DecisionFacts<'a> {
        DecisionFacts {
            what: "hook at Kong",
            uid: UID,
            is_owned: true,
            is_in_status: true,
            secrets_read_back: true,
            ..DecisionFacts::default()
        }
    }

    /// A vendor that shows secrets, and an object that belongs to no custom resource.
    fn unowned<'a>() -> DecisionFacts<'a> {
        DecisionFacts { is_owned: false, is_in_status: false, ..owned() }
    }

    /// The marker was written, and the status was not.
    fn owned_by_marker<'a>() -> DecisionFacts<'a> {
        DecisionFacts { is_in_status: false, ..owned() }
    }

    fn masked(facts: DecisionFacts<'_>) -> DecisionFacts<'_> {
        DecisionFacts { secrets_read_back: false, ..facts }
    }

    /// The action as text: its name, `fields` and `unverified`.
    fn decided(object: Option<Found>, policies: &Policies<'_>, facts: &DecisionFacts<'_>) -> String {
        let text = |name: &str, comparison: &Comparison| {
            assert_eq!(comparison.found.id, "x");
            format!("{name} {:?} {:?}", comparison.fields, comparison.unverified)
        };
        match decide(object, &desired(), policies, facts) {
            Ok(Action::Create) => "Create".into(),
            Ok(Action::Update(comparison)) => text("Update", &comparison),
            Ok(Action::Adopt(comparison)) => text("Adopt", &comparison),
            Ok(Action::TakeOver(comparison)) => text("TakeOver", &comparison),
            Ok(Action::Keep(comparison)) => text("Keep", &comparison),
            Ok(Action::Observe(comparison)) => text("Observe", &comparison),
            Ok(Action::ReportDifference(comparison, policy)) => text(policy.as_str(), &comparison),
            Err(error) => format!("{}: {error}", error.reason()),
        }
    }

    fn same() -> Option<Found> {
        found(json!({"id": "x", "url": "new", "token": "t"}))
    }

    fn different() -> Option<Found> {
        found(json!({"id": "x", "url": "old", "token": "t"}))
    }

    #[test]
    fn owned_object_is_created_updated_or_kept() {
        let free = Policies::default();
        assert_eq!(decided(None, &free, &owned()), "Create");
        assert_eq!(decided(same(), &free, &owned()), "Keep [] []");
        assert_eq!(decided(different(), &free, &owned()), r#"Update ["url"] []"#);
        let other_token = found(json!({"id": "x", "url": "old", "token": "other"}));
        assert_eq!(decided(other_token, &free, &owned()), r#"Update ["url", "token"] []"#);
        let elsewhere = DecisionFacts { other_owner: Some("n/other".into()), ..owned() };
        assert_eq!(decided(same(), &free, &elsewhere), "Keep [] []", "ownership matters to adoption only");
    }

    #[test]
    fn match_mode_adopts_only_an_identical_object() {
        let matching = adopt(AdoptMode::Match);
        let policies = adopting(&matching);
        assert_eq!(decided(same(), &policies, &unowned()), "Adopt [] []");
        assert_eq!(decided(different(), &policies, &unowned()), r#"adopt.mode: Match ["url"] []"#);
        assert_eq!(decided(different(), &policies, &owned()), r#"Update ["url"] []"#, "adopted before");
        assert_eq!(decided(None, &policies, &owned()), "Create", "adopted before, and deleted since");
    }

    #[test]
    fn override_adopts_and_writes() {
        let overriding = adopt(AdoptMode::Override);
        let policies = adopting(&overriding);
        assert_eq!(decided(same(), &policies, &unowned()), "Adopt [] []");
        assert_eq!(decided(different(), &policies, &unowned()), r#"Adopt ["url"] []"#);
        assert_eq!(decided(different(), &policies, &owned()), r#"Update ["url"] []"#);
    }

    #[test]
    fn object_of_another_owner_is_not_adopted() {
        for (mode, object) in
            [(AdoptMode::Match, same()), (AdoptMode::Override, same()), (AdoptMode::Override, different())]
        {
            let adopt = adopt(mode);
            let facts = DecisionFacts { other_owner: Some("n/other".into()), ..unowned() };
            let text = decided(object, &adopting(&adopt), &facts);
            assert!(text.starts_with("Held: the hook at Kong x belongs to n/other"), "{text}");
        }
        let matching = adopt(AdoptMode::Match);
        let facts = DecisionFacts { other_owner: Some("n/other".into()), ..unowned() };
        let text = decided(different(), &adopting(&matching), &facts);
        assert_eq!(text, r#"adopt.mode: Match ["url"] []"#, "the difference is reported first");
    }

    #[test]
    fn inherited_object_is_taken_over() {
        let inherited = |object: Option<Found>| object.map(|found| Found { is_inherited: true, ..found });
        let (free, matching) = (Policies::default(), adopt(AdoptMode::Match));
        assert_eq!(decided(inherited(same()), &free, &unowned()), "TakeOver [] []");
        for policies in [free, adopting(&matching)] {
            assert_eq!(decided(inherited(different()), &policies, &unowned()), r#"TakeOver ["url"] []"#);
            let facts = DecisionFacts { other_owner: Some("n/other".into()), ..unowned() };
            let text = decided(inherited(different()), &policies, &facts);
            assert!(text.starts_with("Held: the hook at Kong x belongs to n/other"), "{text}");
        }
        let never_written = masked(unowned());
        let text = decided(inherited(same()), &adopting(&matching), &never_written);
        assert_eq!(text, r#"TakeOver [] ["token"]"#, "the earlier object matched it");
        assert_eq!(decided(inherited(same()), &free, &never_written), r#"TakeOver ["token"] ["token"]"#);
        let relay = DesiredObject { relay_url: Some("http://worker/".into()), ..desired() };
        for (found, facts) in
            [(inherited(same()), never_written.clone()), (same(), masked(owned_by_marker()))]
        {
            let action = decide(found, &relay, &adopting(&matching), &facts).unwrap();
            let (Action::TakeOver(comparison) | Action::Update(comparison)) = action else {
                panic!("{action:?}")
            };
            assert_eq!(comparison.fields, ["token"], "its secret derives from another uid");
        }
    }

    #[test]
    fn observe_only_reports_without_taking_ownership() {
        assert_eq!(decided(same(), &observing(), &unowned()), "Observe [] []");
        let text = decided(different(), &observing(), &unowned());
        assert_eq!(text, r#"managementPolicy: ObserveOnly ["url"] []"#);
        let overriding = adopt(AdoptMode::Override);
        let policies = Policies { adopt: Some(&overriding), ..observing() };
        let facts = DecisionFacts { other_owner: Some("n/other".into()), ..unowned() };
        assert_eq!(decided(same(), &policies, &facts), "Observe [] []");
        let text = decided(different(), &policies, &facts);
        assert_eq!(text, r#"managementPolicy: ObserveOnly ["url"] []"#);
    }

    #[test]
    fn observe_only_of_a_missing_object_is_an_error() {
        let text = decided(None, &observing(), &unowned());
        assert!(text.starts_with("NotThere: there is no hook at Kong with the name name"), "{text}");
        let facts = DecisionFacts { expected_id: Some("x"), ..unowned() };
        let text = decided(None, &observing(), &facts);
        assert!(
            text.starts_with("AdoptNotFound: adopt.id: there is no hook at Kong with the id x"),
            "{text}"
        );
        let mut unnamed = desired();
        unnamed.name = None;
        let error = decide(None, &unnamed, &observing(), &unowned()).unwrap_err();
        assert_eq!(error.reason(), "AdoptNotFound");
    }

    #[test]
    fn masked_secret_is_compared_by_its_hash() {
        let (key_ring, free) = (key_ring(), Policies::default());
        let masked_object = || found(json!({"id": "x", "url": "new", "token": "***"}));
        let (written, other, none) = (hashes("t"), hashes("other"), SecretHashes::new());
        let facts =
            |hashes| DecisionFacts { hashes: Some(hashes), key_ring: Some(&key_ring), ..masked(owned()) };
        assert_eq!(decided(masked_object(), &free, &facts(&written)), "Keep [] []");
        assert_eq!(decided(masked_object(), &free, &facts(&other)), r#"Update ["token"] []"#);
        assert_eq!(decided(masked_object(), &free, &facts(&none)), r#"Update ["token"] []"#, "a new secret");
        let shown = DecisionFacts { secrets_read_back: true, ..facts(&written) };
        assert_eq!(decided(masked_object(), &free, &shown), "Keep [] []", "the hash takes precedence");
        let without_ring = DecisionFacts { key_ring: None, ..facts(&written) };
        assert_eq!(decided(masked_object(), &free, &without_ring), r#"Update ["token"] ["token"]"#);
    }

    #[test]
    fn unverified_secret_is_written_unless_the_policy_exempts_it() {
        let never_written = masked(unowned());
        assert_eq!(decided(same(), &Policies::default(), &masked(owned())), r#"Update ["token"] ["token"]"#);
        let overriding = adopt(AdoptMode::Override);
        assert_eq!(decided(same(), &adopting(&overriding), &never_written), r#"Adopt ["token"] ["token"]"#);
        let matching = adopt(AdoptMode::Match);
        assert_eq!(decided(same(), &adopting(&matching), &never_written), r#"Adopt [] ["token"]"#);
        let matched_before = DecisionFacts { is_owned: true, ..never_written.clone() };
        let text = decided(same(), &adopting(&matching), &matched_before);
        assert_eq!(text, r#"Keep [] ["token"]"#, "matched, and the status does not say so yet");
        assert_eq!(decided(same(), &observing(), &never_written), r#"Observe [] ["token"]"#);
        let text = decided(different(), &observing(), &never_written);
        assert_eq!(text, r#"managementPolicy: ObserveOnly ["url"] ["token"]"#);
    }

    #[test]
    fn placeholder_secrets_are_unverified() {
        let written = hashes("t");
        let facts = DecisionFacts { secrets_are_placeholders: true, hashes: Some(&written), ..owned() };
        assert_eq!(decided(same(), &Policies::default(), &facts), r#"Update ["token"] ["token"]"#);
        assert_eq!(decided(same(), &observing(), &facts), r#"Observe [] ["token"]"#);
    }

    #[test]
    fn object_at_a_former_address_is_kept_deleted_or_orphaned() {
        let free = Policies::default();
        for (exists, deletion, policies, expected) in [
            (true, DeletionPolicy::Delete, &free, FormerAddress::SameVendor),
            (true, DeletionPolicy::Orphan, &observing(), FormerAddress::SameVendor),
            (false, DeletionPolicy::Delete, &free, FormerAddress::Delete),
            (false, DeletionPolicy::Orphan, &free, FormerAddress::Orphan),
            (false, DeletionPolicy::Delete, &observing(), FormerAddress::Orphan),
        ] {
            assert_eq!(decide_former_address(exists, deletion, policies), expected);
        }
    }
}
