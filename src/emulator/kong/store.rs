//! The stored hooks.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::error::ApiError;
use super::validate::HookFields;
use crate::emulator::error::Error;
use crate::emulator::state::PersistentState;

/// The most hooks that the emulator stores.
const MAX_HOOKS: usize = 20_000;

/// A stored hook. No `Debug`, because it holds the secret.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Hook {
    pub id: Uuid,
    pub workspace: String,
    pub created_at: i64,
    pub updated_at: i64,
    #[serde(flatten)]
    pub fields: HookFields,
    /// Reads do not see the hook before this time (fault `lagMs`).
    #[serde(skip)]
    pub visible_at: Option<Instant>,
}

impl Hook {
    /// Returns the object as Kong does: unset fields are null.
    pub fn to_json(&self, with_updated_at: bool) -> Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        if let Some(object) = value.as_object_mut() {
            object.remove("workspace");
            if !with_updated_at {
                object.remove("updated_at");
            }
        }
        value
    }

    /// Whether reads see the hook yet.
    fn is_visible(&self) -> bool {
        self.visible_at.is_none_or(|at| Instant::now() >= at)
    }
}

/// Hooks by id. The state file contains them as a list.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(from = "StateFile", into = "StateFile")]
struct Hooks(BTreeMap<Uuid, Hook>);

#[derive(Serialize, Deserialize)]
struct StateFile {
    hooks: Vec<Hook>,
}

impl From<StateFile> for Hooks {
    fn from(file: StateFile) -> Hooks {
        Hooks(file.hooks.into_iter().map(|hook| (hook.id, hook)).collect())
    }
}

impl From<Hooks> for StateFile {
    fn from(hooks: Hooks) -> StateFile {
        StateFile { hooks: hooks.0.into_values().collect() }
    }
}

/// The hooks of all workspaces.
pub(super) struct HookStore(PersistentState<Hooks>);

impl HookStore {
    /// Loads the hooks from the state file, if one is configured.
    pub fn open(file: Option<PathBuf>) -> Result<HookStore, Error> {
        PersistentState::open(file).map(HookStore)
    }

    /// Returns every hook, including those that reads do not see yet.
    pub fn all(&self) -> Vec<Hook> {
        self.0.read(|hooks| hooks.0.values().cloned().collect())
    }

    /// Returns a hook if reads see it.
    pub fn read(&self, workspace: &str, id: Uuid) -> Option<Hook> {
        self.find(workspace, id).filter(Hook::is_visible)
    }

    /// Returns a hook, even if reads do not see it yet.
    pub fn find(&self, workspace: &str, id: Uuid) -> Option<Hook> {
        self.0.read(|hooks| hooks.0.get(&id).filter(|hook| hook.workspace == workspace).cloned())
    }

    /// Returns up to `size` visible hooks of a workspace in id order, and whether more follow.
    pub fn page(&self, workspace: &str, after: Option<Uuid>, size: usize) -> (Vec<Hook>, bool) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut page: Vec<Hook> = self.0.read(|hooks| {
            let hooks = hooks.0.range((from, Bound::Unbounded)).map(|(_, hook)| hook);
            let visible = hooks.filter(|hook| hook.workspace == workspace && hook.is_visible());
            visible.take(size.saturating_add(1)).cloned().collect()
        });
        let more = page.len() > size;
        page.truncate(size);
        (page, more)
    }

    /// Returns the hooks of all workspaces that match an event. A hook without an event matches every event of its source.
    pub fn matching(&self, source: &str, event: &str) -> Vec<Hook> {
        let matches = |hook: &&Hook| {
            hook.fields.source == source && hook.fields.event.as_deref().is_none_or(|name| name == event)
        };
        self.0.read(|hooks| hooks.0.values().filter(matches).cloned().collect())
    }

    /// Adds a hook. Rejects an id that exists in any workspace.
    pub fn insert(&self, hook: Hook) -> Result<(), ApiError> {
        self.0.update(|Hooks(hooks)| {
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

    /// Replaces a hook of this workspace by the result of `change`. Returns `None` if there is no such hook.
    pub fn update(
        &self,
        workspace: &str,
        id: Uuid,
        change: impl FnOnce(&Hook) -> Result<Hook, ApiError>,
    ) -> Result<Option<Hook>, ApiError> {
        self.0.update(|Hooks(hooks)| {
            let Some(hook) = hooks.get_mut(&id).filter(|hook| hook.workspace == workspace) else {
                return Ok(None);
            };
            *hook = change(hook)?;
            Ok(Some(hook.clone()))
        })
    }

    /// Removes a hook of this workspace. Returns whether it existed.
    pub fn remove(&self, workspace: &str, id: Uuid) -> Result<bool, ApiError> {
        self.0.update(|Hooks(hooks)| {
            let exists = hooks.get(&id).is_some_and(|hook| hook.workspace == workspace);
            if exists {
                hooks.remove(&id);
            }
            Ok(exists)
        })
    }
}
