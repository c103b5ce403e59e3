//! Builds the client access to a vendor's admin API from a Connection: its address, credentials and rate limit.

use std::time::Duration;

use kube::ResourceExt;
use serde_json::json;
use url::Url;

use super::context::Context;
use super::error::SyncError;
use super::state::{hash_with_newest_key, is_hash_of};
use crate::admin::AdminAccess;
use crate::admin::auth0::{AssertionKey, Auth0Access, Credentials, tenant_url};
use crate::admin::kong::{KongAccess, TOKEN_HEADER};
use crate::api::{Auth0Connection, ClientCredentials, ConfiguredAddress, Connection};
use crate::cluster::{ClusterError, ObjectKey, read_secret_text, read_tls_options};
use crate::core::bucket::Rate;
use crate::core::duration;
use crate::core::hook::{self, InvalidSpec, parse_url};
use crate::core::stream::is_loopback;
use crate::core::time::Millis;

/// The rate limit of the smallest Auth0 tenants.
const AUTH0_RATE: Rate = Rate { requests: 2, interval: Duration::from_secs(1), burst: 5 };
/// Longest interval between two requests that a rate limit may demand. A reconcile makes a few calls; with a lower rate
/// it would occupy its slot for hours.
const MAX_REQUEST_INTERVAL: Duration = Duration::from_secs(30);

/// The longest address of an admin API in a status, in bytes.
const MAX_ENDPOINT: usize = 2048;

/// The addresses in the status of a Connection. The oldest former address is dropped first.
const MAX_ADDRESSES: usize = 8;

/// Reads the Secrets of a Connection and returns the access to its vendor's admin API.
pub async fn access(connection: &Connection, context: &Context) -> Result<AdminAccess, SyncError> {
    context.remember_policy(connection);
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
    let may_send_token = kong.allow_insecure_http == Some(true) || !is_insecure(&admin_url);
    let token = match &kong.token_secret_ref {
        None => None,
        Some(_) if !may_send_token => return Err(SyncError::InsecureHttp(admin_url)),
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

/// Returns true if a request to this URL crosses a network unencrypted.
fn is_insecure(url: &Url) -> bool {
    url.scheme() != "https" && !is_loopback(url)
}

/// Returns the access to a former address of the Connection. The status of the Connection has a hash of the credentials
/// that were configured for that address: only those are sent there, also after a restart.
pub async fn access_at(
    connection: &Connection,
    access: AdminAccess,
    endpoint: &str,
    context: &Context,
) -> Result<AdminAccess, SyncError> {
    let configured = configured_address(connection, endpoint);
    let is_same = match (configured.and_then(|a| a.credentials_hash.as_ref()), access.credentials_digest()) {
        (Some(hash), Some(digest)) => match context.load_key_ring().await {
            Ok(key_ring) => {
                is_hash_of(&key_ring, hash, &uid(connection), endpoint, &json!(hex::encode(digest)))
            }
            Err(ClusterError::KeyRing(_)) => false,
            Err(error) => return Err(error.into()),
        },
        _ => false,
    };
    let access = match configured {
        _ if is_same => access.at(endpoint),
        None if access.credentials_digest().is_none() => access.at(endpoint),
        Some(ConfiguredAddress { credentials_hash: None, .. }) => {
            access.without_credentials().and_then(|access| access.at(endpoint))
        }
        _ => None,
    };
    access.ok_or_else(|| SyncError::CredentialsNotForAddress {
        connection: connection.name_any(),
        endpoint: endpoint.to_owned(),
    })
}

/// Returns the addresses of the Connection, with the address and the credentials of an access that worked as the current
/// ones.
pub async fn configured_addresses(
    connection: &Connection,
    access: &AdminAccess,
    context: &Context,
) -> Result<Vec<ConfiguredAddress>, SyncError> {
    let endpoint = access.endpoint();
    let current = ConfiguredAddress {
        credentials_hash: credentials_hash(connection, access, &endpoint, context).await?,
        endpoint,
        replaced_at: None,
    };
    let before = connection.status.as_ref().map(|status| status.addresses.as_slice()).unwrap_or_default();
    let former = before.iter().filter(|address| address.endpoint != current.endpoint).cloned();
    let former = former.map(|address| ConfiguredAddress {
        replaced_at: address.replaced_at.or_else(|| Some(Millis::now().rfc3339())),
        ..address
    });
    let former: Vec<ConfiguredAddress> = former.collect();
    Ok(std::iter::once(current).chain(former).take(MAX_ADDRESSES).collect())
}

/// Returns the stored hash if it is of these credentials, otherwise a new one. None if there are no credentials, or no key
/// ring to hash them with.
async fn credentials_hash(
    connection: &Connection,
    access: &AdminAccess,
    endpoint: &str,
    context: &Context,
) -> Result<Option<String>, SyncError> {
    let Some(digest) = access.credentials_digest().map(hex::encode) else { return Ok(None) };
    let stored =
        configured_address(connection, endpoint).and_then(|address| address.credentials_hash.clone());
    let key_ring = match context.load_key_ring().await {
        Ok(key_ring) => key_ring,
        // The Connection works without it. Until the key ring is back, only this process knows whose credentials these are.
        Err(ClusterError::KeyRing(_)) => return Ok(stored),
        Err(error) => return Err(error.into()),
    };
    let uid = uid(connection);
    let value = json!(digest);
    // Keep the stored hash when the key ring has a newer key, so that the status does not change.
    let is_current = |hash: &String| is_hash_of(&key_ring, hash, &uid, endpoint, &value);
    Ok(stored.filter(is_current).or_else(|| hash_with_newest_key(&key_ring, &uid, endpoint, &value)))
}

/// True if the status of the Connection has this address as the current one: the vendor's API answered there.
pub fn is_current_address(connection: &Connection, endpoint: &str) -> bool {
    configured_address(connection, endpoint).is_some_and(|address| address.replaced_at.is_none())
}

fn configured_address<'c>(connection: &'c Connection, endpoint: &str) -> Option<&'c ConfiguredAddress> {
    connection.status.as_ref()?.addresses.iter().find(|address| address.endpoint == endpoint)
}

fn uid(connection: &Connection) -> String {
    connection.uid().unwrap_or_default()
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
        (Some(client), None) => {
            let audience = auth0.audience.clone();
            let audience = audience.unwrap_or_else(|| format!("https://{}/api/v2/", auth0.domain));
            client_credentials(client, audience, namespace, context).await?
        }
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

/// Reads the client secret or the private key of an application.
async fn client_credentials(
    client: &ClientCredentials,
    audience: String,
    namespace: &str,
    context: &Context,
) -> Result<Credentials, SyncError> {
    let read = async |reference| read_secret_text(&*context.cluster, namespace, reference).await;
    let id = client.client_id.clone();
    match (&client.client_secret_ref, &client.private_key_ref) {
        (Some(secret), None) => Ok(Credentials::Client { id, secret: read(secret).await?, audience }),
        (None, Some(reference)) => {
            let (pem, algorithm) = (read(reference).await?, client.signing_algorithm.unwrap_or_default());
            let key = AssertionKey::new(&id, &pem, algorithm, client.key_id.clone()).map_err(|error| {
                SyncError::SecretUnusable(format!(
                    "key {} of Secret {} {error}",
                    reference.key, reference.name
                ))
            })?;
            Ok(Credentials::PrivateKey { key, audience })
        }
        _ => {
            let problem = "exactly one of clientSecretRef, privateKeyRef must be set";
            Err(invalid("auth0.clientCredentials", problem))
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::api::ConnectionStatus;
    use crate::cluster::Subscribers;
    use crate::cluster::files::{FileCluster, FileClusterOptions};
    use crate::controller::ControllerOptions;
    use crate::core::egress::EgressRules;
    use crate::leadership::Leadership;
    use crate::metrics::Metrics;
    use crate::net::{Egress, HttpClient};

    const SECRETS: &str = "
apiVersion: v1
kind: Secret
metadata: {name: first}
stringData: {token: first-token}
---
apiVersion: v1
kind: Secret
metadata: {name: second}
stringData: {token: second-token}
";

    fn context(dir: &std::path::Path) -> Context {
        rustls::crypto::ring::default_provider().install_default().ok();
        let file = dir.join("secrets.yaml");
        std::fs::write(&file, SECRETS).unwrap();
        let options =
            FileClusterOptions { manifests: vec![file], data: dir.join("data"), prune: false, token: None };
        let files = Arc::new(FileCluster::open(options).unwrap());
        let (view, feed) = files.watch(Subscribers::default());
        tokio::spawn(feed);
        let http = HttpClient::new(Egress::new(EgressRules::default())).unwrap();
        let (metrics, leadership) = (Arc::new(Metrics::default()), Leadership::always());
        Context::new(files, view, http, ControllerOptions::default(), metrics, leadership)
    }

    fn connection(url: &str, token: Option<&str>, allow: Option<bool>) -> Connection {
        let mut kong = json!({"adminUrl": url});
        if let Some(token) = token {
            kong["tokenSecretRef"] = json!({"name": token, "key": "token"});
        }
        kong["allowInsecureHttp"] = json!(allow);
        let object = json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "Connection",
            "metadata": {"name": "kong", "namespace": "default", "uid": "u"}, "spec": {"kong": kong}});
        serde_json::from_value(object).unwrap()
    }

    #[tokio::test]
    async fn token_over_plain_http_needs_permission() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        context.view.wait_until_listed().await;
        let error = async |url: &str, token, allow| {
            access(&connection(url, token, allow), &context).await.err().map(|error| error.reason())
        };
        for url in ["http://kong.example:8001", "http://10.0.0.7", "http://localhost.example"] {
            assert_eq!(error(url, Some("first"), None).await, Some("InsecureHttp"), "{url}");
            assert_eq!(error(url, Some("first"), Some(false)).await, Some("InsecureHttp"), "{url}");
            assert_eq!(error(url, Some("first"), Some(true)).await, None, "{url}");
            assert_eq!(error(url, None, None).await, None, "{url} without a token");
        }
        for url in ["https://kong.example", "http://127.0.0.1:8001", "http://[::1]", "http://localhost"] {
            assert_eq!(error(url, Some("first"), None).await, None, "{url}");
        }
    }

    #[tokio::test]
    async fn former_address_gets_only_its_own_credentials() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        context.view.wait_until_listed().await;
        let (a, b) = ("https://a.example", "https://b.example");
        let moved = async |first: Option<&str>, second: Option<&str>| {
            let mut connection_a = connection(a, first, None);
            let access_a = access(&connection_a, &context).await.unwrap();
            let addresses = configured_addresses(&connection_a, &access_a, &context).await.unwrap();
            let status = ConnectionStatus { addresses, ..ConnectionStatus::default() };
            connection_a.status = Some(status.clone());
            let again = configured_addresses(&connection_a, &access_a, &context).await.unwrap();
            assert_eq!(again, status.addresses, "a resync changes nothing");
            let mut connection_b = connection(b, second, None);
            connection_b.status = Some(status);
            let access_b = access(&connection_b, &context).await.unwrap();
            let addresses = configured_addresses(&connection_b, &access_b, &context).await.unwrap();
            assert_eq!((addresses[0].endpoint.as_str(), addresses[1].endpoint.as_str()), (b, a));
            assert!(addresses[0].replaced_at.is_none() && addresses[1].replaced_at.is_some());
            connection_b.status = Some(ConnectionStatus { addresses, ..ConnectionStatus::default() });
            let elsewhere = "https://elsewhere.example";
            let unknown = access_at(&connection_b, access_b.clone(), elsewhere, &context).await;
            assert_eq!(unknown.unwrap_err().reason(), "CredentialsNotForAddress", "it was never configured");
            access_at(&connection_b, access_b, a, &context).await
        };
        let same = moved(Some("first"), Some("first")).await.unwrap();
        assert_eq!((same.endpoint().as_str(), same.credentials_digest().is_some()), (a, true));
        let other = moved(Some("first"), Some("second")).await;
        assert_eq!(other.unwrap_err().reason(), "CredentialsNotForAddress");
        let none = moved(None, Some("second")).await.unwrap();
        assert_eq!((none.endpoint().as_str(), none.credentials_digest()), (a, None), "no token is sent");
    }
}
