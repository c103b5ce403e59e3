//! Divides a limit fairly between namespaces.

/// Returns the most bytes that a namespace may have, so that all together have no more than the limit: what the small ones
/// leave is divided between the large ones. None: all are within the limit.
pub(super) fn largest_share(mut totals: Vec<u64>, limit: u64) -> Option<u64> {
    totals.sort_unstable();
    let (mut remaining, mut namespaces) = (limit, u64::try_from(totals.len()).unwrap_or(u64::MAX));
    for total in totals {
        let share = remaining / namespaces.max(1);
        if total > share {
            return Some(share);
        }
        remaining -= total;
        namespaces -= 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_namespaces_share_what_small_ones_leave() {
        for (totals, limit, share) in [
            (vec![], 0, None),
            (vec![10, 20], 30, None),
            (vec![10, 21], 30, Some(20)),
            (vec![5, 100, 100], 45, Some(20)),
            (vec![100, 100], 0, Some(0)),
        ] {
            assert_eq!(largest_share(totals.clone(), limit), share, "{totals:?}");
        }
    }
}
