//! What a copy writes into its two stores so that no worker uses the wrong one: rows of the table `meta` with JSON.
//!
//! While one of them is there, `meta.min_reader` is `FENCE`, so that programs that do not know them refuse the store too.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::super::StoreError;
use crate::core::time::Millis;

/// The row of a source that was copied.
pub(in super::super) const SEALED: &str = "sealed";
/// The row of a target whose copy is not finished.
pub(in super::super) const UNFINISHED: &str = "unfinished_copy";
/// A format that no program will have.
pub(in super::super) const FENCE: i64 = 1_000_000_000;

/// Where the data of a store is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Seal {
    pub(in super::super) copy: Uuid,
    /// The other store, for people.
    pub(in super::super) to: String,
    pub(in super::super) at: i64,
    /// `meta.min_reader` before.
    pub(in super::super) min_reader: i64,
}

impl Seal {
    /// Returns the error of a program that must not use the store. `unseal`: the arguments of `hookstream store unseal`.
    pub(in super::super) fn refusal(&self, unseal: &str) -> StoreError {
        StoreError::Open(format!(
            "its data was copied to {} at {}: use that one. To go back without what happened there, stop its workers and run `hookstream store unseal {unseal}`",
            self.to,
            Millis(self.at).rfc3339()
        ))
    }
}

/// A copy to this store that is not finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct UnfinishedCopy {
    pub(in super::super) copy: Uuid,
    /// The other store, for people.
    pub(in super::super) from: String,
    /// `meta.min_reader` before.
    pub(in super::super) min_reader: i64,
}

impl UnfinishedCopy {
    /// Returns the error of a program that must not use the store. `unseal`: the arguments of `hookstream store unseal`.
    pub(in super::super) fn refusal(&self, unseal: &str) -> StoreError {
        StoreError::Open(format!(
            "a copy from {} to it has not finished: repeat the `hookstream store copy`, or empty this store with `hookstream store unseal {unseal}`",
            self.from
        ))
    }
}
