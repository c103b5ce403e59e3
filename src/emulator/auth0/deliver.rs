//! Deliveries: one at a time for each stream, tried four times, given up at once for a 4xx.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tokio::time::Instant;

use super::Auth0;
use super::history::{Attempt, Delivery};
use super::stream::{Authorization, Destination, Stream};
use crate::core::time::Millis;
use crate::emulator::{Error, client};

/// The recorded waits between attempts.
const WAITS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// How long a receiver may take is not documented.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// An error's text is cut here, as it was in the recordings.
const MAX_ERROR: usize = 50;

/// An event that waits for its turn.
pub(super) struct Job {
    pub id: String,
    /// Asked for by hand: a disabled stream, too, gets it.
    pub again: bool,
}

/// The clients that deliver.
pub(super) struct Sender {
    plain: reqwest::Client,
    /// Made when first needed: without any authority installed it cannot be made, which only https endpoints mind.
    secure: OnceLock<Result<reqwest::Client, String>>,
}

impl Sender {
    /// `ca`: the only authorities to trust, in PEM; else the system's.
    pub fn new(ca: Option<&[u8]>) -> Result<Sender, Error> {
        let secure = OnceLock::new();
        if let Some(ca) = ca {
            let trusted = reqwest::Certificate::from_pem_bundle(ca)?;
            if trusted.is_empty() {
                return Err(Error::Option("--ca: there is no certificate in PEM in it"));
            }
            let made = client::builder(ANSWER_WITHIN).tls_certs_only(trusted).build()?;
            secure.get_or_init(|| Ok(made));
        }
        let plain = client::builder(ANSWER_WITHIN).tls_certs_only([]).build()?;
        Ok(Sender { plain, secure })
    }

    fn client(&self, url: &str) -> Result<&reqwest::Client, String> {
        if !url.starts_with("https:") {
            return Ok(&self.plain);
        }
        let make = || client::builder(ANSWER_WITHIN).build().map_err(|error| client::chain(&error));
        self.secure.get_or_init(make).as_ref().map_err(Clone::clone)
    }

    /// One request. The error is told in `error_message`, and is final after a 4xx.
    async fn send(&self, target: &Target) -> Result<(), Failure> {
        let Target { endpoint, headers, event } = target;
        let lost = |why: String| Failure { text: format!("Post \"{endpoint}\": {why}"), last: false };
        let mut response = self
            .client(endpoint)
            .map_err(&lost)?
            .post(endpoint)
            .headers(headers.clone())
            .body(event.to_string())
            .send()
            .await
            .map_err(|error| lost(client::chain(&error)))?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        // The beginning of the body is enough, and a body that breaks changes nothing.
        let start = response.chunk().await.ok().flatten().unwrap_or_default();
        let start =
            String::from_utf8_lossy(start.get(..start.len().min(256)).unwrap_or_default()).into_owned();
        Err(Failure { text: format!("{} - {start}", status.as_u16()), last: status.is_client_error() })
    }
}

struct Failure {
    text: String,
    last: bool,
}

impl Failure {
    fn message(&self) -> String {
        let mut cut: String = self.text.chars().take(MAX_ERROR).collect();
        if cut.len() < self.text.len() {
            cut.push_str(" ...");
        }
        cut
    }
}

/// Where an event goes, as the stream is now: a changed endpoint gets what waits.
struct Target {
    endpoint: String,
    headers: HeaderMap,
    event: Arc<Value>,
}

impl Target {
    fn of(stream: &Stream, delivery: &Delivery) -> Option<Target> {
        let Destination::Webhook { endpoint, authorization } = &stream.fields.destination else {
            return None;
        };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // What cannot be a header, or was never set, is left out: the receiver will refuse it.
        if let Some((name, mut value)) = header(authorization) {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Some(Target { endpoint: endpoint.clone(), headers, event: Arc::clone(&delivery.event) })
    }
}

fn header(authorization: &Authorization) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = match authorization {
        Authorization::Basic { username, password } => {
            let pair = format!("{username}:{}", password.as_deref().unwrap_or_default());
            (AUTHORIZATION, format!("Basic {}", STANDARD.encode(pair)))
        }
        Authorization::Bearer { token } => (AUTHORIZATION, format!("Bearer {}", token.as_deref()?)),
        Authorization::CustomHeader { key, value } => (HeaderName::try_from(key).ok()?, value.clone()?),
    };
    Some((name, HeaderValue::try_from(value).ok()?))
}

impl Auth0 {
    /// Puts deliveries of a stream into its queue; each with its size.
    pub fn enqueue(self: &Arc<Self>, stream: &str, jobs: Vec<(String, usize)>, again: bool) {
        for (id, bytes) in jobs {
            let pushed = self.queues.push(stream.to_owned(), Job { id, again }, bytes);
            for dropped in pushed.dropped {
                tracing::warn!(stream, event = dropped.id, "queue is full: the oldest delivery fails");
                self.give_up(stream, &dropped.id);
            }
            if pushed.idle {
                tokio::spawn(Arc::clone(self).drain(stream.to_owned()));
            }
        }
    }

    /// What a state file kept as waiting goes on.
    pub fn resume(self: &Arc<Self>) {
        let waiting: Vec<_> = self.store.read(|state| {
            let of = |stream: &Stream| (stream.id.clone(), stream.history.pending());
            state.streams.values().map(of).collect()
        });
        for (stream, jobs) in waiting {
            self.enqueue(&stream, jobs, true);
        }
    }

    /// Works off one queue, and ends with it.
    async fn drain(self: Arc<Self>, stream: String) {
        let work = async {
            while let Some(job) = self.queues.next(&stream) {
                self.deliver(&stream, &job).await;
            }
        };
        self.stop.run_until_cancelled(work).await;
    }

    async fn deliver(&self, stream: &str, job: &Job) {
        let mut waits = WAITS.iter();
        loop {
            let found = self.store.read(|state| {
                let stream = state.stream(stream)?;
                let target = Target::of(stream, stream.history.get(&job.id)?)?;
                Some((target, stream.fields.enabled || job.again))
            });
            // Deleted since.
            let Some((target, wanted)) = found else { return };
            // Whether Auth0 drops or keeps what waits for a disabled stream is not documented: here it can be asked
            // for again.
            if !wanted {
                return self.give_up(stream, &job.id);
            }
            let (time, began) = (Millis::now(), Instant::now());
            let Err(failure) = self.sender.send(&target).await else {
                tracing::info!(stream, event = job.id, "delivered");
                return self.delivered(stream, &job.id);
            };
            tracing::info!(stream, event = job.id, error = failure.message(), "failed");
            let attempt = Attempt::Failed {
                error_message: failure.message(),
                timestamp: time.rfc3339(),
                duration: began.elapsed().as_secs_f64() * 1000.0,
            };
            self.store.note(|state| {
                let delivery = state.stream_mut(stream).and_then(|s| s.history.get_mut(&job.id));
                if let Some(delivery) = delivery {
                    delivery.attempts.push(attempt);
                }
            });
            match waits.next().filter(|_| !failure.last) {
                Some(wait) => tokio::time::sleep(wait.mul_f64(self.options.time_scale)).await,
                None => return self.give_up(stream, &job.id),
            }
        }
    }

    fn delivered(&self, stream: &str, id: &str) {
        let done = self.store.note(|state| {
            let history = &mut state.stream_mut(stream)?.history;
            let delivery = history.get(id).cloned();
            history.delivered(id, Millis::now());
            delivery
        });
        if let Some(delivery) = done {
            self.ended(stream, &delivery, "delivered");
        }
    }

    /// A delivery failed; its stream is switched off after too many.
    fn give_up(&self, stream: &str, id: &str) {
        let (row, all) = (self.options.disable_after, self.options.disable_after_total);
        let (failed, disabled) = self.store.note(|state| {
            let Some(stream) = state.stream_mut(stream) else { return (None, false) };
            stream.history.failed(id, Millis::now());
            let too_many = stream.history.failed_in_a_row() >= row || stream.history.failed_in_all() >= all;
            let disabled = too_many && stream.fields.enabled;
            if disabled {
                stream.fields.enabled = false;
                stream.updated_at = Millis::now();
            }
            (stream.history.get(id).cloned(), disabled)
        });
        if let Some(delivery) = failed {
            self.ended(stream, &delivery, "failed");
        }
        if disabled {
            tracing::warn!(stream, "disabled, for too many deliveries failed");
            self.store.save();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_cut_as_recorded() {
        let told = |text: &str| Failure { text: text.into(), last: false }.message();
        assert_eq!(told("404 - {\"error\":\"Debug endpoint not found\"}").len(), 42);
        let long = "Post \"https://api.hooklistener.com/w/random-turquoise-mead-xb3v\": EOF";
        assert_eq!(told(long), "Post \"https://api.hooklistener.com/w/random-turquo ...");
        assert_eq!(told(&"é".repeat(60)), format!("{} ...", "é".repeat(50)));
    }

    #[test]
    fn authorizations() {
        let told = |authorization| {
            header(&authorization).map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        };
        let basic = Authorization::Basic { username: "u".into(), password: Some("p".into()) };
        assert_eq!(told(basic).unwrap(), "authorization: Basic dTpw");
        let bearer = Authorization::Bearer { token: Some("t".into()) };
        assert_eq!(told(bearer).unwrap(), "authorization: Bearer t");
        let custom = Authorization::CustomHeader { key: "X-Key".into(), value: Some("v".into()) };
        assert_eq!(told(custom).unwrap(), "x-key: v");
        assert_eq!(told(Authorization::Bearer { token: None }), None);
        assert_eq!(told(Authorization::CustomHeader { key: "x".into(), value: Some("\n".into()) }), None);
    }

    #[test]
    fn a_ca_without_a_certificate_is_refused() {
        rustls::crypto::ring::default_provider().install_default().ok();
        assert!(Sender::new(Some(b"nothing")).is_err());
        assert!(Sender::new(None).is_ok());
    }
}
