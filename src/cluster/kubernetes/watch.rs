//! The watches: our kinds whole, Secrets and ConfigMaps by their metadata only.

use std::fmt::Debug;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use futures::stream::{StreamExt, select_all};
use k8s_openapi::NamespaceResourceScope;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use super::cache::{Cache, Holder};
use super::{Kubernetes, Options};
use crate::api::USE_LABEL;
use crate::cluster::{Change, Feed, Guarded, Key, Subscribers, View};

/// What is watched, and the work of watching, to be spawned.
pub struct Watching<F> {
    pub view: View,
    pub run: F,
}

/// Watches everything that both roles need.
pub fn watch(
    cluster: &Kubernetes,
    options: &Options,
    subscribers: Subscribers,
) -> Watching<impl Future<Output = ()> + Send + use<>> {
    let subscribers = Arc::new(subscribers);
    let scopes = options.namespaces.len().max(1);
    let (hook_feed, hooks) = Feed::new(scopes, subscribers.clone(), Change::EventHook);
    let (connection_feed, connections) = Feed::new(scopes, subscribers.clone(), Change::Connection);
    let (stream_feed, streams) = Feed::new(scopes, subscribers.clone(), Change::EventStream);
    let (auth0_hook_feed, auth0_hooks) = Feed::new(scopes, subscribers.clone(), Change::Hook);
    let (client, namespaces) = (cluster.client.clone(), options.namespaces.clone());
    let (secrets, config_maps) = (cluster.secrets.clone(), cluster.config_maps.clone());
    let labelled = options.require_secret_label;
    let run = async move {
        tokio::join!(
            follow(client.clone(), &namespaces, hook_feed),
            follow(client.clone(), &namespaces, connection_feed),
            follow(client.clone(), &namespaces, stream_feed),
            follow(client.clone(), &namespaces, auth0_hook_feed),
            follow_data(client.clone(), &namespaces, labelled, secrets, &subscribers, Change::Secret),
            follow_data(client, &namespaces, false, config_maps, &subscribers, Change::ConfigMap),
        );
    };
    Watching { view: View::new(hooks, connections, streams, auth0_hooks), run }
}

fn apis<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(
    client: &Client,
    namespaces: &[String],
) -> Vec<Api<K>> {
    if namespaces.is_empty() {
        return vec![Api::all(client.clone())];
    }
    namespaces.iter().map(|namespace| Api::namespaced(client.clone(), namespace)).collect()
}

async fn follow<K>(client: Client, namespaces: &[String], mut feed: Feed<K>)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let streams = apis::<Guarded<K>>(&client, namespaces).into_iter().enumerate().map(|(scope, api)| {
        watcher(api, Config::default()).default_backoff().map(move |event| (scope, event)).boxed()
    });
    let mut events = select_all(streams);
    while let Some((scope, event)) = events.next().await {
        match event {
            Ok(event) => feed.apply(scope, event).await,
            Err(error) => tracing::warn!(kind = %K::kind(&()), %error, "the watch failed and starts again"),
        }
    }
}

async fn follow_data<K: Holder>(
    client: Client,
    namespaces: &[String],
    labelled: bool,
    cache: Arc<Cache<K>>,
    subscribers: &Subscribers,
    change: fn(Key) -> Change,
) {
    let config =
        || if labelled { Config::default().labels(&format!("{USE_LABEL}=true")) } else { Config::default() };
    let streams = apis::<PartialObjectMeta<K>>(&client, namespaces)
        .into_iter()
        .map(|api| watcher(api, config()).default_backoff().boxed());
    let mut events = pin!(select_all(streams));
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(object) | Event::Delete(object) | Event::InitApply(object)) => {
                let key = Key::of(&object);
                // A relist brings everything in the cluster: what nobody uses concerns nobody. One that was missing when
                // it was asked for is among those that are used.
                if cache.changed(&key) {
                    subscribers.tell(&change(key)).await;
                }
            }
            // What was deleted while nobody watched is not in the list that follows.
            Ok(Event::Init) => cache.all_changed(),
            Ok(Event::InitDone) => {}
            Err(error) => tracing::warn!(kind = %K::kind(&()), %error, "the watch failed and starts again"),
        }
    }
}
