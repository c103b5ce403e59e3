//! The findings of a validation.

use std::path::Path;

use serde::Serialize;

use crate::cluster::files::{DocumentSource, FileProblem, Position};
use crate::core::filter::FilterError;
use crate::core::hook::InvalidSpec;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, strum::IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// A problem of a manifest, with its place in the file.
#[derive(Debug, Serialize)]
pub struct Finding {
    pub severity: Severity,
    pub file: String,
    /// None: the file cannot be read at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// `Kind namespace/name`; empty for a file that cannot be read.
    pub object: String,
    pub field: String,
    pub reason: &'static str,
    pub message: String,
}

impl Finding {
    /// Returns `file:line:column`.
    pub fn location(&self) -> String {
        match (self.line, self.column) {
            (Some(line), Some(column)) => format!("{}:{line}:{column}", self.file),
            _ => self.file.clone(),
        }
    }

    /// Returns the finding at another place.
    pub fn at(self, position: Option<Position>) -> Self {
        Finding {
            line: position.map(|position| position.line),
            column: position.map(|position| position.column),
            ..self
        }
    }

    /// Returns the object, the field and the message in one line.
    pub fn text(&self) -> String {
        let parts = [&self.object, &self.field, &self.message];
        parts.into_iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join(": ")
    }
}

/// Collects the findings of one object.
pub struct FindingContext<'a> {
    pub file: &'a Path,
    /// None for an object that was read from no file.
    pub source: Option<&'a DocumentSource>,
    pub object: String,
    pub findings: &'a mut Vec<Finding>,
}

impl FindingContext<'_> {
    /// Creates an error without a message, at the place of the field.
    pub fn finding(&self, field: &str, reason: &'static str) -> Finding {
        let finding = Finding {
            severity: Severity::Error,
            file: self.file.display().to_string(),
            line: None,
            column: None,
            object: self.object.clone(),
            field: field.to_owned(),
            reason,
            message: String::new(),
        };
        finding.at(self.source.map(|source| source.position(field)))
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

    /// Adds a problem of the file.
    pub fn file_problem(&mut self, severity: Severity, reason: &'static str, problem: &FileProblem) {
        let finding = Finding { severity, message: problem.message.clone(), ..self.finding("", reason) };
        // A file that cannot be opened has no text, and so no position.
        let has_text = self.source.is_some_and(|source| !source.text().is_empty());
        let finding = match problem.position {
            None if has_text => finding,
            position => finding.at(position),
        };
        self.findings.push(finding);
    }

    /// Adds a finding within the text of a field, whose lines and columns are counted from 1.
    pub fn in_text(
        &mut self,
        severity: Severity,
        (field, line, column): (&str, usize, usize),
        reason: &'static str,
        message: &str,
    ) {
        let exact = self.source.and_then(|source| source.position_in(field, line, column));
        let finding = self.finding(field, reason);
        let finding = match exact {
            Some(position) => Finding { message: message.to_owned(), ..finding.at(Some(position)) },
            None => {
                let message = format!("line {line}, column {column} of the text: {message}");
                Finding { message, ..finding }
            }
        };
        self.findings.push(Finding { severity, ..finding });
    }

    /// Adds an invalid spec as an error with its field and position.
    pub fn invalid(&mut self, invalid: &InvalidSpec) {
        let reason: &'static str = invalid.into();
        match invalid {
            InvalidSpec::InvalidTemplate { field, at } | InvalidSpec::InvalidLambda { field, at } => {
                let field = format!("spec.{field}");
                self.in_text(Severity::Error, (&field, at.line, at.column), reason, &at.message);
            }
            InvalidSpec::InvalidFilter(FilterError::Invalid { line, column, problem }) => {
                self.in_text(Severity::Error, ("spec.filter", *line, *column), reason, problem);
            }
            InvalidSpec::InvalidFilter(error) => self.error("spec.filter", reason, error.to_string()),
            InvalidSpec::InvalidSpec { field, problem } => {
                self.error(&format!("spec.{field}"), reason, problem.clone());
            }
            InvalidSpec::RejectedBySchema(_) | InvalidSpec::Unreadable(_) => {
                self.error("spec", reason, invalid.to_string());
            }
        }
    }
}
