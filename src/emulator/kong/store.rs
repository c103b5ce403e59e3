//! The hooks, in memory and, where asked, in a file.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::error::ApiError;
use super::validate::Fields;
use crate::emulator::Error;
use crate::emulator::state::Kept;

/// More hooks than this are refused.
const MAX_HOOKS: usize = 20_000;

/// One hook. No `Debug`: it holds the secret.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Hook {
    pub id: Uuid,
    pub workspace: String,
    pub created_at: i64,
    pub updated_at: i64,
    #[serde(flatten)]
    pub fields: Fields,
    /// Reads do not see it before (fault `lagMs`).
    #[serde(skip)]
    pub visible_at: Option<Instant>,
}

impl Hook {
    /// The object as Kong shows it: what is not set is null.
    pub fn shown(&self, with_updated_at: bool) -> Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        if let Some(object) = value.as_object_mut() {
            object.remove("workspace");
            if !with_updated_at {
                object.remove("updated_at");
            }
        }
        value
    }

    fn visible(&self) -> bool {
        self.visible_at.is_none_or(|at| Instant::now() >= at)
    }
}

/// The hooks by id; a list of them in the state file.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(from = "File", into = "File")]
struct Hooks(BTreeMap<Uuid, Hook>);

#[derive(Serialize, Deserialize)]
struct File {
    hooks: Vec<Hook>,
}

impl From<File> for Hooks {
    fn from(file: File) -> Hooks {
        Hooks(file.hooks.into_iter().map(|hook| (hook.id, hook)).collect())
    }
}

impl From<Hooks> for File {
    fn from(hooks: Hooks) -> File {
        File { hooks: hooks.0.into_values().collect() }
    }
}

pub(super) struct Store(Kept<Hooks>);

impl Store {
    /// Reads the state file, if there is one already.
    pub fn open(file: Option<PathBuf>) -> Result<Store, Error> {
        Kept::open(file).map(Store)
    }

    /// Every hook with its workspace.
    pub fn all(&self) -> Vec<Hook> {
        self.0.read(|hooks| hooks.0.values().cloned().collect())
    }

    /// What a read of one hook sees.
    pub fn read(&self, workspace: &str, id: Uuid) -> Option<Hook> {
        self.find(workspace, id).filter(Hook::visible)
    }

    /// The hook itself, lag or not.
    pub fn find(&self, workspace: &str, id: Uuid) -> Option<Hook> {
        self.0.read(|hooks| hooks.0.get(&id).filter(|hook| hook.workspace == workspace).cloned())
    }

    /// A page of a workspace's hooks by id, and whether more follow.
    pub fn page(&self, workspace: &str, after: Option<Uuid>, size: usize) -> (Vec<Hook>, bool) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut page: Vec<Hook> = self.0.read(|hooks| {
            let hooks = hooks.0.range((from, Bound::Unbounded)).map(|(_, hook)| hook);
            let here = hooks.filter(|hook| hook.workspace == workspace && hook.visible());
            here.take(size.saturating_add(1)).cloned().collect()
        });
        let more = page.len() > size;
        page.truncate(size);
        (page, more)
    }

    /// The hooks of every workspace that an event goes to; one without an event takes every event of its source.
    pub fn matching(&self, source: &str, event: &str) -> Vec<Hook> {
        let hit = |hook: &&Hook| {
            hook.fields.source == source && hook.fields.event.as_deref().is_none_or(|name| name == event)
        };
        self.0.read(|hooks| hooks.0.values().filter(hit).cloned().collect())
    }

    /// Adds a hook whose id is free.
    pub fn insert(&self, hook: Hook) -> Result<(), ApiError> {
        self.0.change(|Hooks(hooks)| {
            if hooks.contains_key(&hook.id) {
                return Err(ApiError::primary_key_violation(hook.id));
            }
            if hooks.len() >= MAX_HOOKS {
                return Err(ApiError::unexpected());
            }
            hooks.insert(hook.id, hook);
            Ok(())
        })
    }

    /// Changes a hook of this workspace, or says that there is none.
    pub fn update(
        &self,
        workspace: &str,
        id: Uuid,
        change: impl FnOnce(&Hook) -> Result<Hook, ApiError>,
    ) -> Result<Option<Hook>, ApiError> {
        self.0.change(|Hooks(hooks)| {
            let Some(hook) = hooks.get_mut(&id).filter(|hook| hook.workspace == workspace) else {
                return Ok(None);
            };
            *hook = change(hook)?;
            Ok(Some(hook.clone()))
        })
    }

    /// Whether there was such a hook.
    pub fn remove(&self, workspace: &str, id: Uuid) -> Result<bool, ApiError> {
        self.0.change(|Hooks(hooks)| {
            let here = hooks.get(&id).is_some_and(|hook| hook.workspace == workspace);
            if here {
                hooks.remove(&id);
            }
            Ok(here)
        })
    }
}
