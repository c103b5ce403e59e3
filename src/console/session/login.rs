//! Logging in with a token that the user pastes, and logging out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use http::header::{HeaderMap, HeaderValue, SET_COOKIE};
use http::{StatusCode, Uri};
use secrecy::SecretString;

use super::caller::{COOKIE_NAME, Caller, expiry};
use super::login_limit::{Admission, client_address};
use super::origin::check_origin;
use super::seal::{SealError, SealedSession};
use super::{csrf, keys::SessionKeys};
use crate::console::client::ApiClient;
use crate::console::form::{Form, read_form};
use crate::console::problem::Problem;
use crate::console::request::{check_local_access, local_path};
use crate::console::{Console, ROOT, audit, rights, view};
use crate::core::time::Millis;
use crate::net::serve::ClientAddress;

/// How long a session lasts whose token does not say when it expires.
const SESSION: Duration = Duration::from_secs(8 * 3600);
/// The identity of the CSRF token of the form, which has no session yet.
const NO_SESSION: &[u8] = b"login";

/// Builds the routes.
pub fn routes() -> Router<Arc<Console>> {
    Router::new()
        .route("/console/login", get(show).post(log_in))
        .route("/console/logout", post(log_out).get(|| async { Redirect::to(ROOT) }))
}

async fn show(State(console): State<Arc<Console>>, uri: Uri, headers: HeaderMap) -> Response {
    if let Err(problem) = check_local_access(&console, &http::Method::GET, &uri, &headers) {
        return page(&console, None, &next_of(&uri), Some(problem));
    }
    if console.local_access.is_some() {
        return Redirect::to(ROOT).into_response();
    }
    match console.keys.read().await {
        Ok(keys) => page(&console, Some(&keys), &next_of(&uri), None),
        Err(problem) => page(&console, None, &next_of(&uri), Some(problem)),
    }
}

async fn log_in(State(console): State<Arc<Console>>, request: Request) -> Response {
    if console.local_access.is_some() {
        return Redirect::to(ROOT).into_response();
    }
    let client = request.extensions().get::<ClientAddress>().copied();
    let headers = request.headers().clone();
    let form = match read_form(request).await {
        Ok(form) => form,
        Err(problem) => return page(&console, None, ROOT, Some(problem)),
    };
    let next = local_path(form.get("next")).to_owned();
    let keys = match console.keys.read().await {
        Ok(keys) => keys,
        Err(problem) => return page(&console, None, &next, Some(problem)),
    };
    match create_session(&console, &keys, &headers, &form, client).await {
        Ok(cookie) => {
            let mut response = Redirect::to(&next).into_response();
            response.headers_mut().insert(SET_COOKIE, cookie);
            response
        }
        Err(problem) => page(&console, Some(&keys), &next, Some(problem)),
    }
}

/// Checks the token and returns the cookie of its session.
async fn create_session(
    console: &Console,
    keys: &SessionKeys,
    headers: &HeaderMap,
    form: &Form,
    client: Option<ClientAddress>,
) -> Result<HeaderValue, Problem> {
    check_origin(headers)?;
    let now = Millis::now();
    if !csrf::is_valid(form.get("csrf"), keys, NO_SESSION, now) {
        return Err(Problem::form_expired());
    }
    let client = client_address(client, headers, &console.trusted_proxies);
    let shown_client = || client.map_or_else(|| "unknown".to_owned(), |address| address.to_string());
    if let Admission::Refused { is_first } = console.login_limit.admit(client, Instant::now()) {
        let problem =
            Problem::new(429, "TooManyAttempts", "too many attempts to log in: try again in a minute");
        if is_first {
            audit::record_failed_login(&shown_client(), &problem);
        }
        return Err(problem);
    }
    let session = open_session(console, form.get("token"), now).await;
    let session = session.inspect_err(|problem| audit::record_failed_login(&shown_client(), problem))?;
    let sealed = keys.newest().and_then(|key| session.seal(key).map_err(|error| seal_problem(&error)));
    let value = sealed.inspect_err(|problem| audit::record_failed_login(&shown_client(), problem))?;
    let max_age = session.expires.since(now).as_secs();
    audit::record(&Caller::Session(session), "log-in", ROOT, "done");
    cookie(&value, max_age, console.is_tls || is_behind_tls(headers))
}

/// Checks the token and opens its session.
async fn open_session(console: &Console, token: &str, now: Millis) -> Result<SealedSession, Problem> {
    let text = token.trim();
    let text = text.strip_prefix("Bearer ").unwrap_or(text).trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Problem::new(
            400,
            "NoToken",
            "this is no token: paste it whole, without spaces or line ends",
        ));
    }
    let token = SecretString::from(text);
    rights::check_token(&ApiClient::new(console.api.clone(), Some(token.clone()))).await?;
    // A session outlives neither the token nor a working day.
    let expires = expiry(text).map_or(now + SESSION, |at| at.min(now + 3 * SESSION));
    SealedSession::new(token, expires).map_err(|error| seal_problem(&error))
}

async fn log_out(State(console): State<Arc<Console>>, headers: HeaderMap) -> Response {
    // Without a CSRF token: ending the session gives nothing away, and it must work with an expired page.
    if check_origin(&headers).is_err() {
        return Redirect::to(ROOT).into_response();
    }
    let keys = console.keys.read().await.ok();
    if let Some(caller) = Caller::find_session(&headers, keys.as_ref(), Millis::now()) {
        audit::record(&caller, "log-out", ROOT, "done");
    }
    let mut response = Redirect::to("/console/login").into_response();
    if let Ok(cookie) = cookie("", 0, console.is_tls || is_behind_tls(&headers)) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

/// Builds the cookie. Scripts cannot read it, and it is sent below the console's path only.
fn cookie(value: &str, max_age: u64, is_secure: bool) -> Result<HeaderValue, Problem> {
    let secure = if is_secure { "; Secure" } else { "" };
    let text =
        format!("{COOKIE_NAME}={value}; Path={ROOT}; Max-Age={max_age}; HttpOnly; SameSite=Lax{secure}");
    HeaderValue::try_from(text).map_err(|_| Problem::new(500, "Failed", "the cookie cannot be written"))
}

/// True if a proxy says that the browser uses TLS. A client that lies about it harms its own session only.
fn is_behind_tls(headers: &HeaderMap) -> bool {
    headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https")
}

fn seal_problem(error: &SealError) -> Problem {
    Problem::new(if *error == SealError::TooLong { 400 } else { 503 }, "Session", error.to_string())
}

fn next_of(uri: &Uri) -> String {
    let query = Form::parse(uri.query().unwrap_or_default().as_bytes());
    local_path(query.get("next")).to_owned()
}

fn page(console: &Console, keys: Option<&SessionKeys>, next: &str, problem: Option<Problem>) -> Response {
    let token = keys.and_then(|keys| csrf::issue(keys, NO_SESSION, Millis::now())).unwrap_or_default();
    let status = problem.as_ref().map_or(200, |problem| problem.status);
    let html = view::login(&token, next, problem.as_ref(), console.local_access.is_some());
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, view::html_response(html)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookie_is_confined() {
        let text = cookie("v", 60, true).unwrap();
        let text = text.to_str().unwrap();
        assert_eq!(text, "hookstream-console=v; Path=/console/; Max-Age=60; HttpOnly; SameSite=Lax; Secure");
        assert!(!cookie("v", 60, false).unwrap().to_str().unwrap().contains("Secure"));
    }
}
