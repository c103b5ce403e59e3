//! Copies a store to another engine: between the embedded store and PostgreSQL, offline.
//!
//! The order of its steps keeps two installations from delivering the same events, wherever it is interrupted:
//! 1. The source is locked and checked. It can be used again while step 3 has not begun.
//! 2. The target is marked as unfinished, so that no worker uses it, and everything is written, counted and checked.
//! 3. The source is sealed: no worker uses it any more.
//! 4. The target becomes visible at once.
//!
//! After an interruption between 3 and 4, neither can be used, and repeating the copy finishes it: both have its id.

mod error;
mod report;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use futures::join;
use tokio::sync::mpsc;
use uuid::Uuid;

pub use self::error::CopyError;
pub use self::report::{CopiedRows, CopyReport};
pub use super::portable::CopyProgress;
use super::portable::{CopySource, CopyTarget, Seal, UnfinishedCopy};
use super::postgres::connect::PostgresOptions;
use super::postgres::copy::{PostgresSource, PostgresTarget};
use super::sqlite::copy::{SqliteSource, SqliteTarget};
use super::{StoreError, postgres, sqlite};
use crate::core::time::Millis;

/// Batches between the two sides.
const BATCHES: usize = 2;

/// A side of a copy.
#[derive(Clone, Debug)]
pub enum Location {
    /// The data folder of an embedded store.
    Folder(PathBuf),
    Database(PostgresOptions),
}

/// Copies a store to an empty one of the other engine, and seals the source. `now`: the wall clock; idempotency keys that have
/// expired by then are left out.
///
/// With `is_dry_run`, checks both sides, counts, and changes nothing.
pub async fn copy(
    from: &Location,
    to: &Location,
    now: Millis,
    is_dry_run: bool,
    progress: &CopyProgress,
) -> Result<CopyReport, CopyError> {
    match (from, to) {
        (Location::Folder(from), Location::Database(to)) => {
            let (from, at) = (from.clone(), now.0);
            let source = tokio::task::spawn_blocking(move || SqliteSource::open(&from, at));
            let source = source.await.map_err(|_| CopyError::Stopped)?.map_err(CopyError::Source)?;
            let target = PostgresTarget::open(to, is_dry_run).await.map_err(CopyError::Target)?;
            run(source, target, now, is_dry_run, progress).await
        }
        (Location::Database(from), Location::Folder(to)) => {
            let target = SqliteTarget::open(to, now.0).map_err(CopyError::Target)?;
            let source = PostgresSource::open(from, now.0).await.map_err(CopyError::Source)?;
            run(source, target, now, is_dry_run, progress).await
        }
        _ => Err(CopyError::SameEngine),
    }
}

/// Makes a store usable again after a copy from it, or removes an unfinished copy to it. Returns what it did, for people.
pub async fn unseal(location: &Location) -> Result<String, StoreError> {
    match location {
        Location::Folder(dir) => sqlite::copy::unseal(dir),
        Location::Database(options) => postgres::copy::unseal(options).await,
    }
}

async fn run(
    mut source: impl CopySource,
    mut target: impl CopyTarget,
    now: Millis,
    is_dry_run: bool,
    progress: &CopyProgress,
) -> Result<CopyReport, CopyError> {
    let (info, to) = (source.info().clone(), target.location().to_owned());
    let unfinished = target.unfinished().map(|unfinished| unfinished.copy);
    if let Some(seal) = &info.seal
        && unfinished != Some(seal.copy)
    {
        return Err(CopyError::Source(seal.refusal(&info.unseal)));
    }
    if let (Some(found), Some(own)) = (target.installation(), &info.installation)
        && found != own
    {
        return Err(CopyError::Foreign { found: found.to_owned(), own: own.clone() });
    }
    progress.set_total(info.counts.values().sum());
    if is_dry_run {
        return Ok(CopyReport::planned(info, to));
    }
    let copy = info.seal.as_ref().map_or_else(Uuid::now_v7, |seal| seal.copy);
    let report = match transfer(&mut source, &mut target, copy, progress).await {
        Ok(report) => report,
        Err(error) => {
            // Without the mark, a sealed source could not be copied again.
            if info.seal.is_none()
                && let Err(error) = target.abandon().await
            {
                tracing::warn!(%error, "target stays marked as unfinished");
            }
            return Err(error);
        }
    };
    // From here on, both stores are refused until the target is finished. The mark of the target stays after a failure.
    let seal = Seal { copy, to, at: now.0, min_reader: 0 };
    source.seal(&seal).await.map_err(CopyError::Unfinished)?;
    target.finish().await.map_err(CopyError::Unfinished)?;
    Ok(report)
}

/// Writes everything to the target, and compares the counts of both sides.
async fn transfer(
    source: &mut impl CopySource,
    target: &mut impl CopyTarget,
    copy: Uuid,
    progress: &CopyProgress,
) -> Result<CopyReport, CopyError> {
    let info = source.info().clone();
    let mark = UnfinishedCopy { copy, from: info.location.clone(), min_reader: 0 };
    target.begin(&mark).await.map_err(CopyError::Target)?;
    let (sender, receiver) = mpsc::channel(BATCHES);
    let (read, written) = join!(source.read(sender), target.write(&info, receiver, progress));
    // An error of the target ends the reading without an error, and one of the source ends the writing.
    let keys = read.map_err(CopyError::Source)?;
    let written = written.map_err(CopyError::Target)?;
    let report = CopyReport::compare(info, target.location().to_owned(), keys, &written);
    match report.difference() {
        Some(difference) => Err(CopyError::Differs(difference)),
        None => Ok(report),
    }
}
