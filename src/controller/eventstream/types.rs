//! Whether Auth0 is known to emit what a stream subscribes to: a warning, for the list grows every few months.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::core::conditions::condition;
use crate::core::time::Millis;

const CONDITION: &str = "EventTypesKnown";

/// As of July 2026.
const KNOWN: [&str; 25] = [
    "connection.created",
    "connection.deleted",
    "connection.updated",
    "group.created",
    "group.deleted",
    "group.member.added",
    "group.member.deleted",
    "group.role.assigned",
    "group.role.deleted",
    "group.updated",
    "organization.connection.added",
    "organization.connection.removed",
    "organization.connection.updated",
    "organization.created",
    "organization.deleted",
    "organization.group.role.assigned",
    "organization.group.role.deleted",
    "organization.member.added",
    "organization.member.deleted",
    "organization.member.role.assigned",
    "organization.member.role.deleted",
    "organization.updated",
    "user.created",
    "user.deleted",
    "user.updated",
];

/// Puts the condition in where a type is not known; else there is none.
pub fn report(conditions: &mut Vec<Condition>, types: &[String], generation: Option<i64>) {
    let before = conditions.iter().position(|c| c.type_ == CONDITION).map(|at| conditions.remove(at));
    let unknown: Vec<&str> = types.iter().map(String::as_str).filter(|t| !KNOWN.contains(t)).collect();
    if unknown.is_empty() {
        return;
    }
    let message =
        format!("this version knows no such event of Auth0, which may never come: {}", unknown.join(", "));
    let told = ("Unknown", message.as_str());
    conditions.push(condition(before.as_ref(), CONDITION, "False", told, generation, Millis::now()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_comes_and_goes() {
        let mut all = Vec::new();
        let types = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        report(&mut all, &types(&["user.created", "usr.created"]), Some(1));
        assert_eq!((all.len(), all[0].status.as_str()), (1, "False"));
        assert!(all[0].message.ends_with(": usr.created"), "{}", all[0].message);
        report(&mut all, &types(&["user.created", "organization.member.added"]), Some(2));
        assert!(all.is_empty());
    }
}
