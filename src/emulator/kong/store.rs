//! The hooks, in memory and, where asked, in a file.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::ops::Bound;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::error::ApiError;
use super::validate::Fields;
use crate::emulator::Error;

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

type Hooks = BTreeMap<Uuid, Hook>;

pub(super) struct Store {
    hooks: Mutex<Hooks>,
    file: Option<PathBuf>,
}

#[derive(Serialize, Deserialize)]
struct State {
    hooks: Vec<Hook>,
}

impl Store {
    /// Reads the state file, if there is one already.
    pub fn open(file: Option<PathBuf>) -> Result<Store, Error> {
        let mut hooks = Hooks::new();
        if let Some(path) = &file {
            match fs::read(path) {
                Ok(bytes) => {
                    let state: State = serde_json::from_slice(&bytes)
                        .map_err(|source| Error::StateFormat { path: path.clone(), source })?;
                    hooks.extend(state.hooks.into_iter().map(|hook| (hook.id, hook)));
                }
                // Written now, so that a folder that cannot be written to is told at the start.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    save(path, &hooks).map_err(|source| Error::State { path: path.clone(), source })?
                }
                Err(source) => return Err(Error::State { path: path.clone(), source }),
            }
        }
        Ok(Store { hooks: Mutex::new(hooks), file })
    }

    /// What a read of one hook sees.
    pub fn read(&self, workspace: &str, id: Uuid) -> Option<Hook> {
        self.find(workspace, id).filter(Hook::visible)
    }

    /// The hook itself, lag or not.
    pub fn find(&self, workspace: &str, id: Uuid) -> Option<Hook> {
        self.hooks.lock().get(&id).filter(|hook| hook.workspace == workspace).cloned()
    }

    /// A page of a workspace's hooks by id, and whether more follow.
    pub fn page(&self, workspace: &str, after: Option<Uuid>, size: usize) -> (Vec<Hook>, bool) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut page: Vec<Hook> = self
            .hooks
            .lock()
            .range((from, Bound::Unbounded))
            .map(|(_, hook)| hook)
            .filter(|hook| hook.workspace == workspace && hook.visible())
            .take(size.saturating_add(1))
            .cloned()
            .collect();
        let more = page.len() > size;
        page.truncate(size);
        (page, more)
    }

    /// The hooks of every workspace that an event goes to; one without an event takes every event of its source.
    pub fn matching(&self, source: &str, event: &str) -> Vec<Hook> {
        let hit = |hook: &&Hook| {
            hook.fields.source == source && hook.fields.event.as_deref().is_none_or(|name| name == event)
        };
        self.hooks.lock().values().filter(hit).cloned().collect()
    }

    /// Adds a hook whose id is free.
    pub fn insert(&self, hook: Hook) -> Result<(), ApiError> {
        self.change(|hooks| {
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
        self.change(|hooks| {
            let Some(hook) = hooks.get_mut(&id).filter(|hook| hook.workspace == workspace) else {
                return Ok(None);
            };
            *hook = change(hook)?;
            Ok(Some(hook.clone()))
        })
    }

    /// Whether there was such a hook.
    pub fn remove(&self, workspace: &str, id: Uuid) -> Result<bool, ApiError> {
        self.change(|hooks| {
            let here = hooks.get(&id).is_some_and(|hook| hook.workspace == workspace);
            if here {
                hooks.remove(&id);
            }
            Ok(here)
        })
    }

    /// With a state file the change is made to a copy and written before it counts, so that no answer tells of what
    /// a restart would forget. The write blocks this thread: it is small, and only there when asked for.
    fn change<T>(&self, change: impl FnOnce(&mut Hooks) -> Result<T, ApiError>) -> Result<T, ApiError> {
        let mut hooks = self.hooks.lock();
        let Some(path) = &self.file else { return change(&mut hooks) };
        let mut copy = hooks.clone();
        let outcome = change(&mut copy)?;
        save(path, &copy).map_err(|error| {
            tracing::error!(%error, path = %path.display(), "state file not written");
            ApiError::unexpected()
        })?;
        *hooks = copy;
        Ok(outcome)
    }
}

/// Writes beside the file and renames: a crash leaves the old state or the new one. Only its owner may read it, for it
/// holds secrets.
fn save(path: &Path, hooks: &Hooks) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let state = State { hooks: hooks.values().cloned().collect() };
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&beside)?;
    file.write_all(&serde_json::to_vec(&state)?)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}
