//! Reports on standard error what a manifest cannot express.

use std::process::ExitCode;

use serde_json::Value;

use crate::api;
use crate::cli::output::strip_control_chars;
use crate::cli::validate::find_errors;
use crate::core::schema::Schemas;

/// Counts the objects that an import could not turn into a manifest that adopts them.
pub struct ImportReport {
    schemas: Schemas,
    incomplete: usize,
}

impl Default for ImportReport {
    fn default() -> Self {
        ImportReport { schemas: Schemas::from_crds(&api::crds()), incomplete: 0 }
    }
}

impl ImportReport {
    /// Reports an object without a manifest. `name`: its kind and id.
    pub fn skip(&mut self, name: &str, why: &str) {
        self.incomplete += 1;
        eprintln!("hookstream: skipped {name}: {}", strip_control_chars(why));
    }

    /// Reports an object whose manifest the API server would reject. Returns true if it did.
    pub fn skip_invalid(&mut self, name: &str, manifest: &Value) -> bool {
        let errors = find_errors(&self.schemas, manifest);
        if !errors.is_empty() {
            let kind = manifest.get("kind").and_then(Value::as_str).unwrap_or_default();
            self.skip(name, &format!("{kind} cannot express it: {}", errors.join("; ")));
        }
        !errors.is_empty()
    }

    /// Reports an object whose manifest is printed but does not match it.
    pub fn differs(&mut self, name: &str, fields: &[String]) {
        self.incomplete += 1;
        eprintln!(
            "hookstream: {name} differs from its manifest in {}: with adopt.mode: Match it is not adopted; with \
             Override these fields change",
            strip_control_chars(&fields.join(", "))
        );
    }

    /// Returns 1 if an object was reported.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(u8::from(self.incomplete > 0))
    }
}
