//! The shares of the backlog: what hooks and namespaces have pending, and whether more fits.

use parking_lot::Mutex;
use tokio_postgres::types::Type;

use super::super::Shares;
use super::failure::DbError;
use super::session::Session;
use crate::core::fast_map::FastMap;
use crate::core::time::Millis;

/// How long a measurement of a namespace is used, in milliseconds. It reads the counts of all its hooks.
const USED_FOR: i64 = 1000;

/// The limits of this process, and its last measurements of namespaces.
#[derive(Debug, Default)]
pub(super) struct ShareLimits {
    shares: Mutex<Shares>,
    measured: Mutex<FastMap<i64, (i64, Millis)>>,
}

impl ShareLimits {
    pub(super) fn set(&self, shares: Shares) {
        *self.shares.lock() = shares;
    }

    /// Measures the backlog of these hooks and places.
    pub(super) async fn measure(
        &self,
        session: &Session,
        hooks: &[i64],
        places: &[i64],
    ) -> Result<Backlogs, DbError> {
        let shares = *self.shares.lock();
        let mut backlogs = Backlogs { shares, hooks: FastMap::default(), places: FastMap::default() };
        if shares.hook_bytes != u64::MAX && !hooks.is_empty() {
            let rows = session
                .query(
                    "SELECT hook, sum(bytes)::bigint FROM hookstream.backlog WHERE hook = ANY($1) GROUP BY hook",
                    &[(&hooks, Type::INT8_ARRAY)],
                )
                .await?;
            for row in &rows {
                backlogs.hooks.insert(row.try_get(0)?, row.try_get(1)?);
            }
        }
        if shares.namespace_bytes != u64::MAX {
            backlogs.places = self.measure_places(session, places).await?;
        }
        Ok(backlogs)
    }

    async fn measure_places(&self, session: &Session, places: &[i64]) -> Result<FastMap<i64, i64>, DbError> {
        let now = Millis::steady();
        let mut found = FastMap::default();
        let mut stale = Vec::new();
        {
            let measured = self.measured.lock();
            for place in places {
                match measured.get(place).filter(|(_, at)| now.0 - at.0 < USED_FOR) {
                    Some((bytes, _)) => drop(found.insert(*place, *bytes)),
                    None => stale.push(*place),
                }
            }
        }
        if stale.is_empty() {
            return Ok(found);
        }
        let rows = session
            .query(
                "SELECT h.place, sum(b.bytes)::bigint FROM hookstream.hooks h
                 JOIN hookstream.backlog b ON b.hook = h.id WHERE h.place = ANY($1) GROUP BY h.place",
                &[(&stale, Type::INT8_ARRAY)],
            )
            .await?;
        let mut measured = self.measured.lock();
        // Only present measurements are useful, so that deleted namespaces do not stay.
        measured.retain(|_, (_, at)| now.0 - at.0 < USED_FOR);
        for place in stale {
            measured.insert(place, (0, now));
            found.insert(place, 0);
        }
        for row in &rows {
            let (place, bytes): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
            measured.insert(place, (bytes, now));
            found.insert(place, bytes);
        }
        Ok(found)
    }

    /// Adds what a transaction has committed to the measurements.
    pub(super) fn add(&self, backlogs: &Backlogs) {
        let mut measured = self.measured.lock();
        for (place, bytes) in &backlogs.places {
            if let Some((known, _)) = measured.get_mut(place) {
                *known = (*known).max(*bytes);
            }
        }
    }
}

/// The backlogs that one transaction looks at, with what it adds itself.
#[derive(Debug)]
pub(super) struct Backlogs {
    shares: Shares,
    hooks: FastMap<i64, i64>,
    places: FastMap<i64, i64>,
}

impl Backlogs {
    /// True if a delivery does not fit into its hook's share. An empty backlog takes one event of any size.
    pub(super) fn is_hook_full(&self, hook: i64, size: i32) -> bool {
        is_full(self.hooks.get(&hook).copied().unwrap_or(0), i64::from(size), self.shares.hook_bytes)
    }

    /// True if this many bytes do not fit into the share of a namespace.
    pub(super) fn is_place_full(&self, place: i64, bytes: i64) -> bool {
        is_full(self.places.get(&place).copied().unwrap_or(0), bytes, self.shares.namespace_bytes)
    }

    pub(super) fn add(&mut self, hook: i64, place: i64, size: i32) {
        *self.hooks.entry(hook).or_default() += i64::from(size);
        *self.places.entry(place).or_default() += i64::from(size);
    }
}

fn is_full(pending: i64, bytes: i64, share: u64) -> bool {
    pending > 0 && u64::try_from(pending.saturating_add(bytes)).is_ok_and(|sum| sum > share)
}
