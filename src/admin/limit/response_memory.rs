//! Bounds the memory of all responses of admin APIs together. The limit of one response alone does not: many hosts may
//! answer at once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::admin::AdminError;
use crate::memory::{MemoryPool, Reservation};
use crate::net::HttpResponse;

/// The first bytes of each response, which are not counted: the calls in flight bound them, and most responses are
/// smaller.
const UNCOUNTED: usize = 16 << 10;
/// When a call that found no memory is repeated.
const RETRY: Duration = Duration::from_secs(2);

/// The memory of one response.
pub struct ResponseMemory<'a> {
    pool: &'a Arc<MemoryPool>,
    /// The Connection's namespace, by which the memory is divided.
    namespace: Arc<str>,
    reserved: Option<Reservation>,
    was_full: bool,
}

/// The bytes of a body, with the memory that is reserved for them.
struct CountedBody {
    bytes: Bytes,
    _reserved: Reservation,
}

impl AsRef<[u8]> for CountedBody {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<'a> ResponseMemory<'a> {
    /// `connection`: namespace and name.
    pub fn new(pool: &'a Arc<MemoryPool>, connection: &str) -> Self {
        let namespace = connection.split('/').next().unwrap_or_default().into();
        ResponseMemory { pool, namespace, reserved: None, was_full: false }
    }

    /// Reserves memory for a response that has reached this length. False: there is none.
    pub fn may_hold(&mut self, length: usize) -> bool {
        if length <= UNCOUNTED {
            return true;
        }
        let bytes = length as u64;
        let result = match &mut self.reserved {
            Some(reserved) => reserved.try_grow_to(bytes),
            None => self.pool.try_reserve(&self.namespace, bytes).map(|new| self.reserved = Some(new)),
        };
        self.was_full |= result.is_err();
        result.is_ok()
    }

    /// Keeps the memory reserved until the response's body is dropped. Fails with `Postponed` if the response was cut off
    /// because there was no memory.
    pub fn attach(self, response: HttpResponse) -> Result<HttpResponse, AdminError> {
        if self.was_full {
            return Err(AdminError::Postponed(RETRY));
        }
        let Some(reserved) = self.reserved else { return Ok(response) };
        let body = Bytes::from_owner(CountedBody { bytes: response.body, _reserved: reserved });
        Ok(HttpResponse { body, ..response })
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::metrics::MemoryShareMetrics;

    #[test]
    fn all_responses_together_are_bounded() {
        let metrics = MemoryShareMetrics::default();
        let pool = Arc::new(MemoryPool::new(1 << 20, metrics.clone()));
        let response = || HttpResponse {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Bytes::from_static(b"[]"),
            complete: true,
        };
        let mut first = ResponseMemory::new(&pool, "a/kong");
        assert!(first.may_hold(UNCOUNTED) && first.may_hold(300 << 10) && first.may_hold(600 << 10));
        let kept = first.attach(response()).unwrap();
        assert_eq!(
            (&kept.body[..], metrics.used()),
            (&b"[]"[..], 600 << 10),
            "reserved while the body exists"
        );
        let mut second = ResponseMemory::new(&pool, "a/other");
        assert!(second.may_hold(UNCOUNTED), "small responses always fit");
        assert!(!second.may_hold(500 << 10));
        assert!(matches!(second.attach(response()), Err(AdminError::Postponed(_))));
        let mut other = ResponseMemory::new(&pool, "b/kong");
        assert!(other.may_hold(300 << 10), "another namespace has its own part");
        drop((kept, other));
        assert_eq!(metrics.used(), 0);
    }
}
