//! The schemas of the statuses, as the CRDs declare them.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

use super::crds;

/// The schemas of the statuses by kind.
static SCHEMAS: LazyLock<HashMap<String, Value>> = LazyLock::new(|| {
    let schemas = crds().into_iter().filter_map(|crd| {
        let kind = crd.pointer("/spec/names/kind")?.as_str()?.to_owned();
        let status = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/status")?;
        Some((kind, status.clone()))
    });
    schemas.collect()
});

/// Returns the schema of a kind's status.
pub fn status_schema(kind: &str) -> Option<&'static Value> {
    SCHEMAS.get(kind)
}
