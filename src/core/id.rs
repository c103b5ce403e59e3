//! Ids of events and deliveries.

use uuid::Uuid;

use super::time::Millis;

/// An id that nothing else has (UUIDv7). It is no secret: what nobody may guess must not be made of it.
///
/// Its random part is drawn here and not from the kernel, which would be asked twice an event.
pub fn fresh(now: Millis) -> Uuid {
    let mut random = [0; 10];
    fastrand::fill(&mut random);
    uuid::Builder::from_unix_timestamp_millis(u64::try_from(now.0).unwrap_or(0), &random).into_uuid()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_thread_makes_others() {
        let made = || (0..10_000).map(|_| fresh(Millis(1_700_000_000_123))).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(made)).collect();
        let all: Vec<Uuid> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 40_000);
        assert!(all.iter().all(|id| id.get_version_num() == 7));
    }

    #[test]
    fn they_ascend_with_the_time() {
        let ids: Vec<Uuid> =
            [-1, 0, 1, 1_700_000_000_123, 1_700_000_000_124].map(|ms| fresh(Millis(ms))).into();
        assert!(ids[1..].is_sorted());
        assert_eq!(ids[3].to_string()[..13], *"018bcfe5-687b");
    }
}
