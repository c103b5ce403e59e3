//! Checks the source and event of hooks at Kong against the catalogue.

use serde_json::Value;

use super::finding::FindingContext;
use crate::core::catalogue::SOURCES;
use crate::core::suggest::did_you_mean;

/// Warns of a source or event that Kong does not document. Custom plugins emit their own, so it is no error.
pub fn check_catalogue(hook: &Value, context: &mut FindingContext<'_>) {
    let text = |pointer: &str| hook.pointer(pointer).and_then(Value::as_str);
    // Without a Connection, programs publish the events.
    let (Some(_), Some(source)) = (hook.pointer("/spec/connectionRef"), text("/spec/source")) else { return };
    let Some(known) = SOURCES.iter().find(|known| known.name == source) else {
        let suggestion = did_you_mean(source, SOURCES.iter().map(|known| known.name));
        let message = format!(
            "Kong documents no source {source:.128}{suggestion} (`hookstream sources` lists them; a custom plugin may emit it)"
        );
        return context.warning("spec.source", "UnknownSource", message);
    };
    let Some(event) = text("/spec/event") else { return };
    if !known.events.iter().any(|known| known.name == event) {
        let suggestion = did_you_mean(event, known.events.iter().map(|known| known.name));
        let message = format!(
            "the source {source} has no event {event:.128}{suggestion} (`hookstream sources {source}` lists them)"
        );
        context.warning("spec.event", "UnknownEvent", message);
    }
}
