//! What a gateway can do, learned from its answers: not every version documents every verb.
//!
//! To create: PUT to an id of ours, else POST with that id, else POST without one (then the reconciler must find the hook
//! again by a record). To change: PUT, else PATCH, else the reconciler deletes and creates.

use std::sync::atomic::{AtomicBool, Ordering};

use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::call::{Call, Refusal};
use super::hook::normal;
use super::{KongClient, KongHook};
use crate::admin::answer::{parse_object, that_one, unexpected};
use crate::admin::{AdminError, ExternalClient};
use crate::api::Capabilities;

/// What is known so far; all clients of one Connection share it.
#[derive(Debug, Default)]
pub struct Learned {
    known: Mutex<Capabilities>,
    /// Something was learned since somebody asked.
    news: AtomicBool,
}

impl Learned {
    pub fn new(known: Capabilities) -> Self {
        Learned { known: Mutex::new(known), news: AtomicBool::default() }
    }

    pub fn known(&self) -> Capabilities {
        self.known.lock().clone()
    }

    /// True once after something was learned.
    pub fn news(&self) -> bool {
        self.news.swap(false, Ordering::Relaxed)
    }

    fn learn(&self, change: impl FnOnce(&mut Capabilities)) {
        let mut known = self.known.lock();
        let before = known.clone();
        change(&mut known);
        if *known != before {
            self.news.store(true, Ordering::Relaxed);
        }
    }

    fn put(&self, works: bool) {
        self.learn(|known| known.put = Some(works));
    }

    fn client_id(&self, works: bool) {
        self.learn(|known| known.client_id = Some(works));
    }

    fn patch(&self, works: bool) {
        self.learn(|known| known.patch = Some(works));
    }
}

/// The verb is not there. A path that is not there (404) says nothing of the verb: the workspace may be wrong.
fn no_such_verb(refusal: &Refusal) -> bool {
    matches!(refusal.status, Some(405 | 501))
}

impl KongClient {
    fn body(desired: &KongHook, id: Option<&str>) -> Vec<u8> {
        let mut body = serde_json::to_value(desired).unwrap_or_default();
        if let (Some(id), Some(members)) = (id, body.as_object_mut()) {
            members.insert("id".into(), json!(id));
        }
        serde_json::to_vec(&body).unwrap_or_default()
    }

    async fn send(
        &self,
        method: Method,
        path: &[&str],
        desired: &KongHook,
        id: Option<&str>,
    ) -> Result<Value, Refusal> {
        let body = Some(Self::body(desired, id));
        let changes = method != Method::POST;
        let call = Call { path, query: None, body, secrets: desired.secrets() };
        let answer = self.access.call(method, call).await?;
        let hook = normal(parse_object(&answer)?);
        match path.last() {
            Some(id) if changes => Ok(that_one(&answer, id, hook)?),
            // Without an id nobody knows what was made: it is looked for.
            _ if Self::id(&hook).is_none() => {
                Err(unexpected(&answer, "the hook that was made has no id").into())
            }
            _ => Ok(hook),
        }
    }

    /// None: the gateway has no PUT.
    async fn put(&self, id: &str, desired: &KongHook) -> Result<Option<Value>, AdminError> {
        let learned = &self.access.learned;
        if learned.known().put == Some(false) {
            return Ok(None);
        }
        match self.send(Method::PUT, &["event-hooks", id], desired, None).await {
            Ok(hook) => {
                learned.put(true);
                Ok(Some(hook))
            }
            Err(refusal) if no_such_verb(&refusal) => {
                learned.put(false);
                Ok(None)
            }
            Err(refusal) => Err(refusal.error),
        }
    }

    pub(super) async fn make(&self, id: Option<&str>, desired: &KongHook) -> Result<Value, AdminError> {
        let Some(id) = id else {
            return self
                .send(Method::POST, &["event-hooks"], desired, None)
                .await
                .map_err(|refusal| refusal.error);
        };
        if let Some(hook) = self.put(id, desired).await? {
            return Ok(hook);
        }
        let learned = &self.access.learned;
        if learned.known().client_id == Some(false) {
            return Err(AdminError::Unsupported("ids of the operator's making"));
        }
        match self.send(Method::POST, &["event-hooks"], desired, Some(id)).await {
            // A gateway that drops what it does not know made it under an id of its own, which the answer tells.
            Ok(hook) if Self::id(&hook) != Some(id) => {
                learned.client_id(false);
                Ok(hook)
            }
            Ok(hook) => {
                learned.client_id(true);
                Ok(hook)
            }
            Err(refusal) => self.refused_post(id, desired, refusal).await,
        }
    }

    async fn refused_post(
        &self,
        id: &str,
        desired: &KongHook,
        refusal: Refusal,
    ) -> Result<Value, AdminError> {
        /// Kong's numbers.
        const SCHEMA_VIOLATION: i64 = 2;
        const PRIMARY_KEY_VIOLATION: i64 = 3;
        if refusal.code == Some(SCHEMA_VIOLATION) && refusal.names_id {
            self.access.learned.client_id(false);
            return Err(AdminError::Unsupported("ids of the operator's making"));
        }
        // It is there already: a create whose answer was lost, or that reads do not see yet.
        if refusal.code == Some(PRIMARY_KEY_VIOLATION) || refusal.status == Some(409) {
            self.access.learned.client_id(true);
            return match self.update(id, desired, &[]).await {
                Err(AdminError::NotFound(_)) => Err(refusal.error),
                other => other,
            };
        }
        Err(refusal.error)
    }

    pub(super) async fn change(&self, id: &str, desired: &KongHook) -> Result<Value, AdminError> {
        // PUT first: what the spec no longer says falls back to the gateway's default.
        if let Some(hook) = self.put(id, desired).await? {
            return Ok(hook);
        }
        let learned = &self.access.learned;
        if learned.known().patch == Some(false) {
            return Err(AdminError::Unsupported("changing a hook"));
        }
        match self.send(Method::PATCH, &["event-hooks", id], desired, None).await {
            Ok(hook) => {
                learned.patch(true);
                Ok(hook)
            }
            Err(refusal) if no_such_verb(&refusal) => {
                learned.patch(false);
                Err(AdminError::Unsupported("changing a hook"))
            }
            Err(refusal) => Err(refusal.error),
        }
    }
}
