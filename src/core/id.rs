//! Generates the ids of events, deliveries and Kong's hooks.

use uuid::Uuid;

use super::time::Millis;

/// Generates a unique id (UUIDv7). The id is not unpredictable: do not use it as a secret.
///
/// Uses a generator in this process, to avoid two system calls for each event.
pub fn generate(now: Millis) -> Uuid {
    let mut random = [0; 10];
    fastrand::fill(&mut random);
    uuid::Builder::from_unix_timestamp_millis(u64::try_from(now.0).unwrap_or(0), &random).into_uuid()
}

/// The namespace of the UUIDs that derive from uids. With a derived id, a create that got no response can be repeated
/// safely.
const KONG_ID_NAMESPACE: Uuid = Uuid::from_u128(0x6861_6f6b_7374_7265_616d_2e64_6576_0002);

/// Returns Kong's id of the hook of the EventHook with this uid.
pub fn kong_id(uid: &str) -> String {
    Uuid::new_v5(&KONG_ID_NAMESPACE, uid.as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_unique_across_threads() {
        let generate_many = || (0..10_000).map(|_| generate(Millis(1_700_000_000_123))).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(generate_many)).collect();
        let all: Vec<Uuid> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 40_000);
        assert!(all.iter().all(|id| id.get_version_num() == 7));
    }

    #[test]
    fn id_of_a_hook_derives_from_the_uid() {
        assert_eq!(kong_id("u"), kong_id("u"));
        assert_ne!(kong_id("u"), kong_id("v"));
        assert!(Uuid::parse_str(&kong_id("u")).is_ok());
    }

    #[test]
    fn ids_ascend_with_time() {
        let ids: Vec<Uuid> =
            [-1, 0, 1, 1_700_000_000_123, 1_700_000_000_124].map(|ms| generate(Millis(ms))).into();
        assert!(ids[1..].is_sorted());
        assert_eq!(ids[3].to_string()[..13], *"018bcfe5-687b");
    }
}
