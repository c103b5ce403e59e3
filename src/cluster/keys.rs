//! Makes keys for a key ring.

use crate::core::keys::{KEY_LENGTH, KeyRing};
use crate::core::time::Millis;

/// Generates a key and its id. The id is the time, so that the newest key sorts last.
pub fn generate_key() -> Result<(String, [u8; KEY_LENGTH]), getrandom::Error> {
    let mut key = [0; KEY_LENGTH];
    getrandom::fill(&mut key)?;
    Ok((format!("k{:013}", Millis::now().0), key))
}

/// Generates a key ring with one key.
pub fn generate_key_ring() -> Result<KeyRing, getrandom::Error> {
    let (id, key) = generate_key()?;
    Ok(KeyRing::of_key(id, key))
}
