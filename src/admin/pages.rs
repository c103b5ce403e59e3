//! Collects the pages of a list. Bounds endless lists, and fails instead of returning a partial list: the reconciler
//! would take the objects of a missing page for deleted.

use std::collections::HashSet;

use serde_json::Value;

use super::client::Listing;
use super::error::AdminError;
use super::response::{object_id, unexpected_response, vendor_date};
use crate::net::HttpResponse;

const MAX_PAGES: usize = 1000;
const MAX_OBJECTS: usize = 100_000;
/// Maximum bytes of all pages together.
const MAX_BYTES: usize = 256 * 1024 * 1024;

/// The objects of the pages read so far.
#[derive(Default)]
pub struct PageCollector {
    listing: Listing,
    ids: HashSet<String>,
    pages: usize,
    bytes: usize,
}

impl PageCollector {
    pub fn len(&self) -> usize {
        self.listing.items.len()
    }

    /// Adds one page. Skips objects that an earlier page contained, because concurrent creates and deletes shift the pages.
    ///
    /// Errors: an object without a valid id, a page that only repeats earlier objects, or an exceeded bound.
    pub fn add_page(&mut self, response: &HttpResponse, found: Vec<Value>) -> Result<(), AdminError> {
        self.listing.vendor_time = self.listing.vendor_time.or_else(|| vendor_date(response));
        self.pages += 1;
        self.bytes = self.bytes.saturating_add(response.body.len());
        let (before, is_empty) = (self.len(), found.is_empty());
        for item in found {
            let id = object_id(&item)
                .ok_or_else(|| unexpected_response(response, "an object in the list has no valid id"))?;
            if self.ids.insert(id.to_owned()) {
                self.listing.items.push(item);
            }
        }
        if !is_empty && self.len() == before {
            return Err(unexpected_response(
                response,
                "the list repeats itself: a page contains only earlier objects",
            ));
        }
        if self.pages > MAX_PAGES || self.len() > MAX_OBJECTS || self.bytes > MAX_BYTES {
            let message = format!("the list has no end: {} objects in {} pages", self.len(), self.pages);
            return Err(unexpected_response(response, &message));
        }
        Ok(())
    }

    /// Returns the complete list.
    pub fn finish(self) -> Listing {
        self.listing
    }
}
