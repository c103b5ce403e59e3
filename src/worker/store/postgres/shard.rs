//! The shard of a hook.

use sha2::{Digest, Sha256};

/// The number of shards. Part of the format: the column `hooks.shard` depends on it.
pub(super) const SHARDS: i16 = super::super::SHARDS.cast_signed();

/// Returns the shard of a hook.
pub(super) fn shard_of(hook_uid: &str) -> i16 {
    let [first, ..] = <[u8; 32]>::from(Sha256::digest(hook_uid.as_bytes()));
    i16::from(first) % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Programs of every version must agree.
    #[test]
    fn shard_of_a_hook_never_changes() {
        assert_eq!([shard_of(""), shard_of("uid-x"), shard_of("uid-y")], [227, 19, 139]);
    }
}
