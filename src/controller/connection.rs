//! Connection: checks that the admin API answers, reports its version, and keeps the finalizer while it is in use.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;

use super::access::{access, configured_addresses, resync_interval};
use super::backoff::resync_delay;
use super::context::Context;
use super::error::SyncError;
use super::usage::find_user;
use super::{finalizer, installation, status};
use crate::admin::AdminAccess;
use crate::admin::auth0::StreamClient;
use crate::admin::kong::{KongAccess, KongClient};
use crate::api::{Capabilities, Connection, ConnectionStatus};
use crate::cluster::ObjectKey;
use crate::core::conditions::{ConditionMessage, ObjectReadiness};

/// Requeue delay of a Connection that is being deleted and is no longer in use.
const DELETED_REQUEUE: Duration = Duration::from_secs(600);

/// Reconciles a Connection.
pub async fn reconcile(connection: Arc<Connection>, context: Arc<Context>) -> Result<Duration, SyncError> {
    update_finalizer(&connection, &context).await?;
    if connection.metadata.deletion_timestamp.is_some() {
        return Ok(DELETED_REQUEUE);
    }
    let key = ObjectKey::of(&*connection);
    let uid = connection.uid().unwrap_or_default();
    let access = access(&connection, &context).await?;
    context.backoff.may_call(&uid)?;
    let mut status = connection.status.clone().unwrap_or_default();
    let own = context.installation().await?;
    let (message, others) = match &access {
        AdminAccess::Auth0(auth0) => {
            let client = StreamClient::new(auth0.clone());
            client.check_reachable().await?;
            context.remember_access(key, &access);
            let others = context.other_installations(&client, own.as_deref());
            ("the Management API answers".to_owned(), others)
        }
        AdminAccess::Kong(kong) => {
            let client = KongClient::new(kong.clone());
            let version = client.version().await?;
            check_workspace(&client, kong).await?;
            context.remember_access(key.clone(), &access);
            update_version(&context, &key, kong, &mut status, version);
            let version = status.version.as_deref().unwrap_or("of an unknown version");
            let others = context.other_installations(&client, own.as_deref());
            (format!("the admin API answers; Kong {version}"), others)
        }
    };
    status.addresses = configured_addresses(&connection, &access, &context).await?;
    if let Some(error) = context.oversized_response(&ObjectKey::of(&*connection)) {
        return Err(error.into());
    }
    let generation = connection.metadata.generation;
    let conditions = &mut status.conditions;
    let warning = others.and_then(|others| installation::set_condition(conditions, &others, generation));
    let ready = ObjectReadiness::Ready(ConditionMessage::new("Connected", message));
    status::write(&context, &*connection, status, &ready, None).await?;
    if let Some(warning) = warning {
        installation::report(&context, &connection, warning).await;
    }
    Ok(resync_delay(resync_interval(&connection, &context)?, &uid))
}

/// Fails if the gateway does not have the Connection's workspace. `GET /` answers without one.
async fn check_workspace(client: &KongClient, kong: &KongAccess) -> Result<(), SyncError> {
    let Some(workspace) = &kong.workspace else { return Ok(()) };
    // How Kong answers for a workspace that does not exist is not recorded; every 404 of this list means that.
    client.check_list().await.map_err(|error| match error.is_ambiguous_absence() || error.is_gone() {
        true => SyncError::WorkspaceMissing { workspace: workspace.clone(), error },
        false => error.into(),
    })
}

/// Sets the version and the capabilities in the status. When the version changes, drops the capabilities, because the
/// new version may have others.
fn update_version(
    context: &Context,
    key: &ObjectKey,
    kong: &KongAccess,
    status: &mut ConnectionStatus,
    version: Option<String>,
) {
    if status.version.is_some() && status.version != version {
        context.reset_capabilities(key);
        status.capabilities = None;
    } else {
        status.capabilities =
            Some(kong.capabilities.current()).filter(|known| *known != Capabilities::default());
    }
    status.version = version;
}

/// Adds the finalizer while an object uses the Connection and removes it afterwards. An object that is deleted together
/// with its Connection still needs the credentials to clean up.
async fn update_finalizer(connection: &Connection, context: &Context) -> Result<(), SyncError> {
    let key = ObjectKey::of(connection);
    let is_deleting = connection.metadata.deletion_timestamp.is_some();
    match find_user(context, &key) {
        Some(user) if is_deleting => Err(SyncError::InUse(user)),
        Some(_) => finalizer::add(context, connection).await,
        None => {
            finalizer::remove(context, connection).await?;
            if is_deleting {
                context.forget_connection(&key);
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Subscribers;
    use crate::cluster::files::{FileCluster, FileClusterOptions};
    use crate::controller;
    use crate::core::egress::EgressRules;
    use crate::leadership::Leadership;
    use crate::metrics::Metrics;
    use crate::net::{Egress, HttpClient};

    const KONG: &str = "
apiVersion: hookstream.dev/v1alpha1
kind: Connection
metadata: {name: kong}
spec: {kong: {adminUrl: 'http://127.0.0.1:1'}}
";

    async fn wait_for(what: &str, is_true: impl Fn() -> bool) {
        let polling = async {
            while !is_true() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), polling).await.expect(what);
    }

    #[tokio::test]
    async fn forgets_credentials_of_a_deleted_connection_without_users() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("kong.yaml");
        std::fs::write(&file, KONG).unwrap();
        let options = FileClusterOptions {
            manifests: vec![file.clone()],
            data: dir.path().join("data"),
            prune: false,
            token: None,
        };
        let files = Arc::new(FileCluster::open(options).unwrap());
        let mut subscribers = Subscribers::default();
        let changes = subscribers.subscribe();
        let (view, feed) = files.watch(subscribers);
        tokio::spawn(feed);
        view.wait_until_listed().await;
        let http = HttpClient::new(Egress::new(EgressRules::default())).unwrap();
        let (metrics, leadership) = (Arc::new(Metrics::default()), Leadership::always());
        let options = controller::ControllerOptions::default();
        let context = Arc::new(Context::new(files, view, http, options, metrics, leadership));
        tokio::spawn(controller::run(context.clone(), changes, Default::default()));

        let key = ObjectKey::new("default", "kong");
        let stored = || context.view.connection("default", "kong");
        let has_status = || stored().is_some_and(|c| c.0.as_ref().is_ok_and(|c| c.status.is_some()));
        wait_for("its first reconcile", has_status).await;
        let connection = stored().unwrap();
        let access = access(connection.0.as_ref().ok().unwrap(), &context).await.unwrap();
        context.remember_access(key.clone(), &access);
        assert!(context.last_access(&key, None).is_some());
        std::fs::write(&file, KONG.replace("name: kong", "name: another")).unwrap();
        wait_for("the deletion", || context.last_access(&key, None).is_none()).await;
    }
}
