//! Why a hook's deliveries are held.

use crate::worker::hooks::HookState;

/// Why a hook sends nothing, other than a failing receiver: paused, invalid, deleted, gone, or something that it needs
/// is missing (a Secret, the sandbox). While a hook is held, its deliveries do not age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    pub reason: &'static str,
    pub message: String,
}

impl Hold {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Hold { reason, message: message.into() }
    }
}

/// The generation and `resume` token under which the receiver answered 410. A change of either ends the hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoneMark {
    generation: Option<i64>,
    resume: Option<String>,
}

impl GoneMark {
    pub fn of(hook: &HookState) -> Self {
        GoneMark { generation: hook.generation, resume: hook.resume.clone() }
    }
}
