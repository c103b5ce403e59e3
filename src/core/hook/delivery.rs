//! Delivery settings of a hook.

use std::time::Duration;

use super::{InvalidSpec, invalid};
use crate::api::{DurationText, EventHookSpec, RateLimit};
use crate::core::bucket::Rate;
use crate::core::duration;
use crate::core::retry::RetryPolicy;

/// The longest time of an attempt. The schema rejects a longer one; an object from before that rule is treated as if it had
/// this one, because it should not stop delivering after an upgrade.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(600);

/// How the worker delivers, with defaults applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    pub paused: bool,
    pub timeout: Duration,
    pub concurrency: usize,
    /// `None` means unlimited.
    pub rate: Option<Rate>,
    pub retry: RetryPolicy,
}

/// Validates the delivery settings of a spec.
pub(super) fn parse_delivery(spec: &EventHookSpec) -> Result<Delivery, InvalidSpec> {
    let delivery = spec.delivery.clone().unwrap_or_default();
    let retry = delivery.retry.unwrap_or_default();
    let default = RetryPolicy::default();
    let statuses =
        retry.terminal_statuses.map(|list| list.into_iter().filter_map(|s| u16::try_from(s).ok()).collect());
    let positive = |field, value: Option<i32>| {
        value.map(|v| {
            u32::try_from(v).ok().filter(|v| *v > 0).ok_or_else(|| invalid(field, "must be 1 or more"))
        })
    };
    let retry = RetryPolicy {
        initial_backoff: duration_or(
            "delivery.retry.initialBackoff",
            retry.initial_backoff,
            default.initial_backoff,
        )?,
        max_backoff: duration_or("delivery.retry.maxBackoff", retry.max_backoff, default.max_backoff)?,
        max_age: duration_or("delivery.retry.maxAge", retry.max_age, default.max_age)?,
        max_attempts: positive("delivery.retry.maxAttempts", retry.max_attempts).transpose()?,
        terminal_statuses: statuses.unwrap_or(default.terminal_statuses),
    };
    let concurrency = positive("delivery.concurrency", delivery.concurrency).transpose()?.unwrap_or(8);
    Ok(Delivery {
        paused: delivery.paused.unwrap_or(false),
        timeout: duration_or(
            "delivery.timeout",
            delivery.timeout.map(|timeout| DurationText(timeout.0)),
            Duration::from_secs(15),
        )?
        .min(MAX_TIMEOUT),
        concurrency: concurrency.min(1024) as usize,
        rate: delivery.rate_limit.map(|limit| parse_rate_limit("delivery.rateLimit", &limit)).transpose()?,
        retry,
    })
}

/// Validates a rate limit. `burst` defaults to `requests`, `interval` to one second.
pub fn parse_rate_limit(field: &'static str, limit: &RateLimit) -> Result<Rate, InvalidSpec> {
    let positive = |value: i32| {
        u32::try_from(value)
            .ok()
            .filter(|v| *v > 0)
            .ok_or_else(|| invalid(field, "requests and burst must be 1 or more"))
    };
    let requests = positive(limit.requests)?;
    let interval = duration_or(field, limit.interval.clone(), Duration::from_secs(1))?;
    Ok(Rate { requests, interval, burst: limit.burst.map(positive).transpose()?.unwrap_or(requests) })
}

fn duration_or(
    field: &'static str,
    text: Option<DurationText>,
    default: Duration,
) -> Result<Duration, InvalidSpec> {
    text.map_or(Ok(default), |text| duration::parse(&text.0).map_err(|e| invalid(field, e.to_string())))
}
