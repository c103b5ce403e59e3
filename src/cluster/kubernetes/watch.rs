//! The watches: complete objects of our kinds, and only the metadata of Secrets and ConfigMaps.

use std::future::Future;
use std::sync::Arc;

use futures::stream::{Stream, StreamExt, select_all};
use k8s_openapi::NamespaceResourceScope;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};

use super::client::{Kubernetes, KubernetesOptions};
use super::data_cache::{DataCache, DataResource};
use super::installed_crds;
use super::watch_liveness::WatchLiveness;
use super::watch_restart::RestoreDetector;
use crate::api::USE_LABEL;
use crate::cluster::{
    DeserializeGuard, ObjectChange, ObjectForm, ObjectKey, ReflectedKind, Reflector, Subscribers, View,
};
use crate::core::time::Millis;
use crate::ops::ReadinessGate;

/// The view of a cluster, and the future that keeps it in sync.
pub struct ClusterWatch<F> {
    pub view: View,
    /// Runs all watches; must be spawned.
    pub run: F,
}

/// Watches every kind that the controller and the worker read. `hook_form`: how the view keeps the EventHooks, of which there
/// may be very many.
pub fn watch(
    cluster: &Kubernetes,
    options: &KubernetesOptions,
    subscribers: Subscribers,
    liveness: Arc<WatchLiveness>,
    installed: ReadinessGate,
    hook_form: ObjectForm,
) -> ClusterWatch<impl Future<Output = ()> + Send + use<>> {
    let subscribers = Arc::new(subscribers);
    let scopes = options.namespaces.len().max(1);
    let (hook_reflector, hooks) =
        Reflector::with_form(hook_form, scopes, subscribers.clone(), ObjectChange::EventHook);
    let (connection_reflector, connections) =
        Reflector::new(scopes, subscribers.clone(), ObjectChange::Connection);
    let (stream_reflector, streams) = Reflector::new(scopes, subscribers.clone(), ObjectChange::EventStream);
    let (auth0_hook_reflector, auth0_hooks) = Reflector::new(scopes, subscribers.clone(), ObjectChange::Hook);
    let (client, namespaces) = (cluster.client.clone(), options.namespaces.clone());
    let (secrets, config_maps) = (cluster.secrets.clone(), cluster.config_maps.clone());
    let (label_required, watch_timeout) = (options.require_secret_label, options.watch_timeout);
    let label_selector = options.label_selector.clone();
    let config =
        Config::default().timeout(u32::try_from(options.watch_timeout.as_secs()).unwrap_or(u32::MAX));
    let run = async move {
        // A watch of a missing CRD fails and backs off, and would stay in backoff after the CRD is installed.
        installed_crds::wait_until_installed(&client, installed).await;
        let restores = RestoreDetector::new(client.clone(), &namespaces, watch_timeout, liveness.clone());
        let secret_config =
            if label_required { config.clone().labels(&format!("{USE_LABEL}=true")) } else { config.clone() };
        let object_config = config.clone().labels(&label_selector);
        let watches = Watches { client, namespaces, liveness, restores };
        // Boxed, because together the futures would overflow a thread's stack when they are moved.
        tokio::join!(
            Box::pin(watches.follow(&object_config, hook_reflector)),
            Box::pin(watches.follow(&object_config, connection_reflector)),
            Box::pin(watches.follow(&object_config, stream_reflector)),
            Box::pin(watches.follow(&object_config, auth0_hook_reflector)),
            Box::pin(watches.follow_data(&secret_config, secrets, &subscribers, ObjectChange::Secret)),
            Box::pin(watches.follow_data(&config, config_maps, &subscribers, ObjectChange::ConfigMap)),
            Box::pin(watches.restores.run()),
        );
    };
    let view = View::new(hooks, connections, streams, auth0_hooks);
    let (secret_view, config_map_view) = (view.clone(), view.clone());
    cluster.secrets.set_referenced_keys(move || secret_view.referenced_keys("Secret"));
    cluster.config_maps.set_referenced_keys(move || config_map_view.referenced_keys("ConfigMap"));
    ClusterWatch { view, run }
}

/// The settings that all watches share.
struct Watches {
    client: Client,
    namespaces: Vec<String>,
    liveness: Arc<WatchLiveness>,
    restores: RestoreDetector,
}

impl Watches {
    /// Returns an API for each namespace (or one for all), and registers their watches for liveness.
    fn apis<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Vec<Api<K>> {
        let apis: Vec<Api<K>> = if self.namespaces.is_empty() {
            vec![Api::all(self.client.clone())]
        } else {
            self.namespaces.iter().map(|n| Api::namespaced(self.client.clone(), n)).collect()
        };
        for api in &apis {
            self.liveness.register(api.resource_url().to_owned(), Millis::steady());
        }
        apis
    }

    async fn follow<K>(&self, config: &Config, mut reflector: Reflector<K>)
    where
        K: ReflectedKind + Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        let mut restores = self.restores.subscribe();
        loop {
            let streams = self.apis::<DeserializeGuard<K>>().into_iter().enumerate().map(|(scope, api)| {
                let events = watcher(api, config.clone()).default_backoff();
                events.map(move |event| (scope, event)).boxed()
            });
            let mut events = select_all(streams);
            while let Some((scope, event)) = next_unless_restored(&mut events, &mut restores).await {
                match event {
                    Ok(event) => reflector.apply(scope, event).await,
                    Err(error) => self.record_failure(&K::kind(&()), &error),
                }
            }
            // The version of a restored object may name another state than the one that was observed.
            reflector.forget_versions();
        }
    }

    async fn follow_data<K: DataResource>(
        &self,
        config: &Config,
        cache: Arc<DataCache<K>>,
        subscribers: &Subscribers,
        change: fn(ObjectKey) -> ObjectChange,
    ) {
        let mut restores = self.restores.subscribe();
        loop {
            let streams = self
                .apis::<PartialObjectMeta<K>>()
                .into_iter()
                .map(|api| watcher(api, config.clone()).default_backoff().boxed());
            let mut events = select_all(streams);
            while let Some(event) = next_unless_restored(&mut events, &mut restores).await {
                match event {
                    Ok(Event::Apply(object) | Event::Delete(object) | Event::InitApply(object)) => {
                        let key = ObjectKey::of(&object);
                        // A relist delivers every object of the cluster; report only those in use. An object that was
                        // missing when it was read also has a cache entry.
                        if cache.record_change(&key) {
                            subscribers.notify(&change(key)).await;
                        }
                    }
                    // The list that follows omits objects that were deleted while the watch was down.
                    Ok(Event::Init) => cache.record_change_of_all(),
                    Ok(Event::InitDone) => {}
                    Err(error) => self.record_failure(&K::kind(&()), &error),
                }
            }
        }
    }

    fn record_failure(&self, kind: &str, error: &watcher::Error) {
        tracing::warn!(kind, %error, "watch failed, restarting");
        self.restores.watch_failed();
    }
}

/// Returns the next event. None if the cluster was restored since the last call, so that the watches have to start again.
async fn next_unless_restored<S: Stream + Unpin>(
    events: &mut S,
    restores: &mut tokio::sync::watch::Receiver<u64>,
) -> Option<S::Item> {
    tokio::select! {
        event = events.next() => event,
        // Cannot fail: the detector lives as long as its watches.
        _ = restores.changed() => None,
    }
}
