//! Reads counters from the text of /metrics, and names the counters that several tests read.

pub const FINISHED: &str = "hookstream_deliveries_finished";

pub const INGESTED: &str = "hookstream_ingest_requests";

pub const ATTEMPTS: &str = "hookstream_delivery_attempts";

pub const DEAD: &str = r#"state="dead""#;

pub const DELIVERED: &str = r#"state="delivered""#;

/// Returns the sum of a counter over the series that have all of `labels`.
pub fn count(metrics: &str, name: &str, labels: &[&str]) -> u64 {
    metrics
        .lines()
        .filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| ["_total{", "_total "].iter().any(|suffix| rest.starts_with(suffix)))
        })
        .filter(|line| labels.iter().all(|label| line.contains(label)))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}
