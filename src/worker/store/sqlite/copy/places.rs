//! Places: the keys of namespaces as numbers, for the rows that refer to them.

use std::collections::{HashMap, HashSet};

use rusqlite::Connection;
use tokio::sync::mpsc::Sender;

use super::super::super::portable::{Batch, SinkClosed, StoredPlace};
use super::super::event_ids::hash_of_place;
use super::super::namespace_keys;
use super::super::runs::Key;
use super::read::ReadError;

/// A row of `namespaces`.
struct Namespace {
    uid: Option<String>,
    place: String,
}

/// The keys that were found so far.
pub(super) struct PlaceNumbers<'s> {
    sender: &'s Sender<Batch>,
    namespaces: HashMap<String, Namespace>,
    ended: HashSet<String>,
    found: HashMap<String, (i64, Key)>,
}

impl<'s> PlaceNumbers<'s> {
    /// Sends the places that tables of their own list.
    pub(super) fn read(conn: &Connection, sender: &'s Sender<Batch>) -> Result<Self, ReadError> {
        let mut namespaces = HashMap::new();
        let mut statement = conn.prepare("SELECT name, uid, place FROM namespaces")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            namespaces.insert(row.get(0)?, Namespace { uid: row.get(1)?, place: row.get(2)? });
        }
        let keys = |sql: &str| -> rusqlite::Result<Vec<String>> {
            conn.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
        };
        let ended: HashSet<String> = keys("SELECT place FROM ended")?.into_iter().collect();
        let mut listed = keys("SELECT place FROM namespaces UNION SELECT place FROM ended")?;
        listed.extend(keys("SELECT DISTINCT namespace FROM hooks INDEXED BY hooks_name")?);
        let mut places = PlaceNumbers { sender, namespaces, ended, found: HashMap::new() };
        for key in listed {
            places.number(&key)?;
        }
        Ok(places)
    }

    /// Returns the number of a key, and the hash that idempotency keys contain. Sends the place of a new one.
    pub(super) fn number(&mut self, key: &str) -> Result<(i64, Key), ReadError> {
        if let Some(found) = self.found.get(key) {
            return Ok(*found);
        }
        let number = i64::try_from(self.found.len()).unwrap_or(i64::MAX).saturating_add(1);
        let found = (number, hash_of_place(key));
        self.found.insert(key.to_owned(), found);
        self.sender
            .blocking_send(Batch::Places(vec![self.place(number, key)]))
            .map_err(|_| ReadError::Closed(SinkClosed))?;
        Ok(found)
    }

    fn place(&self, number: i64, key: &str) -> StoredPlace {
        let name = namespace_keys::name(key);
        let namespace = self.namespaces.get(name);
        let present = namespace.map_or(name, |namespace| &namespace.place);
        let is_present = present == key && !self.ended.contains(key);
        let namespace = namespace.filter(|_| is_present);
        StoredPlace {
            number,
            name: name.to_owned(),
            uid: namespace.and_then(|namespace| namespace.uid.clone()),
            is_present,
            is_deleted: namespace.is_some_and(|namespace| namespace.uid.is_none()),
        }
    }
}
