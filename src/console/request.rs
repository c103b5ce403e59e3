//! A request to a page: its user, its namespace, its parameters, and the response.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Path as UrlPath, Request};
use axum::response::{IntoResponse, Redirect, Response};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, Uri};

use super::client::ApiClient;
use super::form::{Form, read_form};
use super::path::Path;
use super::problem::Problem;
use super::proxied::PROXY_HEADER;
use super::rights::Rights;
use super::session::{Caller, SessionKeys, check_origin, is_valid_csrf_token, issue_csrf_token};
use super::view::{self, Page, Shell};
use super::{Console, ROOT};
use crate::core::names::is_namespace;
use crate::core::time::Millis;
use crate::net::request_id;

/// CSRF tokens are issued at full hours, so that a page that did not change is rendered the same.
const CSRF_GRANULARITY: Duration = Duration::from_secs(3600);

/// A request extension of requests from `live`: only the live part of a page is rendered.
#[derive(Clone, Copy)]
pub struct FragmentOnly;

/// The namespace that a page shows. None: all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scope(Option<String>);

impl Scope {
    pub fn of(namespace: &str) -> Self {
        Scope(Some(namespace.to_owned()).filter(|name| !name.is_empty()))
    }

    pub fn namespace(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// Returns the path of a page of this scope; with an empty name, that of the overview. A name may have several segments.
    pub fn page(&self, name: &str) -> Path {
        let root = match &self.0 {
            None => Path::new(ROOT),
            Some(namespace) => Path::new("/console/namespaces").segment(namespace),
        };
        name.split('/').filter(|segment| !segment.is_empty()).fold(root, Path::segment)
    }

    /// Returns the path of an event's page. The id is a parameter, because some proxies decode slashes in paths.
    pub fn event(&self, id: &str) -> Path {
        self.page("event").query("id", id)
    }

    /// Returns the path of a resource of the API in this scope.
    pub fn api(&self, name: &str) -> Path {
        match &self.0 {
            None => Path::new("/v1").segment(name),
            Some(namespace) => Path::new("/v1/namespaces").segment(namespace).segment(name),
        }
    }
}

/// A request of a user who has a token, or needs none.
pub struct PageRequest {
    pub console: Arc<Console>,
    pub caller: Caller,
    pub api: ApiClient,
    pub scope: Scope,
    pub query: Form,
    parameters: BTreeMap<String, String>,
    method: Method,
    /// The path and the query of the page.
    pub address: String,
    csrf: String,
    /// The token of the loopback proxy, which performs changes of objects with the user's kubeconfig.
    pub proxy_token: Option<String>,
    is_fragment: bool,
}

impl FromRequestParts<Arc<Console>> for PageRequest {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, console: &Arc<Console>) -> Result<Self, Response> {
        let address = parts.uri.path_and_query().map_or(ROOT, http::uri::PathAndQuery::as_str).to_owned();
        let fail = |problem: &Problem| problem_response(&Shell::anonymous(&address), problem);
        check_local_access(console, &parts.method, &parts.uri, &parts.headers)
            .map_err(|problem| fail(&problem))?;
        let parameters = UrlPath::<BTreeMap<String, String>>::from_request_parts(parts, console).await;
        let parameters = parameters.map(|UrlPath(found)| found).unwrap_or_default();
        let keys = console.keys.read().await;
        let now = Millis::now();
        let is_local = console.local_access.is_some();
        let caller = match Caller::find(&parts.headers, is_local, keys.as_ref().ok(), now) {
            Some(caller) => caller,
            None => match &keys {
                Ok(_) => return Err(login_redirect(&parts.method, &address)),
                // The session may be valid.
                Err(problem) => return Err(fail(problem)),
            },
        };
        let namespace = parameters.get("namespace").map_or("", String::as_str);
        if !namespace.is_empty() && !is_namespace(namespace) {
            return Err(fail(&Problem::not_found("the address has no valid name of a namespace")));
        }
        let csrf = keys.ok().and_then(|keys| issue_token(&keys, &caller, now)).unwrap_or_default();
        let proxy_token = parts.headers.get(PROXY_HEADER).and_then(|value| value.to_str().ok());
        let request = PageRequest {
            api: ApiClient::new(console.api.clone(), caller.token()),
            scope: Scope::of(namespace),
            console: console.clone(),
            caller,
            query: Form::parse(parts.uri.query().unwrap_or_default().as_bytes()),
            parameters,
            csrf,
            proxy_token: proxy_token.filter(|token| is_proxy_token(token)).map(str::to_owned),
            is_fragment: parts.extensions.get::<FragmentOnly>().is_some(),
            method: parts.method.clone(),
            address,
        };
        // Not every page asks the API. Without this, a made-up token would get forms, live updates and lines in the audit log.
        match Rights::check(&request).await {
            Ok(()) => Ok(request),
            Err(problem) => Err(request.respond(Err(problem))),
        }
    }
}

impl PageRequest {
    /// Returns a part of the path; an empty text if the route has none of this name.
    pub fn parameter(&self, name: &str) -> &str {
        self.parameters.get(name).map_or("", String::as_str)
    }

    /// Returns the CSRF token for the forms of the page.
    pub fn csrf(&self) -> &str {
        &self.csrf
    }

    /// Responds with a page, or with its problem.
    pub fn respond(&self, page: Result<Page, Problem>) -> Response {
        match page {
            Ok(page) if self.is_fragment => view::html_response(page.main).into_response(),
            Ok(page) => view::html_response(view::document(&page, &self.shell())).into_response(),
            // The token has expired, or was revoked.
            Err(problem) if problem.is_unauthenticated() && matches!(self.caller, Caller::Session(_)) => {
                login_redirect(&self.method, &self.address)
            }
            Err(problem) => problem_response(&self.shell(), &problem),
        }
    }

    /// Responds with a redirect to a page, or with a problem.
    pub fn redirect(&self, target: Result<Path, Problem>) -> Response {
        match target {
            Ok(path) => Redirect::to(&path.to_string()).into_response(),
            Err(problem) => self.respond(Err(problem)),
        }
    }

    fn shell(&self) -> Shell<'_> {
        Shell {
            scope: self.scope.clone(),
            address: &self.address,
            user: Some(self.caller.name()).filter(|_| !matches!(self.caller, Caller::Local)),
            can_log_out: matches!(self.caller, Caller::Session(_)),
            search: self.query.get("q"),
            done: view::done_message(self.query.get("done")),
        }
    }
}

/// The form of a change, whose CSRF token and origin were checked.
pub struct ChangeRequest {
    pub page: PageRequest,
    pub form: Form,
}

impl FromRequest<Arc<Console>> for ChangeRequest {
    type Rejection = Response;

    async fn from_request(request: Request, console: &Arc<Console>) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let page = PageRequest::from_request_parts(&mut parts, console).await?;
        let checked = async {
            check_origin(&parts.headers)?;
            let form = read_form(Request::from_parts(parts, body)).await?;
            let keys = console.keys.read().await?;
            let token = form.get("csrf");
            if is_valid_csrf_token(token, &keys, &page.caller.identity(), Millis::now()) {
                Ok(form)
            } else {
                Err(Problem::form_expired())
            }
        };
        match checked.await {
            Ok(form) => Ok(ChangeRequest { page, form }),
            Err(problem) => Err(page.respond(Err(problem))),
        }
    }
}

fn issue_token(keys: &SessionKeys, caller: &Caller, now: Millis) -> Option<String> {
    let granularity = i64::try_from(CSRF_GRANULARITY.as_millis()).ok()?;
    let issued = Millis(now.0.saturating_sub(now.0.rem_euclid(granularity)));
    issue_csrf_token(keys, &caller.identity(), issued)
}

/// Checks where a request was sent to, if the port accepts clients without a token.
pub fn check_local_access(
    console: &Console,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<(), Problem> {
    let Some(access) = &console.local_access else { return Ok(()) };
    access
        .check_page(method, uri, headers)
        .map_err(|(status, detail)| Problem::new(status, "HostNotAllowed", detail))
}

/// Returns a path of the console, or its root if the text is something else. A link cannot lead to another site.
pub fn local_path(text: &str) -> &str {
    let path = text.split('?').next().unwrap_or_default();
    let is_local = path.starts_with(ROOT)
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
        && !path.contains("//");
    if is_local { text } else { ROOT }
}

fn login_redirect(method: &Method, address: &str) -> Response {
    // A form cannot be sent again after the log-in.
    let next = if *method == Method::GET { address } else { ROOT };
    Redirect::to(&Path::new("/console/login").query("next", next).to_string()).into_response()
}

fn is_proxy_token(token: &str) -> bool {
    (16..=64).contains(&token.len()) && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
}

fn problem_response(shell: &Shell<'_>, problem: &Problem) -> Response {
    let request_id = request_id::current_id().unwrap_or_default();
    let html = view::problem(shell, problem, &request_id);
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, view::html_response(html)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_the_console_only() {
        for own in ["/console/events?text=a", "/console/namespaces/n/event?id=urn://x"] {
            assert_eq!(local_path(own), own);
        }
        for other in [
            "",
            "//evil.example",
            "/console//evil",
            "https://evil.example/console/",
            "/v1",
            "/console/\\a",
            "/console/ b",
        ] {
            assert_eq!(local_path(other), ROOT, "{other}");
        }
    }

    #[test]
    fn scope_builds_paths() {
        let all = Scope::of("");
        assert_eq!(all.page("").to_string(), "/console/");
        assert_eq!(all.page("events").to_string(), "/console/events");
        assert_eq!(all.api("events").to_string(), "/v1/events");
        let shop = Scope::of("shop");
        assert_eq!(shop.page("").to_string(), "/console/namespaces/shop");
        assert_eq!(shop.event("a/b").to_string(), "/console/namespaces/shop/event?id=a%2Fb");
        assert_eq!(shop.api("events").to_string(), "/v1/namespaces/shop/events");
    }
}
