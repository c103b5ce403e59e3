//! Namespaces that are deleted and created again.

use futures::future::join_all;

use super::super::failure::DbError;
use super::super::replays;
use super::*;
use crate::worker::store::{DeliveryFilter, StoreError};

#[tokio::test]
async fn a_namespace_that_is_created_again_has_a_new_place() {
    let database = Database::new().await;
    let session = database.session().await;
    assert_eq!(places::find(&session, "shop").await.unwrap(), None);
    assert!(!places::set_uid(&session, "shop", None).await.unwrap());
    assert!(places::names(&session).await.unwrap().is_empty(), "an unknown namespace leaves no row");
    let first = place(&session, "shop").await;
    assert!(!places::set_uid(&session, "shop", Some("1")).await.unwrap());
    assert!(!places::set_uid(&session, "shop", Some("1")).await.unwrap());
    assert_eq!(place(&session, "shop").await, first);
    assert!(places::set_uid(&session, "shop", None).await.unwrap());
    let second = place(&session, "shop").await;
    assert!(!places::set_uid(&session, "shop", Some("2")).await.unwrap(), "the place has ended already");
    assert_eq!(place(&session, "shop").await, second);
    assert!(places::set_uid(&session, "shop", Some("3")).await.unwrap());
    assert!(first != second && second != place(&session, "shop").await);
    assert_eq!(database.count("places WHERE ended AND ended_at IS NOT NULL").await, 2);
    assert_eq!(places::names(&session).await.unwrap(), ["shop"]);
}

/// Of many workers that see the deletion, one ends the place.
#[tokio::test]
async fn workers_insert_and_end_a_namespace_once() {
    let database = Database::new().await;
    let sessions = join_all((0..4).map(|_| database.session())).await;
    let names = ["c", "a", "b"];
    let found = join_all(sessions.iter().map(|session| places::find_or_insert_many(session, &names))).await;
    let found: Vec<_> = found.into_iter().map(|places| places.unwrap()).collect();
    assert!(found.iter().all(|places| *places == found[0] && places.len() == 3));
    assert_eq!(database.count("places").await, 3, "no place without a namespace");
    assert!(!places::set_uid(&sessions[0], "a", Some("1")).await.unwrap());
    let ended = join_all(sessions.iter().map(|session| places::set_uid(session, "a", Some("2")))).await;
    assert_eq!(ended.into_iter().filter(|ended| *ended.as_ref().unwrap()).count(), 1);
    assert_eq!(database.count("places").await, 4);
}

/// A replay of all namespaces would send deliveries of namespaces in which the user has no rights.
#[tokio::test]
async fn a_replay_of_all_namespaces_is_refused() {
    let database = Database::new().await;
    let session = database.session().await;
    let started = replays::start(&session, &DeliveryFilter::default(), 1, T0).await;
    assert!(matches!(started, Err(DbError::Store(StoreError::Refused(_)))), "{started:?}");
    assert!(places::names(&session).await.unwrap().is_empty());
}
