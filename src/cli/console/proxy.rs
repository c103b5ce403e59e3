//! The requests of the browser: checks them, and forwards them or answers them here.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::header::{REFERRER_POLICY, SET_COOKIE};
use http::{HeaderValue, Method, StatusCode};
use http_body_util::BodyExt;
use tokio::sync::Semaphore;

use super::actions::{ACTION_PATH, ConsoleActions, MAX_FORM_BYTES};
use super::gate::{BrowserGate, GateRejection, LINK_PATH};
use super::headers::{is_forwarded, request_headers, to_browser};
use super::pages::{STYLE_PATH, message, see_other, style_sheet};
use super::upstream::{ConsoleUpstream, UpstreamRequest};

/// The largest forwarded body in bytes: an event to test with, and its form.
const MAX_BODY_BYTES: usize = 17 << 20;
/// Requests at a time, event streams included. A browser opens six connections to a host.
const MAX_REQUESTS: usize = 64;

/// The loopback proxy.
pub struct ConsoleProxy {
    pub gate: BrowserGate,
    upstream: ConsoleUpstream,
    actions: ConsoleActions,
    /// The path of the first page.
    start: String,
    slots: Arc<Semaphore>,
}

impl ConsoleProxy {
    pub fn new(gate: BrowserGate, upstream: ConsoleUpstream, actions: ConsoleActions, start: String) -> Self {
        ConsoleProxy { gate, upstream, actions, start, slots: Arc::new(Semaphore::new(MAX_REQUESTS)) }
    }

    /// Builds the router.
    pub fn router(self: Arc<Self>) -> Router {
        Router::new().fallback(handle).with_state(self)
    }

    async fn answer(&self, request: Request) -> Result<Response, Response> {
        let (method, uri) = (request.method(), request.uri());
        self.gate.check_site(method, uri, request.headers()).map_err(rejection)?;
        if uri.path() == LINK_PATH && method == Method::GET {
            return self.open_link(&request).map_err(rejection);
        }
        // The pages of rejected requests have a style too.
        if uri.path() == STYLE_PATH {
            return Ok(style_sheet());
        }
        self.gate.check_session(request.headers()).map_err(rejection)?;
        if matches!(uri.path(), "/" | "/console") {
            return Ok(see_other(&self.start));
        }
        if let Some(action) = uri.path().strip_prefix(ACTION_PATH) {
            if method != Method::POST {
                let sentence = "This page is the result of a button: go back to the page that has it";
                return Err(message(StatusCode::METHOD_NOT_ALLOWED, "Not possible", sentence));
            }
            let action = action.to_owned();
            let form = read_body(request.into_body(), MAX_FORM_BYTES).await?;
            return Ok(self.actions.perform(&action, &form).await);
        }
        if !is_forwarded(uri.path()) {
            let sentence = "hookstream console forwards pages below /console/ only";
            return Err(message(StatusCode::NOT_FOUND, "Not found", sentence));
        }
        self.forward(request).await
    }

    fn open_link(&self, request: &Request) -> Result<Response, GateRejection> {
        let cookie = self.gate.redeem(request.uri(), request.headers(), Instant::now())?;
        let mut response = see_other(&self.start);
        // The link must not reach the next page, although it is spent.
        response.headers_mut().insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        if let Ok(mut cookie) = HeaderValue::from_str(&cookie) {
            cookie.set_sensitive(true);
            response.headers_mut().insert(SET_COOKIE, cookie);
        }
        Ok(response)
    }

    async fn forward(&self, request: Request) -> Result<Response, Response> {
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            let sentence = "Too many requests at a time: close some pages of the console";
            return Err(message(StatusCode::SERVICE_UNAVAILABLE, "Busy", sentence));
        };
        let (parts, body) = request.into_parts();
        let target = parts.uri.path_and_query().map_or("/console/", |target| target.as_str()).to_owned();
        let headers = request_headers(&parts.headers);
        let body = read_body(body, MAX_BODY_BYTES).await?;
        let sent = self.upstream.send(UpstreamRequest { method: parts.method, target, headers, body }).await;
        let response = sent.map_err(|failure| {
            message(StatusCode::BAD_GATEWAY, "The worker does not answer", &failure.message)
        })?;
        let (mut parts, body) = response.into_parts();
        to_browser(&mut parts.headers);
        // The slot is free when the body has ended or the browser is gone.
        let body = Body::new(body.map_frame(move |frame| {
            let _slot = &slot;
            frame
        }));
        Ok(Response::from_parts(parts, body))
    }
}

async fn handle(State(proxy): State<Arc<ConsoleProxy>>, request: Request) -> Response {
    proxy.answer(request).await.unwrap_or_else(|rejected| rejected)
}

fn rejection(rejection: GateRejection) -> Response {
    let status = match rejection {
        GateRejection::Method => StatusCode::METHOD_NOT_ALLOWED,
        _ => StatusCode::FORBIDDEN,
    };
    message(status, "Not open", &rejection.to_string())
}

async fn read_body(body: Body, limit: usize) -> Result<bytes::Bytes, Response> {
    axum::body::to_bytes(body, limit).await.map_err(|_| {
        let sentence = format!("The request has more than {limit} bytes, or ended early");
        message(StatusCode::PAYLOAD_TOO_LARGE, "Too large", &sentence)
    })
}
