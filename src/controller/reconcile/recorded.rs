//! Finds the external object of an interrupted create by its create record.

use serde_json::Value;

use super::kind::Synced;
use crate::admin::{AdminError, ExternalClient, ListElement, ListFilter};
use crate::controller::context::Context;
use crate::controller::state::{CreateRecord, PENDING_CREATE, is_hash_of};
use crate::core::keys::KeyRing;

/// An external object that a create record may describe.
pub struct Candidate {
    pub id: String,
    pub item: Value,
    /// True if its content and its time match the record. It may still belong to another custom resource.
    pub is_match: bool,
}

/// Returns the object with the record's name, whether it matches or not. For a record without a name, returns every object
/// that matches. The list call begins after this call.
pub async fn find_candidates<K: Synced>(
    context: &Context,
    client: &K::Client,
    uid: &str,
    record: &CreateRecord,
    key_ring: &KeyRing,
) -> Result<Vec<Candidate>, AdminError> {
    let is_match = |item: &Value| {
        let readable = K::Client::comparable_fields(item);
        record.may_precede(K::Client::created_at(item))
            && is_hash_of(key_ring, &record.hash, uid, PENDING_CREATE, &readable)
    };
    if let Some(name) = &record.name {
        let Some(id) = context.snapshots.find_name(client, Some(name), context.max_name_list_age()).await?.id
        else {
            return Ok(Vec::new());
        };
        let item = client.observe(&id).await?;
        return Ok(item.map(|item| Candidate { is_match: is_match(&item), id, item }).into_iter().collect());
    }
    // Not the shared snapshot: it keeps only objects to which a custom resource refers already.
    let matches =
        |element: &ListElement<'_>| element.parse().is_some_and(|item| is_match(&K::Client::normalize(item)));
    let listing = client.list(ListFilter::new(&matches)).await?;
    let candidates = listing.items.iter().map(|found| {
        let item = K::Client::normalize(found.parse()?);
        Ok(Candidate { id: found.id.to_string(), item, is_match: true })
    });
    candidates.collect()
}
