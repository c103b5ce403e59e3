//! Connection: reaches the admin API, tells its version, and stays while it is used.

use std::sync::Arc;
use std::time::Duration;

use kube::{Resource, ResourceExt};

use super::backoff::resync;
use super::context::Context;
use super::problem::Problem;
use super::requests::uses_connection;
use super::{reconcile, status};
use crate::admin::Access;
use crate::admin::kong::{KongAccess, KongClient, TOKEN_HEADER};
use crate::api::{Capabilities, Connection, EventHook, FINALIZER};
use crate::cluster::{Guarded, Key, secret_text, tls_options};
use crate::core::conditions::{Note, Standing};
use crate::core::duration;
use crate::core::hook::{InvalidSpec, parse_url};

pub async fn reconcile(connection: Arc<Connection>, context: Arc<Context>) -> Result<Duration, Problem> {
    keep_while_used(&connection, &context).await?;
    if connection.metadata.deletion_timestamp.is_some() {
        return Ok(Duration::from_secs(600));
    }
    let key = Key::of(&*connection);
    let access = access(&connection, &context).await?;
    context.backoff.may_call(&connection.uid().unwrap_or_default())?;
    let Access::Kong(kong) = &access;
    let version = KongClient::new(kong.clone()).version().await?;
    context.remember_access(key.clone(), &access);

    let mut status = connection.status.clone().unwrap_or_default();
    if status.version.is_some() && status.version != version {
        // Another version may be able to do other things.
        context.unlearn(&key);
        status.capabilities = None;
    } else {
        status.capabilities = Some(kong.learned.known()).filter(|known| *known != Capabilities::default());
    }
    status.version = version;
    let told = status.version.as_deref().unwrap_or("of an unknown version");
    let ready = Standing::Ready(Note::new("Connected", format!("the admin API answers; Kong {told}")));
    status::write(&context, &*connection, status, &ready, None).await?;
    Ok(resync(resync_interval(&connection, &context)?, &connection.uid().unwrap_or_default()))
}

/// The in-use finalizer: an EventHook that is deleted together with its Connection still needs it to clean up.
async fn keep_while_used(connection: &Connection, context: &Context) -> Result<(), Problem> {
    let (namespace, name) = (connection.namespace().unwrap_or_default(), connection.name_any());
    let users = context.view.hooks.state_filter(|h| {
        h.namespace().as_deref() == Some(namespace.as_str()) && may_use(h, &name) && holds(h)
    });
    let deleting = connection.metadata.deletion_timestamp.is_some();
    match users.first() {
        Some(user) if deleting => Err(Problem::InUse(format!("EventHook {}", user.name_any()))),
        Some(_) => Ok(reconcile::hold(context, connection).await?),
        None => {
            reconcile::release(context, connection).await?;
            if deleting {
                context.forget_connection(&Key::of(connection));
            }
            Ok(())
        }
    }
}

/// One that cannot be read may use any Connection: as long as it has to clean up, none goes.
fn may_use(hook: &Guarded<EventHook>, name: &str) -> bool {
    let unknown = hook.0.is_err() && hook.finalizers().iter().any(|f| f == FINALIZER);
    unknown || uses_connection(hook, name)
}

/// A hook that is being deleted and has nothing at the vendor any more uses nothing.
fn holds(hook: &Guarded<EventHook>) -> bool {
    hook.meta().deletion_timestamp.is_none() || hook.finalizers().iter().any(|f| f == FINALIZER)
}

/// How this Connection's vendor is reached.
pub async fn access(connection: &Connection, context: &Context) -> Result<Access, Problem> {
    let namespace = connection.namespace().unwrap_or_default();
    let spec = &connection.spec;
    let Some(kong) = &spec.kong else {
        return Err(not_built(vec!["auth0"]));
    };
    if spec.rate_limit.is_some() {
        return Err(not_built(vec!["rateLimit"]));
    }
    let http = match &kong.tls {
        None => context.http.clone(),
        Some(tls) => {
            let options = tls_options(&*context.cluster, &namespace, tls).await?;
            context.http.with(&options).map_err(|e| Problem::SecretUnusable(e.to_string()))?
        }
    };
    let admin_url = parse_url(&kong.admin_url.0)
        .map_err(|problem| InvalidSpec::InvalidSpec { field: "kong.adminUrl", problem: problem.into() })?;
    let token = match &kong.token_secret_ref {
        None => None,
        Some(reference) => {
            let name = kong.token_header.clone().unwrap_or_else(|| TOKEN_HEADER.to_owned());
            Some((name, secret_text(&*context.cluster, &namespace, reference).await?))
        }
    };
    let workspace = kong.workspace.clone().filter(|w| w != "default");
    let known = connection.status.as_ref().and_then(|status| status.capabilities.as_ref());
    let learned = context.learned(&Key::of(connection), known);
    Ok(Access::Kong(KongAccess { http, admin_url, workspace, token, learned }))
}

/// The hash that a gateway of this version signs with.
pub fn signs_with(version: &str) -> &'static str {
    let mut numbers = version.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    if version >= (3, 14) { "SHA256" } else { "SHA1" }
}

/// How often the objects of this Connection are compared with the vendor.
pub fn resync_interval(connection: &Connection, context: &Context) -> Result<Duration, Problem> {
    let Some(text) = &connection.spec.resync_interval else { return Ok(context.options.resync_interval) };
    duration::parse(&text.0)
        .map_err(|e| InvalidSpec::InvalidSpec { field: "resyncInterval", problem: e.to_string() }.into())
}

fn not_built(fields: Vec<&'static str>) -> Problem {
    InvalidSpec::NotImplemented(fields).into()
}
