//! Decides whether an object is missing after a 404 that does not prove it.
//!
//! A proxy, a wrong port and an API without this path answer 404 too. Deleting or recreating on their word would orphan
//! or duplicate the object. A complete list of the same API is proof.

use serde_json::Value;

use super::client::ExternalClient;
use super::error::AdminError;
use super::listing::{ListElement, ListFilter};

/// Lists all objects and returns the one with this id; None if the list does not contain it.
///
/// Errors: the error of the list call, which also shows what answers at the address.
pub async fn find_listed<C: ExternalClient>(client: &C, id: &str) -> Result<Option<Value>, AdminError> {
    // Vendors may return a UUID in another letter case.
    let has_id = |element: &ListElement<'_>| element.id.eq_ignore_ascii_case(id);
    let listing = Box::pin(client.list(ListFilter::new(&has_id))).await?;
    listing.items.first().map(|found| found.parse().map(C::normalize)).transpose()
}

/// Returns the result of a delete that failed with `error`.
pub async fn resolve_delete<C: ExternalClient>(
    client: &C,
    id: &str,
    error: AdminError,
) -> Result<(), AdminError> {
    if error.is_gone() {
        return Ok(());
    }
    if !error.is_ambiguous_absence() {
        return Err(error);
    }
    match find_listed(client, id).await? {
        None => Ok(()),
        Some(_) => Err(error),
    }
}

/// Returns the result of a read that failed with `error`: None if the object does not exist.
pub async fn resolve_read<C: ExternalClient>(
    client: &C,
    id: &str,
    error: AdminError,
) -> Result<Option<Value>, AdminError> {
    if error.is_gone() {
        return Ok(None);
    }
    if !error.is_ambiguous_absence() {
        return Err(error);
    }
    match find_listed(client, id).await? {
        None => Ok(None),
        // The list shows the object, so the 404 came from another program.
        Some(item) if C::LIST_IS_COMPLETE => Ok(Some(item)),
        Some(_) => Err(error),
    }
}
