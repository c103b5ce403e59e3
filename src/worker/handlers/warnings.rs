//! Warnings about hooks that work and are unwise. Each one is logged once for each hook, and not at every attempt.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::core::hook::CompiledHook;

/// Maximum hooks that are remembered. Further ones are not warned about, so that no tenant can fill the log.
const MAX_HOOKS: usize = 10_000;

/// The hooks that were warned about, by uid.
#[derive(Default)]
pub struct Warnings {
    short_secrets: Mutex<HashSet<Arc<str>>>,
}

impl Warnings {
    /// Warns that a signing secret is shorter than Standard Webhooks recommends.
    pub fn short_secret(&self, hook: &CompiledHook, secret: &str) {
        if self.is_new(&hook.uid) {
            tracing::warn!(
                namespace = %hook.namespace, hook = %hook.name, secret,
                "signing secret has fewer than 24 bytes, which may be guessed: replace it with a longer one"
            );
        }
    }

    fn is_new(&self, uid: &Arc<str>) -> bool {
        let mut hooks = self.short_secrets.lock();
        hooks.len() < MAX_HOOKS && hooks.insert(uid.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warns_once_for_each_hook_and_not_without_end() {
        let warnings = Warnings::default();
        let is_new = |n: usize| warnings.is_new(&Arc::from(n.to_string()));
        assert!(is_new(0) && !is_new(0) && is_new(1));
        let warned = (0..2 * MAX_HOOKS).filter(|n| is_new(*n)).count();
        assert_eq!(warned, MAX_HOOKS - 2);
    }
}
