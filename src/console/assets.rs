//! The style sheet, the scripts and the icon, embedded in the program. Their path has a hash of their content, so that
//! browsers keep them for good and use no old one after an update.

use std::sync::LazyLock;

use axum::Router;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use sha2::{Digest, Sha256};

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The style sheet, for pages of the loopback proxy too.
pub const STYLE: &str = include_str!("assets/style.css");

/// Name, media type and content of each asset.
const ASSETS: [(&str, &str, &str); 8] = [
    ("style.css", "text/css; charset=utf-8", STYLE),
    ("icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
    ("console.js", SCRIPT, include_str!("assets/console.js")),
    ("times.js", SCRIPT, include_str!("assets/times.js")),
    ("copy.js", SCRIPT, include_str!("assets/copy.js")),
    ("selection.js", SCRIPT, include_str!("assets/selection.js")),
    ("keys.js", SCRIPT, include_str!("assets/keys.js")),
    ("live.js", SCRIPT, include_str!("assets/live.js")),
];

/// One hash for all: scripts import each other by relative paths.
static HASH: LazyLock<String> = LazyLock::new(|| {
    let mut hasher = Sha256::new();
    for (name, _, content) in ASSETS {
        hasher.update(name);
        hasher.update(content);
    }
    let mut hash = hex::encode(hasher.finalize());
    hash.truncate(16);
    hash
});

/// Returns the path of an asset.
pub fn path(name: &str) -> String {
    format!("/console/assets/{}/{name}", *HASH)
}

/// Builds the route of the assets. They need no user, because everybody has the program.
pub fn routes() -> Router {
    Router::new()
        .route("/console/assets/{hash}/{name}", get(show))
        // For pages that do not know the hash.
        .route("/console/assets/style.css", get(show_style))
}

async fn show_style() -> Response {
    let style = ASSETS.iter().find(|(name, _, _)| *name == "style.css").map_or("", |(_, _, content)| content);
    ([(CONTENT_TYPE, "text/css; charset=utf-8"), (CACHE_CONTROL, "no-cache")], style).into_response()
}

async fn show(Path((hash, name)): Path<(String, String)>) -> Response {
    let found = ASSETS.iter().find(|(found, _, _)| *found == name).filter(|_| hash == *HASH);
    match found {
        Some((_, media_type, content)) => {
            let headers =
                [(CONTENT_TYPE, *media_type), (CACHE_CONTROL, "public, max-age=31536000, immutable")];
            (headers, *content).into_response()
        }
        // A page of another version asks for its own assets, while replicas are updated.
        None => (StatusCode::NOT_FOUND, "no such file in this version").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_import_assets_only() {
        for (name, media_type, content) in ASSETS {
            if media_type != SCRIPT {
                continue;
            }
            for line in content.lines().filter(|line| line.starts_with("import")) {
                let target = line.split(['"', '\'']).nth(1).unwrap();
                let target = target.strip_prefix("./").unwrap();
                assert!(ASSETS.iter().any(|(found, _, _)| *found == target), "{name}: {line}");
            }
            assert!(
                !content.contains("http://") && !content.contains("https://"),
                "{name} loads from elsewhere"
            );
        }
    }
}
