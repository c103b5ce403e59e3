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
use super::{Kubernetes, Options, Pulse, crds};
use crate::api::USE_LABEL;
use crate::cluster::{Change, Feed, Guarded, Key, Subscribers, View};
use crate::core::time::Millis;
use crate::ops::Pending;

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
    pulse: Arc<Pulse>,
    installed: Pending,
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
    let config =
        Config::default().timeout(u32::try_from(options.watch_timeout.as_secs()).unwrap_or(u32::MAX));
    let run = async move {
        // A watch of what is not installed fails and waits, longer and longer, also after it was installed.
        crds::wait(&client, installed).await;
        let watches = Watches { client, namespaces, config, pulse };
        let secret_config = if labelled {
            watches.config.clone().labels(&format!("{USE_LABEL}=true"))
        } else {
            watches.config.clone()
        };
        // Boxed: together they outgrow a thread's stack where one frame hands them to the next.
        tokio::join!(
            Box::pin(watches.follow(hook_feed)),
            Box::pin(watches.follow(connection_feed)),
            Box::pin(watches.follow(stream_feed)),
            Box::pin(watches.follow(auth0_hook_feed)),
            Box::pin(watches.follow_data(secret_config, secrets, &subscribers, Change::Secret)),
            Box::pin(watches.follow_data(
                watches.config.clone(),
                config_maps,
                &subscribers,
                Change::ConfigMap
            )),
        );
    };
    let view = View::new(hooks, connections, streams, auth0_hooks);
    let (of_secrets, of_config_maps) = (view.clone(), view.clone());
    cluster.secrets.keep(move || of_secrets.referenced("Secret"));
    cluster.config_maps.keep(move || of_config_maps.referenced("ConfigMap"));
    Watching { view, run }
}

/// What all watches have in common.
struct Watches {
    client: Client,
    namespaces: Vec<String>,
    config: Config,
    pulse: Arc<Pulse>,
}

impl Watches {
    fn apis<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Vec<Api<K>> {
        let apis: Vec<Api<K>> = if self.namespaces.is_empty() {
            vec![Api::all(self.client.clone())]
        } else {
            self.namespaces.iter().map(|n| Api::namespaced(self.client.clone(), n)).collect()
        };
        for api in &apis {
            self.pulse.expect(api.resource_url().to_owned(), Millis::steady());
        }
        apis
    }

    async fn follow<K>(&self, mut feed: Feed<K>)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let streams = self.apis::<Guarded<K>>().into_iter().enumerate().map(|(scope, api)| {
            let events = watcher(api, self.config.clone()).default_backoff();
            events.map(move |event| (scope, event)).boxed()
        });
        let mut events = select_all(streams);
        while let Some((scope, event)) = events.next().await {
            match event {
                Ok(event) => feed.apply(scope, event).await,
                Err(error) => {
                    tracing::warn!(kind = %K::kind(&()), %error, "the watch failed and starts again");
                }
            }
        }
    }

    async fn follow_data<K: Holder>(
        &self,
        config: Config,
        cache: Arc<Cache<K>>,
        subscribers: &Subscribers,
        change: fn(Key) -> Change,
    ) {
        let streams = self
            .apis::<PartialObjectMeta<K>>()
            .into_iter()
            .map(|api| watcher(api, config.clone()).default_backoff().boxed());
        let mut events = pin!(select_all(streams));
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Apply(object) | Event::Delete(object) | Event::InitApply(object)) => {
                    let key = Key::of(&object);
                    // A relist brings everything in the cluster: what nobody uses concerns nobody. One that was missing
                    // when it was asked for is among those that are used.
                    if cache.changed(&key) {
                        subscribers.tell(&change(key)).await;
                    }
                }
                // What was deleted while nobody watched is not in the list that follows.
                Ok(Event::Init) => cache.all_changed(),
                Ok(Event::InitDone) => {}
                Err(error) => {
                    tracing::warn!(kind = %K::kind(&()), %error, "the watch failed and starts again");
                }
            }
        }
    }
}
