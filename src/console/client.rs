//! Sends requests to the API within the process, with the user's token.

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt, Limited};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tower_service::Service;

use super::path::Path;
use super::problem::Problem;
use crate::worker::AcceptsOlderCounts;

/// The largest response of the API that a page reads, in bytes.
const MAX_RESPONSE: usize = 64 << 20;

/// A client of the API for one user.
#[derive(Clone)]
pub struct ApiClient {
    router: Router,
    /// None: the port accepts clients without a token.
    token: Option<SecretString>,
}

impl ApiClient {
    pub fn new(router: Router, token: Option<SecretString>) -> Self {
        ApiClient { router, token }
    }

    /// Reads a resource.
    pub async fn get<T: DeserializeOwned>(&self, path: &Path) -> Result<T, Problem> {
        parse(&self.send(Method::GET, path, Body::empty()).await?)
    }

    /// Reads a resource with its payload, or without it if the user may not read that. Returns whether it may.
    pub async fn get_with_payload<T: DeserializeOwned>(&self, path: &Path) -> Result<(T, bool), Problem> {
        match self.get(&path.clone().query("payload", "true")).await {
            Ok(found) => Ok((found, true)),
            Err(problem) if problem.is_forbidden() => self.get(path).await.map(|found| (found, false)),
            Err(problem) => Err(problem),
        }
    }

    /// Reads a resource as the API answers it.
    pub async fn get_bytes(&self, path: &Path) -> Result<Vec<u8>, Problem> {
        self.send(Method::GET, path, Body::empty()).await
    }

    /// Requests a change.
    pub async fn post<T: DeserializeOwned>(&self, path: &Path, body: &impl Serialize) -> Result<T, Problem> {
        let body = serde_json::to_vec(body).map_err(|error| unreadable(&error.to_string()))?;
        parse(&self.send(Method::POST, path, Body::from(body)).await?)
    }

    async fn send(&self, method: Method, path: &Path, body: Body) -> Result<Vec<u8>, Problem> {
        // Without a Host: the request comes from no browser.
        let mut request = Request::builder()
            .method(method)
            .uri(path.to_string())
            .header(CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|_| Problem::new(400, "BadPath", "the address has parts that no request can have"))?;
        request.extensions_mut().insert(AcceptsOlderCounts);
        if let Some(token) = &self.token {
            let mut value =
                HeaderValue::try_from(format!("Bearer {}", token.expose_secret())).map_err(|_| {
                    Problem::new(401, "Unauthenticated", "the token has characters that no token has")
                })?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let response: Response = match self.router.clone().call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_RESPONSE).collect().await;
        let body = body.map_err(|error| unreadable(&error.to_string()))?.to_bytes().to_vec();
        if status.is_success() { Ok(body) } else { Err(Problem::parse(status.as_u16(), &body)) }
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| unreadable(&error.to_string()))
}

fn unreadable(why: &str) -> Problem {
    Problem::new(500, "UnreadableResponse", format!("the API's response cannot be read: {why}"))
}
