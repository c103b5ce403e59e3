//! The result of a copy.

use serde::Serialize;
use strum::VariantArray;

use super::super::portable::{CopiedKind, Counts, SourceInfo, Written};

/// What was copied.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CopyReport {
    /// Both sides, without secrets.
    pub from: String,
    pub to: String,
    /// The rows of each kind, counted on both sides.
    pub rows: Vec<CopiedRows>,
}

/// The rows of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CopiedRows {
    pub kind: CopiedKind,
    pub source: u64,
    /// None: nothing was copied yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy: Option<u64>,
}

impl CopyReport {
    /// Reports what would be copied. Idempotency keys are counted only while they are read.
    pub(super) fn planned(source: SourceInfo, to: String) -> Self {
        let rows = |(kind, source): (CopiedKind, u64)| CopiedRows { kind, source, copy: None };
        CopyReport { from: source.location, to, rows: source.counts.into_iter().map(rows).collect() }
    }

    /// Compares both sides. `keys`: the idempotency keys that were read.
    pub(super) fn compare(source: SourceInfo, to: String, keys: u64, written: &Written) -> Self {
        let mut counts = source.counts;
        counts.insert(CopiedKind::Keys, keys.saturating_sub(written.replaced_keys));
        let count = |counts: &Counts, kind| counts.get(&kind).copied().unwrap_or(0);
        let rows = CopiedKind::VARIANTS.iter().map(|kind| CopiedRows {
            kind: *kind,
            source: count(&counts, *kind),
            copy: Some(count(&written.counts, *kind)),
        });
        CopyReport { from: source.location, to, rows: rows.collect() }
    }

    /// Returns the kinds whose counts differ. None: they are equal.
    pub(super) fn difference(&self) -> Option<String> {
        let differs = |rows: &&CopiedRows| rows.copy.is_some_and(|copy| copy != rows.source);
        let describe = |rows: &CopiedRows| {
            let kind: &str = rows.kind.into();
            format!("{} {kind} became {}", rows.source, rows.copy.unwrap_or(0))
        };
        let differences: Vec<String> = self.rows.iter().filter(differs).map(describe).collect();
        (!differences.is_empty()).then(|| differences.join(", "))
    }
}
