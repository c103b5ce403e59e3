//! Updates of open pages by server-sent events. While a page is open, its content is rendered again every two seconds with
//! the user's session, and sent when it has changed.
//!
//! Bounded: a number of streams in total and for each user, and a lifetime, after which the browser opens a new one. A
//! stream ends when its session ends or the port closes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::stream;
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HOST, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::Console;
use super::proxied::PROXY_HEADER;
use super::request::{FragmentOnly, PageRequest, local_path};
use super::view;
use crate::core::time::Millis;
use crate::worker::TOKEN_HEADER;

/// The most streams in total. Each occupies a connection of the port.
const MAX_STREAMS: usize = 64;
/// The most streams of one user.
const MAX_OF_USER: usize = 8;
/// How often the content is rendered at most.
const INTERVAL: Duration = Duration::from_secs(2);
/// How often it is rendered at least.
const MAX_INTERVAL: Duration = Duration::from_secs(30);
/// All streams together render for a tenth of the time, so that open pages take no processor from deliveries.
const SHARE: u32 = 10;
/// How long a stream lasts. A proxy may replace its user's token meanwhile.
const MAX_LIFETIME: Duration = Duration::from_secs(300);
/// How often something is sent at least, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The largest content in bytes. A larger one is not updated.
const MAX_CONTENT: usize = 4 << 20;

/// The open streams.
pub struct LiveStreams {
    stop: CancellationToken,
    open: Arc<Mutex<HashMap<Vec<u8>, usize>>>,
}

/// A place among the open streams.
struct Permit {
    open: Arc<Mutex<HashMap<Vec<u8>, usize>>>,
    user: Vec<u8>,
}

impl LiveStreams {
    pub fn new(stop: CancellationToken) -> Self {
        LiveStreams { stop, open: Arc::default() }
    }

    /// Returns a place for a stream of this user. None: there are too many.
    fn acquire(&self, user: Vec<u8>) -> Option<Permit> {
        let mut open = self.open.lock();
        let (total, own) = (open.values().sum::<usize>(), open.get(&user).copied().unwrap_or_default());
        if total >= MAX_STREAMS || own >= MAX_OF_USER {
            return None;
        }
        open.insert(user.clone(), own + 1);
        Some(Permit { open: self.open.clone(), user })
    }
}

impl Permit {
    fn open_streams(&self) -> usize {
        self.open.lock().values().sum()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        if let Some(count) = open.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.user);
            }
        }
    }
}

/// Builds the route. `pages` renders the content.
pub fn routes(pages: Router) -> Router<Arc<Console>> {
    Router::new()
        .route("/console/live", get(move |state, request, all| follow(state, request, all, pages.clone())))
}

async fn follow(
    State(console): State<Arc<Console>>,
    page: PageRequest,
    request: Request,
    pages: Router,
) -> Response {
    let path = local_path(page.query.get("path")).to_owned();
    let headers = session_headers(request.headers());
    let mut renderer = Renderer { pages, path, headers };
    // Before it takes a place: a caller whom the API rejects takes none.
    let started = Instant::now();
    let content = match renderer.render().await {
        Ok(content) => content,
        Err(status) => return (status, "the page is not available").into_response(),
    };
    let render_time = started.elapsed();
    let Some(permit) = console.live.acquire(page.caller.identity()) else {
        return (StatusCode::TOO_MANY_REQUESTS, "too many open pages are updated at the moment")
            .into_response();
    };
    let follower = Follower {
        renderer,
        ends: page.caller.expires(),
        stop: console.live.stop.clone(),
        started,
        // The page may have this content already.
        sent: page.query.get("seen").to_owned(),
        first: Some(content),
        sent_at: Instant::now(),
        is_ended: false,
        render_time,
        permit,
    };
    let events = stream::unfold(follower, |mut follower| async move {
        let bytes = follower.next().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(bytes), follower))
    });
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        // nginx would keep events back.
        (http::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, Body::from_stream(events)).into_response()
}

/// Returns the headers that name the user and the place of the port.
fn session_headers(headers: &HeaderMap) -> HeaderMap {
    let names = [AUTHORIZATION, COOKIE, HOST, http::HeaderName::from_static(TOKEN_HEADER), PROXY_HEADER];
    let mut kept = HeaderMap::new();
    for name in names {
        for value in headers.get_all(&name) {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}

/// Renders a page with its user's session.
struct Renderer {
    pages: Router,
    path: String,
    headers: HeaderMap,
}

impl Renderer {
    /// Renders the content. Fails with the status of a page that is not available to the user.
    async fn render(&mut self) -> Result<String, StatusCode> {
        let failed = StatusCode::INTERNAL_SERVER_ERROR;
        let mut request = Request::builder()
            .method(Method::GET)
            .uri(&self.path)
            .body(Body::empty())
            .map_err(|_| StatusCode::BAD_REQUEST)?;
        *request.headers_mut() = self.headers.clone();
        request.extensions_mut().insert(FragmentOnly);
        let Ok(response) = self.pages.call(request).await;
        let status = response.status();
        if status.is_redirection() {
            // To the log-in.
            return Err(StatusCode::UNAUTHORIZED);
        }
        if !status.is_success() {
            return Err(status);
        }
        let body = Limited::new(response.into_body(), MAX_CONTENT).collect().await.map_err(|_| failed)?;
        String::from_utf8(body.to_bytes().to_vec()).map_err(|_| failed)
    }
}

/// Renders a page until it ends.
struct Follower {
    renderer: Renderer,
    /// When the session ends.
    ends: Option<Millis>,
    stop: CancellationToken,
    started: Instant,
    /// The hash of the content that the browser has.
    sent: String,
    /// The content from before the stream began.
    first: Option<String>,
    sent_at: Instant,
    is_ended: bool,
    /// How long the last rendering took.
    render_time: Duration,
    permit: Permit,
}

impl Follower {
    /// Waits for the next event. None: the stream has ended.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.is_ended || self.started.elapsed() > MAX_LIFETIME {
                return None;
            }
            if let Some(content) = self.first.take() {
                // Something at once, so that the browser learns that the stream is open.
                return Some(self.changed(&content).unwrap_or(Bytes::from_static(b": open\n\n")));
            }
            tokio::select! {
                () = self.stop.cancelled() => return None,
                () = tokio::time::sleep(self.pause()) => {}
            }
            if self.ends.is_some_and(|ends| ends <= Millis::now()) {
                return self.end();
            }
            let started = Instant::now();
            let Ok(content) = self.renderer.render().await else { return self.end() };
            self.render_time = started.elapsed();
            if let Some(event) = self.changed(&content) {
                return Some(event);
            }
            if self.sent_at.elapsed() > KEEP_ALIVE {
                self.sent_at = Instant::now();
                return Some(Bytes::from_static(b": still here\n\n"));
            }
        }
    }

    /// Returns the event of a content that the browser does not have.
    fn changed(&mut self, content: &str) -> Option<Bytes> {
        let hash = view::content_hash(content);
        if self.sent == hash {
            return None;
        }
        self.sent = hash;
        self.sent_at = Instant::now();
        Some(event(content))
    }

    /// Ends the stream for good: the user must reload the page, to log in or to see what is wrong.
    fn end(&mut self) -> Option<Bytes> {
        self.is_ended = true;
        Some(Bytes::from_static(b"event: end\ndata: end\n\n"))
    }

    /// Returns the time to the next rendering: longer, the longer one takes and the more streams are open.
    fn pause(&self) -> Duration {
        let open = u32::try_from(self.permit.open_streams()).unwrap_or(u32::MAX);
        self.render_time.saturating_mul(SHARE.saturating_mul(open)).clamp(INTERVAL, MAX_INTERVAL)
    }
}

/// Formats an event. Each line of its data is a line of the stream.
fn event(content: &str) -> Bytes {
    let mut text = String::with_capacity(content.len() + 64);
    text.push_str("event: content\n");
    for line in content.split('\n') {
        text.push_str("data: ");
        text.push_str(line.trim_end_matches('\r'));
        text.push('\n');
    }
    text.push('\n');
    Bytes::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_bounded_in_total_and_per_user() {
        let streams = LiveStreams::new(CancellationToken::new());
        let mut permits: Vec<_> = (0..MAX_OF_USER).map(|_| streams.acquire(b"a".to_vec()).unwrap()).collect();
        assert!(streams.acquire(b"a".to_vec()).is_none());
        for user in 0..u8::try_from(MAX_STREAMS - MAX_OF_USER).unwrap() {
            permits.push(streams.acquire(vec![user]).unwrap());
        }
        assert!(streams.acquire(b"new".to_vec()).is_none());
        permits.clear();
        assert!(streams.open.lock().is_empty());
        assert!(streams.acquire(b"a".to_vec()).is_some());
    }

    #[test]
    fn content_cannot_end_its_event() {
        let text = event("a\n\nevent: end\r\ndata: x");
        assert_eq!(&text[..], b"event: content\ndata: a\ndata: \ndata: event: end\ndata: data: x\n\n");
    }
}
