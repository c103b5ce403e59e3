//! `webhook`: the event as JSON by POST.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, Request};
use http_body_util::Full;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::Sent;
use crate::api::{Format, SignatureScheme};
use crate::cluster::{Cluster, MissingSecret, secret_text, tls_options};
use crate::core::conditions::cut;
use crate::core::event::hops;
use crate::core::gate::SUPPRESSED_HEADER;
use crate::core::hook::{self, Hook, Signature, Target, Webhook};
use crate::core::redact::redact;
use crate::core::sign;
use crate::core::time::Millis;
use crate::net::{HttpClient, SendError};
use crate::worker::store::Pending;

/// What is read of an answer.
const MAX_ANSWER: usize = 64 * 1024;
/// What is kept of it, in bytes.
const MAX_DETAIL: usize = 256;
const AGENT: &str = concat!("hookstream/", env!("CARGO_PKG_VERSION"));
const ID_HEADER: &str = "webhook-id";
const TIMESTAMP_HEADER: &str = "webhook-timestamp";
const SIGNATURE_HEADER: &str = "webhook-signature";
/// How often the delivery was replayed.
const REPLAY_HEADER: &str = "x-hookstream-replay";
const HOPS_HEADER: &str = "x-hookstream-hops";

/// A request and the secrets in it, for masking them in what comes back.
struct Prepared {
    http: HttpClient,
    request: Request<Full<Bytes>>,
    secrets: Vec<SecretString>,
}

/// Why no request could be made.
enum Unprepared {
    Missing(MissingSecret),
    /// A Secret holds what cannot be sent; it may be replaced.
    Unusable(String),
}

pub async fn send(
    http: &HttpClient,
    cluster: &dyn Cluster,
    hook: &Hook,
    webhook: &Webhook,
    pending: &Pending,
) -> Sent {
    let prepared = match prepare(http, cluster, hook, webhook, pending, Millis::now()).await {
        Ok(prepared) => prepared,
        Err(Unprepared::Missing(missing)) => {
            return Sent::NotNow { reason: (&missing).into(), detail: missing.to_string() };
        }
        Err(Unprepared::Unusable(detail)) => return Sent::NotNow { reason: "SecretUnusable", detail },
    };
    // Never zero: a spec says so, and a request without time could never succeed.
    let timeout = hook.delivery.timeout.max(Duration::from_millis(1));
    let secrets = prepared.secrets;
    let shown = |text: &str| {
        let masked = redact(text, secrets.iter().map(ExposeSecret::expose_secret));
        cut(masked.trim(), MAX_DETAIL).to_owned()
    };
    match prepared.http.send(prepared.request, timeout, MAX_ANSWER).await {
        Ok(answer) => {
            let success = answer.status.is_success();
            let retry_after =
                answer.headers.get(RETRY_AFTER).and_then(|v| v.to_str().ok()).map(ToOwned::to_owned);
            let detail =
                (!success && !answer.body.is_empty()).then(|| shown(&String::from_utf8_lossy(&answer.body)));
            Sent::Answer { status: answer.status.as_u16(), retry_after, detail }
        }
        Err(error) => {
            let (reason, detail) = ((&error).into(), shown(&error.to_string()));
            match error {
                SendError::EgressDenied(_) => Sent::Hopeless { reason, detail },
                _ => Sent::Failed { reason, detail },
            }
        }
    }
}

async fn prepare(
    http: &HttpClient,
    cluster: &dyn Cluster,
    hook: &Hook,
    webhook: &Webhook,
    pending: &Pending,
    now: Millis,
) -> Result<Prepared, Unprepared> {
    let http = match &webhook.tls {
        None => http.clone(),
        Some(tls) => {
            let options = tls_options(cluster, &hook.namespace, tls).await.map_err(Unprepared::Missing)?;
            http.with(&options).map_err(|e| Unprepared::Unusable(e.to_string()))?
        }
    };
    let mut secrets = Vec::new();
    let url = url(cluster, hook, webhook, &mut secrets).await?;
    let (body, content_type) = match webhook.format {
        Format::Kong => (pending.event.to_kong(), "application/json"),
        Format::CloudEvents => (pending.event.to_cloudevent(), "application/cloudevents+json; charset=utf-8"),
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    for (name, value) in &webhook.headers {
        set(&mut headers, name, value, false)?;
    }
    for from in &webhook.headers_from {
        let value =
            secret_text(cluster, &hook.namespace, &from.secret_ref).await.map_err(Unprepared::Missing)?;
        set(&mut headers, &from.name, value.expose_secret(), true)?;
        secrets.push(value);
    }
    // Ours last: a header of the spec must not pass for a signature.
    set(&mut headers, ID_HEADER, &pending.id.to_string(), false)?;
    set(&mut headers, HOPS_HEADER, &(hops(&pending.event.attributes) + 1).to_string(), false)?;
    if pending.suppressed > 0 {
        set(&mut headers, SUPPRESSED_HEADER, &pending.suppressed.to_string(), false)?;
    }
    if pending.replays > 0 {
        set(&mut headers, REPLAY_HEADER, &pending.replays.to_string(), false)?;
    }
    if let Some(signature) = &webhook.signature {
        let secret = secret_text(cluster, &hook.namespace, &signature.secret_ref)
            .await
            .map_err(Unprepared::Missing)?;
        sign_into(&mut headers, signature, &secret, pending, &body, now)?;
        secrets.extend(sign::secret_lines(secret.expose_secret()).into_iter().map(SecretString::from));
    }
    let mut request = Request::post(url.as_str())
        .body(Full::from(body))
        .map_err(|_| Unprepared::Unusable("the URL cannot be used in a request".into()))?;
    *request.headers_mut() = headers;
    Ok(Prepared { http, request, secrets })
}

async fn url(
    cluster: &dyn Cluster,
    hook: &Hook,
    webhook: &Webhook,
    secrets: &mut Vec<SecretString>,
) -> Result<Url, Unprepared> {
    let reference = match &webhook.target {
        Target::Url(address) => return Ok(address.url.clone()),
        Target::Secret(reference) => reference,
    };
    let text = secret_text(cluster, &hook.namespace, reference).await.map_err(Unprepared::Missing)?;
    let url = hook::parse_url(text.expose_secret()).map_err(|problem| {
        Unprepared::Unusable(format!("key {} of Secret {} {problem}", reference.key, reference.name))
    })?;
    // The host too: errors name it, and it is as secret as the rest.
    secrets.push(SecretString::from(url.host_str().unwrap_or_default()));
    secrets.push(SecretString::from(url.path()));
    secrets.push(text);
    Ok(url)
}

fn sign_into(
    headers: &mut HeaderMap,
    signature: &Signature,
    secret: &SecretString,
    pending: &Pending,
    body: &[u8],
    now: Millis,
) -> Result<(), Unprepared> {
    let secrets = sign::secret_lines(secret.expose_secret());
    match signature.scheme {
        SignatureScheme::Kong => {
            let first = secrets.first().copied().unwrap_or_default();
            let value = sign::kong_signature(first.as_bytes(), signature.algorithm, signature.encoding, body);
            set(headers, sign::KONG_HEADER, &value, false)
        }
        SignatureScheme::StandardWebhooks => {
            let seconds = now.0.div_euclid(1000);
            let value = sign::standard_webhooks_signature(&secrets, &pending.id.to_string(), seconds, body)
                .map_err(|e| {
                Unprepared::Unusable(format!("Secret {}: {e}", signature.secret_ref.name))
            })?;
            set(headers, TIMESTAMP_HEADER, &seconds.to_string(), false)?;
            set(headers, SIGNATURE_HEADER, &value, false)
        }
    }
}

fn set(headers: &mut HeaderMap, name: &str, value: &str, secret: bool) -> Result<(), Unprepared> {
    let unusable =
        || Unprepared::Unusable(format!("header {name} cannot be sent: its name or value is not allowed"));
    let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| unusable())?;
    let mut value = HeaderValue::from_str(value).map_err(|_| unusable())?;
    value.set_sensitive(secret);
    headers.insert(key, value);
    Ok(())
}
