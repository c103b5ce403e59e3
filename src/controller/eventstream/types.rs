//! The condition `EventTypesKnown`: whether Auth0 emits the types that a stream subscribes to. It is only a warning,
//! because Auth0 adds types every few months.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::core::auth0_events::KNOWN_TYPES;
use crate::core::conditions::build_condition;
use crate::core::time::Millis;

const CONDITION: &str = "EventTypesKnown";

/// Sets the condition if a type is unknown, and removes it otherwise.
pub fn set_condition(conditions: &mut Vec<Condition>, types: &[String], generation: Option<i64>) {
    let before = conditions.iter().position(|c| c.type_ == CONDITION).map(|at| conditions.remove(at));
    let unknown: Vec<&str> = types.iter().map(String::as_str).filter(|t| !KNOWN_TYPES.contains(t)).collect();
    if unknown.is_empty() {
        return;
    }
    let message = format!(
        "this version of the operator does not know these event types, and Auth0 may never send them: {}",
        unknown.join(", ")
    );
    let text = ("Unknown", message.as_str());
    conditions.push(build_condition(before.as_ref(), CONDITION, "False", text, generation, Millis::now()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn condition_exists_while_a_type_is_unknown() {
        let mut all = Vec::new();
        let types = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        set_condition(&mut all, &types(&["user.created", "usr.created"]), Some(1));
        assert_eq!((all.len(), all[0].status.as_str()), (1, "False"));
        assert!(all[0].message.ends_with(": usr.created"), "{}", all[0].message);
        set_condition(&mut all, &types(&["user.created", "organization.member.added"]), Some(2));
        assert!(all.is_empty());
    }
}
