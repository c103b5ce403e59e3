//! What the dispatcher is told.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::hold::Hold;
use crate::core::time::Millis;
use crate::worker::store::{Due, HookId, Next, Pending, Seq, StoreError};

/// Tells the dispatcher.
#[derive(Clone)]
pub struct Handle {
    pub(super) commands: mpsc::Sender<Command>,
}

pub(super) enum Command {
    Accepted(Vec<Pending>),
    HookChanged(Arc<str>),
    /// A hook is gone for good, and so is what waited for it.
    Buried(HookId),
    /// The namespace of this name is gone, or is another one now.
    NamespaceEnded(Arc<str>),
    /// Something of the hook became due on disk.
    Wake(Arc<str>),
    /// The same of a hook that may be gone: its name leads to the one that takes it up.
    Raised(HookId),
    /// A delivery was replayed or cancelled; its hook may be gone.
    Changed {
        hook: HookId,
        seq: Seq,
    },
    Loaded {
        uid: Arc<str>,
        found: Result<(Due, Option<Millis>), StoreError>,
    },
    /// The receiver answered, or did not: the hook may send the next.
    Sent {
        uid: Arc<str>,
        came: Came,
    },
    /// No attempt was made: the hook's deliveries wait.
    NotNow {
        uid: Arc<str>,
        seq: Seq,
        missing: Option<Hold>,
    },
    /// The filter fails on an event, which waits for another spec.
    Undecided {
        uid: Arc<str>,
        generation: Option<i64>,
        why: String,
    },
    /// Outcomes are on disk: the deliveries are nobody's.
    Settled(Vec<Settled>),
}

/// A delivery whose outcome was to be noted.
pub(super) struct Settled {
    pub uid: Arc<str>,
    pub seq: Seq,
    /// None: it could not be noted.
    pub next: Option<Next>,
    /// Something else of the hook became due by it.
    pub woken: bool,
}

/// What an attempt tells of the receiver.
pub(super) enum Came {
    /// It is there, and took or refused the delivery.
    Well,
    /// It fails: in these words.
    Badly(String),
    /// It is gone: it wants no more of this hook.
    Gone,
    /// It may not be reached.
    Denied(String),
    /// Nothing: it was not asked.
    Nothing,
}

impl Handle {
    /// Hands over deliveries that were just committed.
    pub async fn accepted(&self, pending: Vec<Pending>) {
        // Closed: the process stops, and the deliveries are on disk.
        if !pending.is_empty() {
            self.commands.send(Command::Accepted(pending)).await.ok();
        }
    }

    /// Something of the hook became due on disk.
    pub async fn wake(&self, uid: Arc<str>) {
        self.commands.send(Command::Wake(uid)).await.ok();
    }

    /// Something of the hook became due on disk. The hook may be gone.
    pub async fn raised(&self, hook: HookId) {
        self.commands.send(Command::Raised(hook)).await.ok();
    }

    /// A delivery was replayed or cancelled. The hook may be gone.
    pub async fn changed(&self, hook: HookId, seq: Seq) {
        self.commands.send(Command::Changed { hook, seq }).await.ok();
    }

    /// The namespace of this name is gone, or is another one now: what waited in the old one is nobody's.
    pub async fn namespace_ended(&self, name: Arc<str>) {
        self.commands.send(Command::NamespaceEnded(name)).await.ok();
    }

    pub async fn hook_changed(&self, uid: Arc<str>) {
        self.commands.send(Command::HookChanged(uid)).await.ok();
    }
}
