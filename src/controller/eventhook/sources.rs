//! The condition `SourceKnown`: whether the gateway emits the hook's source and event. It is only a warning, because
//! the operator cannot know the sources of plugins.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::controller::state::SourceCheck;
use crate::core::conditions::build_condition;
use crate::core::time::Millis;

const CONDITION: &str = "SourceKnown";

/// Sets the condition. Removes it if the gateway does not list its sources; leaves it unchanged if the query failed.
pub fn set_condition(conditions: &mut Vec<Condition>, check: &SourceCheck, generation: Option<i64>) {
    let (status, reason, message) = match check {
        SourceCheck::Known => ("True", "Known", "the gateway emits these events"),
        SourceCheck::Unknown(message) => ("False", "Unknown", message.as_str()),
        SourceCheck::NotListed => return conditions.retain(|c| c.type_ != CONDITION),
        SourceCheck::Unavailable => return,
    };
    let before = conditions.iter().position(|c| c.type_ == CONDITION).map(|at| conditions.remove(at));
    let text = (reason, message);
    conditions.push(build_condition(before.as_ref(), CONDITION, status, text, generation, Millis::now()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn condition_follows_the_check() {
        let mut all = Vec::new();
        set_condition(&mut all, &SourceCheck::Unknown("no".into()), Some(1));
        set_condition(&mut all, &SourceCheck::Unknown("no".into()), Some(2));
        assert_eq!((all.len(), all[0].status.as_str(), all[0].observed_generation), (1, "False", Some(2)));
        set_condition(&mut all, &SourceCheck::Unavailable, Some(3));
        assert_eq!((all.len(), all[0].observed_generation), (1, Some(2)));
        set_condition(&mut all, &SourceCheck::Known, Some(2));
        assert_eq!((all.len(), all[0].status.as_str()), (1, "True"));
        set_condition(&mut all, &SourceCheck::NotListed, Some(3));
        assert!(all.is_empty());
    }
}
