//! The findings of a validation.

use std::path::Path;

use serde::Serialize;

use crate::core::filter::FilterError;
use crate::core::hook::InvalidSpec;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// A problem of a manifest. Line and column are relative to the text of the field.
#[derive(Debug, Serialize)]
pub struct Finding {
    pub severity: Severity,
    pub file: String,
    /// `Kind namespace/name`; empty for a file that cannot be read.
    pub object: String,
    pub field: String,
    pub reason: &'static str,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
}

/// Collects the findings of one object.
pub struct FindingContext<'a> {
    pub file: &'a Path,
    pub object: String,
    pub findings: &'a mut Vec<Finding>,
}

impl FindingContext<'_> {
    /// Creates an error without a message.
    pub fn finding(&self, field: &str, reason: &'static str) -> Finding {
        Finding {
            severity: Severity::Error,
            file: self.file.display().to_string(),
            object: self.object.clone(),
            field: field.to_owned(),
            reason,
            message: String::new(),
            line: None,
            column: None,
        }
    }

    /// Adds an error.
    pub fn error(&mut self, field: &str, reason: &'static str, message: String) {
        let finding = Finding { message, ..self.finding(field, reason) };
        self.findings.push(finding);
    }

    /// Adds a warning.
    pub fn warning(&mut self, field: &str, reason: &'static str, message: String) {
        let finding = Finding { severity: Severity::Warning, message, ..self.finding(field, reason) };
        self.findings.push(finding);
    }

    /// Adds an invalid spec as an error with its field and position.
    pub fn invalid(&mut self, invalid: &InvalidSpec) {
        let reason: &'static str = invalid.into();
        let spec = |field: &str| format!("spec.{field}");
        let (field, position) = match invalid {
            InvalidSpec::InvalidTemplate { field, at } | InvalidSpec::InvalidLambda { field, at } => {
                (spec(field), Some((at.line, at.column)))
            }
            InvalidSpec::InvalidFilter(FilterError::Invalid { line, column, .. }) => {
                (spec("filter"), Some((*line, *column)))
            }
            InvalidSpec::InvalidFilter(_) => (spec("filter"), None),
            InvalidSpec::InvalidSpec { field, .. } => (spec(field), None),
            InvalidSpec::RejectedBySchema(_) | InvalidSpec::Unreadable(_) => ("spec".to_owned(), None),
        };
        let message = invalid.to_string();
        // Strip the field from the start of the message, because the field has its own column.
        let without_field =
            field.strip_prefix("spec.").and_then(|field| message.strip_prefix(field)?.strip_prefix(": "));
        let finding = Finding {
            message: without_field.unwrap_or(&message).to_owned(),
            line: position.map(|(line, _)| line),
            column: position.map(|(_, column)| column),
            ..self.finding(&field, reason)
        };
        self.findings.push(finding);
    }
}
