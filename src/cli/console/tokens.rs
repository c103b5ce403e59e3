//! The tokens that the proxy sends to the worker. An issued token is renewed before it expires.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;

use crate::cli::failure::Failure;
use crate::cli::service_token::{IssuedToken, ServiceTokens};
use crate::cli::worker_client::read_token;
use crate::core::time::Millis;

/// The seconds before its end at which a token is renewed: longer than a request takes, and than clocks differ.
const RENEW_BEFORE_SECONDS: i64 = 120;

/// The source of the tokens.
pub enum TokenSource {
    None,
    /// Read for every request, because another program may renew it.
    File(PathBuf),
    /// Issued by the API server. Concurrent requests share one renewal.
    Issued {
        tokens: ServiceTokens,
        current: Mutex<Option<IssuedToken>>,
    },
}

impl TokenSource {
    pub fn issued(tokens: ServiceTokens) -> Self {
        TokenSource::Issued { tokens, current: Mutex::new(None) }
    }

    /// Returns the token to send.
    pub async fn token(&self) -> Result<Option<SecretString>, Failure> {
        let (tokens, current) = match self {
            TokenSource::None => return Ok(None),
            TokenSource::File(path) => return read_token(path).map(Some),
            TokenSource::Issued { tokens, current } => (tokens, current),
        };
        let mut current = current.lock().await;
        let now = Millis::wall().0 / 1000;
        if let Some(issued) = current.as_ref().filter(|issued| !needs_renewal(issued.expires_at, now)) {
            return Ok(Some(issued.token.clone()));
        }
        match tokens.request().await {
            Ok(issued) => Ok(Some(current.insert(issued).token.clone())),
            // While the API server is unavailable, the present token may still be valid.
            Err(failure) => match current.as_ref().filter(|issued| now < issued.expires_at) {
                Some(issued) => Ok(Some(issued.token.clone())),
                None => Err(failure),
            },
        }
    }

    /// Forgets an issued token that the worker rejected. Returns true if another one can be requested.
    pub async fn discard(&self, rejected: &SecretString) -> bool {
        let TokenSource::Issued { current, .. } = self else { return false };
        let mut current = current.lock().await;
        // Another request may have renewed it already.
        if current.as_ref().is_some_and(|issued| issued.token.expose_secret() == rejected.expose_secret()) {
            *current = None;
        }
        true
    }
}

/// `now`, `expires_at`: Unix time in seconds.
fn needs_renewal(expires_at: i64, now: i64) -> bool {
    now >= expires_at.saturating_sub(RENEW_BEFORE_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renews_before_the_end() {
        for (now, expected) in [(0, false), (479, false), (480, true), (599, true), (10_000, true)] {
            assert_eq!(needs_renewal(600, now), expected, "{now}");
        }
    }
}
