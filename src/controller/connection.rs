//! Connection: reaches the admin API, tells its version, and stays while it is used.

use std::sync::Arc;
use std::time::Duration;

use kube::runtime::reflector::Store;
use kube::{Resource, ResourceExt};

use super::backoff::resync;
use super::context::Context;
use super::problem::Problem;
use super::reconcile::Synced;
use super::requests::{in_namespace, uses_connection};
use super::{reconcile, status};
use crate::admin::Access;
use crate::admin::auth0::{Auth0Access, Credentials, StreamClient, address};
use crate::admin::kong::{KongAccess, KongClient, TOKEN_HEADER};
use crate::api::{Auth0Connection, Capabilities, Connection, FINALIZER};
use crate::cluster::{Guarded, Key, secret_text, tls_options};
use crate::core::bucket::Rate;
use crate::core::conditions::{Note, Standing};
use crate::core::duration;
use crate::core::hook::{self, InvalidSpec, parse_url};

/// What the smallest tenants are allowed.
const AUTH0_RATE: Rate = Rate { requests: 2, interval: Duration::from_secs(1), burst: 5 };
const SLOWEST: Duration = Duration::from_secs(30);

pub async fn reconcile(connection: Arc<Connection>, context: Arc<Context>) -> Result<Duration, Problem> {
    keep_while_used(&connection, &context).await?;
    if connection.metadata.deletion_timestamp.is_some() {
        return Ok(Duration::from_secs(600));
    }
    let key = Key::of(&*connection);
    let access = access(&connection, &context).await?;
    context.backoff.may_call(&connection.uid().unwrap_or_default())?;
    let mut status = connection.status.clone().unwrap_or_default();
    let kong = match &access {
        Access::Kong(kong) => kong,
        Access::Auth0(auth0) => {
            StreamClient::new(auth0.clone()).reach().await?;
            context.remember_access(key, &access);
            let ready = Standing::Ready(Note::new("Connected", "the Management API answers"));
            status::write(&context, &*connection, status, &ready, None).await?;
            return Ok(resync(
                resync_interval(&connection, &context)?,
                &connection.uid().unwrap_or_default(),
            ));
        }
    };
    let version = KongClient::new(kong.clone()).version().await?;
    context.remember_access(key.clone(), &access);

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

/// The in-use finalizer: an object that is deleted together with its Connection still needs it to clean up.
async fn keep_while_used(connection: &Connection, context: &Context) -> Result<(), Problem> {
    let place = Key::of(connection);
    let deleting = connection.metadata.deletion_timestamp.is_some();
    match user_of_any_kind(context, &place) {
        Some(user) if deleting => Err(Problem::InUse(user)),
        Some(_) => Ok(reconcile::hold(context, connection).await?),
        None => {
            reconcile::release(context, connection).await?;
            if deleting {
                context.forget_connection(&place);
            }
            Ok(())
        }
    }
}

/// A Connection is gone. Where nobody used it there was no finalizer, and so no last reconcile: its credentials must not
/// stay for the next of its name, who may be somebody else's.
pub fn gone(context: &Context, place: &Key) {
    if user_of_any_kind(context, place).is_none() {
        context.forget_connection(place);
    }
}

/// Its in-use finalizer is not as its users want it: the first came, or the last went.
pub fn is_out_of_step(context: &Context, connection: &Guarded<Connection>) -> bool {
    let held = connection.finalizers().iter().any(|f| f == FINALIZER);
    user_of_any_kind(context, &Key::of(connection)).is_some() != held
}

fn user_of_any_kind(context: &Context, connection: &Key) -> Option<String> {
    let view = &context.view;
    user(&view.hooks, connection)
        .or_else(|| user(&view.streams, connection))
        .or_else(|| user(&view.auth0_hooks, connection))
}

/// One of a kind that uses the Connection.
fn user<K: Synced>(all: &Store<Guarded<K>>, connection: &Key) -> Option<String> {
    let uses = |object: &Guarded<K>| {
        in_namespace(object, connection) && may_use(object, &connection.name) && holds(object)
    };
    let kind: &str = K::KIND.into();
    all.find(uses).map(|object| format!("{kind} {}", object.name_any()))
}

/// One that cannot be read may use any Connection: as long as it has to clean up, none goes.
fn may_use<K: Synced>(object: &Guarded<K>, name: &str) -> bool {
    let unknown = object.0.is_err() && object.finalizers().iter().any(|f| f == FINALIZER);
    unknown || uses_connection(object, name)
}

/// An object that is being deleted and has nothing at the vendor any more uses nothing.
fn holds<K: Synced>(object: &Guarded<K>) -> bool {
    object.meta().deletion_timestamp.is_none() || object.finalizers().iter().any(|f| f == FINALIZER)
}

/// How this Connection's vendor is reached.
pub async fn access(connection: &Connection, context: &Context) -> Result<Access, Problem> {
    hook::not_refused(&connection.metadata)?;
    let namespace = connection.namespace().unwrap_or_default();
    let spec = &connection.spec;
    let kong = match (&spec.kong, &spec.auth0) {
        (Some(kong), None) => kong,
        (None, Some(auth0)) => return auth0_access(connection, auth0, context).await,
        _ => return Err(invalid("kong", "exactly one of kong, auth0 must be set")),
    };
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
    let http = context.pacer.client(http, &Key::of(connection).to_string(), rate(connection)?);
    let workspace = kong.workspace.clone().filter(|w| w != "default");
    let known = connection.status.as_ref().and_then(|status| status.capabilities.as_ref());
    let learned = context.learned(&Key::of(connection), known);
    Ok(Access::Kong(KongAccess { http, admin_url, workspace, token, learned }))
}

async fn auth0_access(
    connection: &Connection,
    auth0: &Auth0Connection,
    context: &Context,
) -> Result<Access, Problem> {
    let namespace = &connection.namespace().unwrap_or_default();
    let problem = "must be the tenant's host name, for example acme.eu.auth0.com";
    let base = address(&auth0.domain).ok_or_else(|| invalid("auth0.domain", problem))?;
    let credentials = match (&auth0.client_credentials, &auth0.token_secret_ref) {
        (Some(client), None) => Credentials::Client {
            id: client.client_id.clone(),
            secret: secret_text(&*context.cluster, namespace, &client.client_secret_ref).await?,
            audience: auth0.audience.clone().unwrap_or_else(|| format!("https://{}/api/v2/", auth0.domain)),
        },
        (None, Some(token)) => Credentials::Ready(secret_text(&*context.cluster, namespace, token).await?),
        _ => return Err(invalid("auth0", "exactly one of clientCredentials, tokenSecretRef must be set")),
    };
    let login = context.tokens.login(&base, credentials);
    let http =
        context.pacer.client(context.http.clone(), &Key::of(connection).to_string(), rate(connection)?);
    Ok(Access::Auth0(Auth0Access { http, base, login }))
}

fn invalid(field: &'static str, problem: &str) -> Problem {
    InvalidSpec::InvalidSpec { field, problem: problem.into() }.into()
}

/// The hash that a gateway of this version signs with.
pub fn signs_with(version: &str) -> &'static str {
    let mut numbers = version.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    if version >= (3, 14) { "SHA256" } else { "SHA1" }
}

/// How often this Connection's admin API is called at most, where it says so or its vendor is known to ask for it.
pub fn rate(connection: &Connection) -> Result<Option<Rate>, Problem> {
    match &connection.spec.rate_limit {
        None => Ok(connection.spec.auth0.is_some().then_some(AUTH0_RATE)),
        Some(limit) => {
            let rate = hook::rate("rateLimit", limit)?;
            // A reconcile takes a few calls, and may not hold its place for hours.
            if rate.interval / rate.requests > SLOWEST {
                let problem = "must allow at least one request in 30s".to_owned();
                return Err(InvalidSpec::InvalidSpec { field: "rateLimit", problem }.into());
            }
            Ok(Some(rate))
        }
    }
}

/// How often the objects of this Connection are compared with the vendor.
pub fn resync_interval(connection: &Connection, context: &Context) -> Result<Duration, Problem> {
    let Some(text) = &connection.spec.resync_interval else { return Ok(context.options.resync_interval) };
    duration::parse(&text.0)
        .map_err(|e| InvalidSpec::InvalidSpec { field: "resyncInterval", problem: e.to_string() }.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Subscribers;
    use crate::cluster::files::{Files, Options};
    use crate::controller;
    use crate::core::egress::Policy;
    use crate::leadership::Leadership;
    use crate::metrics::Metrics;
    use crate::net::{Egress, HttpClient};

    const KONG: &str = "
apiVersion: hookstream.dev/v1alpha1
kind: Connection
metadata: {name: kong}
spec: {kong: {adminUrl: 'http://127.0.0.1:1'}}
";

    async fn until(what: &str, fits: impl Fn() -> bool) {
        let fits = async {
            while !fits() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), fits).await.expect(what);
    }

    #[tokio::test]
    async fn credentials_go_with_a_connection_that_nobody_used() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("kong.yaml");
        std::fs::write(&file, KONG).unwrap();
        let options = Options {
            manifests: vec![file.clone()],
            data: dir.path().join("data"),
            prune: false,
            token: None,
        };
        let files = Arc::new(Files::open(options).unwrap());
        let mut subscribers = Subscribers::default();
        let changes = subscribers.subscribe();
        let (view, feed) = files.watch(subscribers);
        tokio::spawn(feed);
        view.ready().await;
        let http = HttpClient::new(Egress::new(Policy::default())).unwrap();
        let (metrics, leadership) = (Arc::new(Metrics::default()), Leadership::always());
        let options = controller::Options::default();
        let context = Arc::new(Context::new(files, view, http, options, metrics, leadership));
        tokio::spawn(controller::run(context.clone(), changes, Default::default()));

        let key = Key::new("default", "kong");
        let seen = || context.view.connection("default", "kong");
        let told = || seen().is_some_and(|c| c.0.as_ref().is_ok_and(|c| c.status.is_some()));
        until("its first reconcile", told).await;
        let connection = seen().unwrap();
        let access = access(connection.0.as_ref().ok().unwrap(), &context).await.unwrap();
        context.remember_access(key.clone(), &access);
        assert!(context.last_access(&key, None).is_some());
        std::fs::write(&file, KONG.replace("name: kong", "name: another")).unwrap();
        until("its end", || context.last_access(&key, None).is_none()).await;
    }
}
