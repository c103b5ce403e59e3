//! Builds the client access to a vendor's admin API from a Connection: its address, credentials and rate limit.

use std::time::Duration;

use kube::ResourceExt;

use super::context::Context;
use super::error::SyncError;
use crate::admin::AdminAccess;
use crate::admin::auth0::{Auth0Access, Credentials, tenant_url};
use crate::admin::kong::{KongAccess, TOKEN_HEADER};
use crate::api::{Auth0Connection, Connection};
use crate::cluster::{ObjectKey, read_secret_text, read_tls_options};
use crate::core::bucket::Rate;
use crate::core::duration;
use crate::core::hook::{self, InvalidSpec, parse_url};

/// The rate limit of the smallest Auth0 tenants.
const AUTH0_RATE: Rate = Rate { requests: 2, interval: Duration::from_secs(1), burst: 5 };
/// Longest interval between two requests that a rate limit may demand. A reconcile makes a few calls; with a lower rate
/// it would occupy its slot for hours.
const MAX_REQUEST_INTERVAL: Duration = Duration::from_secs(30);

/// The longest address of an admin API in a status, in bytes.
const MAX_ENDPOINT: usize = 2048;

/// Reads the Secrets of a Connection and returns the access to its vendor's admin API.
pub async fn access(connection: &Connection, context: &Context) -> Result<AdminAccess, SyncError> {
    hook::check_not_rejected(&connection.metadata)?;
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
            let options = read_tls_options(&*context.cluster, &namespace, tls).await?;
            context.http.with_tls(&options).map_err(|e| SyncError::SecretUnusable(e.to_string()))?
        }
    };
    let admin_url = parse_url(&kong.admin_url.0)
        .map_err(|problem| InvalidSpec::InvalidSpec { field: "kong.adminUrl", problem: problem.into() })?;
    // Encoded, the URL may be longer than the text, and `status.external.endpoint` must have all of it: a part of an address
    // would look like another gateway.
    if admin_url.as_str().len() > MAX_ENDPOINT {
        return Err(invalid("kong.adminUrl", "is longer than 2048 bytes when it is encoded"));
    }
    let token = match &kong.token_secret_ref {
        None => None,
        Some(reference) => {
            let name = kong.token_header.clone().unwrap_or_else(|| TOKEN_HEADER.to_owned());
            Some((name, read_secret_text(&*context.cluster, &namespace, reference).await?))
        }
    };
    let key = ObjectKey::of(connection);
    let http = context.pacer.client(http, &key.to_string(), rate_limit(connection)?);
    let workspace = kong.workspace.clone().filter(|w| w != "default");
    let stored = connection.status.as_ref().and_then(|status| status.capabilities.as_ref());
    let capabilities = context.capabilities(&key, stored);
    Ok(AdminAccess::Kong(KongAccess { http, admin_url, workspace, token, capabilities }))
}

async fn auth0_access(
    connection: &Connection,
    auth0: &Auth0Connection,
    context: &Context,
) -> Result<AdminAccess, SyncError> {
    let namespace = &connection.namespace().unwrap_or_default();
    let problem = "must be the tenant's host name, for example acme.eu.auth0.com";
    let base = tenant_url(&auth0.domain).ok_or_else(|| invalid("auth0.domain", problem))?;
    let credentials = match (&auth0.client_credentials, &auth0.token_secret_ref) {
        (Some(client), None) => Credentials::Client {
            id: client.client_id.clone(),
            secret: read_secret_text(&*context.cluster, namespace, &client.client_secret_ref).await?,
            audience: auth0.audience.clone().unwrap_or_else(|| format!("https://{}/api/v2/", auth0.domain)),
        },
        (None, Some(token)) => {
            Credentials::StaticToken(read_secret_text(&*context.cluster, namespace, token).await?)
        }
        _ => return Err(invalid("auth0", "exactly one of clientCredentials, tokenSecretRef must be set")),
    };
    let login = context.tokens.login(&base, credentials);
    let http = context.pacer.client(
        context.http.clone(),
        &ObjectKey::of(connection).to_string(),
        rate_limit(connection)?,
    );
    Ok(AdminAccess::Auth0(Auth0Access { http, base, login }))
}

fn invalid(field: &'static str, problem: &str) -> SyncError {
    InvalidSpec::InvalidSpec { field, problem: problem.into() }.into()
}

/// Returns the rate limit of calls to the admin API: the one in the Connection, otherwise the vendor's default. None if
/// there is neither.
fn rate_limit(connection: &Connection) -> Result<Option<Rate>, SyncError> {
    match &connection.spec.rate_limit {
        None => Ok(connection.spec.auth0.is_some().then_some(AUTH0_RATE)),
        Some(limit) => {
            let rate = hook::parse_rate_limit("rateLimit", limit)?;
            if rate.interval / rate.requests > MAX_REQUEST_INTERVAL {
                return Err(invalid("rateLimit", "must allow at least one request in 30s"));
            }
            Ok(Some(rate))
        }
    }
}

/// Returns the time between two comparisons of an object with the vendor.
pub fn resync_interval(connection: &Connection, context: &Context) -> Result<Duration, SyncError> {
    let Some(text) = &connection.spec.resync_interval else { return Ok(context.options.resync_interval) };
    duration::parse(&text.0)
        .map_err(|e| InvalidSpec::InvalidSpec { field: "resyncInterval", problem: e.to_string() }.into())
}
