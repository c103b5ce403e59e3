//! Generates the ids of events and deliveries.

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
    fn ids_ascend_with_time() {
        let ids: Vec<Uuid> =
            [-1, 0, 1, 1_700_000_000_123, 1_700_000_000_124].map(|ms| generate(Millis(ms))).into();
        assert!(ids[1..].is_sorted());
        assert_eq!(ids[3].to_string()[..13], *"018bcfe5-687b");
    }
}
