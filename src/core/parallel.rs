//! Work on many items by several threads.

use std::panic::resume_unwind;
use std::thread;

/// Divides items into equal parts, one for each core, and maps each part on a thread of its own. Returns the results in the
/// order of the items. Fewer than `least` items are not worth another thread. A panic of `map` reaches the caller.
pub fn map_parts<T: Sync, R: Send>(items: &[T], least: usize, map: impl Fn(&[T]) -> Vec<R> + Sync) -> Vec<R> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let size = items.len().div_ceil(threads).max(least).max(1);
    if size >= items.len() {
        return map(items);
    }
    let map = &map;
    thread::scope(|scope| {
        let running: Vec<_> = items.chunks(size).map(|part| scope.spawn(move || map(part))).collect();
        let results = running.into_iter().map(|thread| match thread.join() {
            Ok(results) => results,
            Err(panic) => resume_unwind(panic),
        });
        results.flatten().collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_have_the_order_of_the_items() {
        for count in [0, 1, 7, 1000] {
            let items: Vec<usize> = (0..count).collect();
            for least in [1, 3, 2000] {
                let doubled = map_parts(&items, least, |part| part.iter().map(|item| 2 * item).collect());
                assert_eq!(doubled, items.iter().map(|item| 2 * item).collect::<Vec<_>>(), "{count} {least}");
            }
        }
    }

    #[test]
    fn panic_reaches_the_caller() {
        let failed = std::panic::catch_unwind(|| {
            map_parts(&[1, 2, 3, 4], 1, |part| -> Vec<()> { panic!("{part:?}") })
        });
        assert!(failed.is_err());
    }
}
