//! A list, page by page, to its end: one that has none is not followed for ever, and nothing is taken for missing that a
//! page only failed to show.

use std::collections::HashSet;

use serde_json::Value;

use super::answer::{id_of, unexpected};
use super::{AdminError, Listed};
use crate::net::Answer;

const MAX_PAGES: usize = 1000;
const MAX_OBJECTS: usize = 100_000;
/// All pages together, in bytes.
const MAX_BYTES: usize = 256 * 1024 * 1024;

/// The pages that were read so far.
#[derive(Default)]
pub struct Pages {
    listed: Listed,
    ids: HashSet<String>,
    pages: usize,
    bytes: usize,
}

impl Pages {
    pub fn len(&self) -> usize {
        self.listed.items.len()
    }

    /// Takes one page. What comes twice counts once: an object that was made or deleted meanwhile moves the others.
    pub fn take(&mut self, answer: &Answer, found: Vec<Value>) -> Result<(), AdminError> {
        self.listed.at = self.listed.at.or_else(|| super::answer::date(answer));
        self.pages += 1;
        self.bytes = self.bytes.saturating_add(answer.body.len());
        let (before, any) = (self.len(), !found.is_empty());
        for item in found {
            let id = id_of(&item)
                .ok_or_else(|| unexpected(answer, "an object in the list has no id that can be one"))?;
            if self.ids.insert(id.to_owned()) {
                self.listed.items.push(item);
            }
        }
        if any && self.len() == before {
            return Err(unexpected(answer, "the list repeats itself: a page shows nothing new"));
        }
        if self.pages > MAX_PAGES || self.len() > MAX_OBJECTS || self.bytes > MAX_BYTES {
            let message =
                format!("the list has no end: {} objects in {} pages were read", self.len(), self.pages);
            return Err(unexpected(answer, &message));
        }
        Ok(())
    }

    pub fn end(self) -> Listed {
        self.listed
    }
}
