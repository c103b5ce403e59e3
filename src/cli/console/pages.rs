//! The proxy's own pages: errors in one sentence, and the confirmation of a change.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use http::{HeaderValue, StatusCode};

use crate::console::STYLE;

/// No script, no frames, nothing from elsewhere; the style sheet is the console's.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The path of the style sheet. The worker's own may be that of another version.
pub const STYLE_PATH: &str = "/console/-/style.css";

/// Returns the style sheet.
pub fn style_sheet() -> Response {
    let mut response = protect(STYLE.into_response());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/css; charset=utf-8"));
    response
}

/// Returns the text with the characters escaped that have a meaning in HTML.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Returns a page. `title` is text; `content` is HTML.
pub fn page(status: StatusCode, title: &str, content: &str) -> Response {
    let title = escape(title);
    let body = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title} - Hookstream</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <link rel=\"stylesheet\" href=\"{STYLE_PATH}\"></head>\
         <body><main id=\"main\"><h1>{title}</h1>\n{content}\n</main></body></html>\n"
    );
    let mut response = (status, body).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    protect(response)
}

/// Returns a page with one sentence and a way back.
pub fn message(status: StatusCode, title: &str, sentence: &str) -> Response {
    let sentence = escape(sentence);
    page(status, title, &format!("<p>{sentence}.</p>\n<p><a href=\"/console/\">Open the console</a></p>"))
}

/// Returns a redirect after a request that changed something.
pub fn see_other(location: &str) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    match HeaderValue::from_str(location) {
        Ok(location) => response.headers_mut().insert(LOCATION, location),
        Err(_) => response.headers_mut().insert(LOCATION, HeaderValue::from_static("/console/")),
    };
    protect(response)
}

/// Adds the headers of every page of the proxy. With `no-referrer`, a browser would send no origin with the forms.
fn protect(mut response: Response<Body>) -> Response<Body> {
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "same-origin"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_markup() {
        assert_eq!(escape(r#"<a href='x'>"&"#), "&lt;a href=&#39;x&#39;&gt;&quot;&amp;");
    }
}
