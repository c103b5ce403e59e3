//! Divides the memory budget into shares.

/// What uses memory. The text is the metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::EnumIter, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum MemoryShare {
    /// Bodies of relays whose signature is not checked yet. Small, because anyone can send them.
    UnverifiedBodies,
    /// Bodies of authorized requests, and accepted events until the dispatcher has them.
    Requests,
    /// Deliveries that are ready or in flight, with their responses, and rendered bodies of the size of the event.
    Dispatcher,
    /// The rest of larger rendered headers and bodies.
    Rendered,
    /// Inputs of queued and running scripts.
    Scripts,
    /// Replies of scripts: the message, and the texts in it.
    ScriptReplies,
    /// Responses of admin APIs.
    AdminResponses,
    /// The store's page cache, and its idempotency keys and event ids with their filters.
    Store,
}

/// The largest items that must fit, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemSizes {
    /// `--max-event-bytes`.
    pub event: u64,
    /// `--max-request-bytes`.
    pub request: u64,
    /// What the dispatcher counts for an attempt besides twice the event: headers, and the part of the response that is
    /// read.
    pub attempt: u64,
    /// The largest output of an attempt: rendered headers and body.
    pub rendered: u64,
    /// The largest message of a sandbox process, and the texts in it.
    pub script_reply: u64,
    /// The largest response of an admin API.
    pub admin_response: u64,
}

/// A divided budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    total: u64,
    unverified: u64,
    requests: u64,
    dispatcher: u64,
    rendered: u64,
    scripts: u64,
    script_replies: u64,
    admin: u64,
    store: u64,
}

/// The budget does not fit one item of the maximum size in every share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a budget of {} MiB is too small for events of {event} bytes and requests of {request} bytes: give at least {}MiB, \
     or a smaller --max-request-bytes or --max-event-bytes", .total >> 20, .minimum.div_ceil(1 << 20)
)]
pub struct BudgetTooSmall {
    total: u64,
    minimum: u64,
    event: u64,
    request: u64,
}

/// How many sixteenths of the budget beyond the minimum each share gets. The rest, more than a third, is the dispatcher's.
const UNVERIFIED: u64 = 1;
const REQUESTS: u64 = 3;
const RENDERED: u64 = 1;
const SCRIPTS: u64 = 1;
const SCRIPT_REPLIES: u64 = 1;
const ADMIN: u64 = 1;
const STORE: u64 = 2;
/// More request memory would only make clients wait longer for the commit. The excess goes to the dispatcher.
const MAX_REQUESTS: u64 = 128 << 20;
/// The least memory of the store, and the most that it uses. The excess goes to the dispatcher.
const MIN_STORE: u64 = 4 << 20;
const MAX_STORE: u64 = 160 << 20;

impl ItemSizes {
    /// Returns the smallest shares: one item each, and a second one where one item must not block all others.
    fn minimum(&self) -> Split {
        let request = super::pool::request_cost(self.request.max(self.event));
        let event = super::pool::request_cost(self.event);
        let mut split = Split {
            total: 0,
            unverified: event.saturating_mul(2),
            requests: request,
            dispatcher: self.event.saturating_mul(2).saturating_add(self.attempt).saturating_mul(2),
            rendered: self.rendered,
            // The input contains the event and the texts of the hook's scripts.
            scripts: self.event.saturating_mul(2).saturating_add(4 << 20),
            script_replies: self.script_reply,
            admin: self.admin_response,
            store: MIN_STORE,
        };
        split.total = split.sum();
        split
    }
}

impl Split {
    /// Returns the smallest budget for these items.
    pub fn minimum(sizes: &ItemSizes) -> u64 {
        sizes.minimum().total
    }

    /// Divides a budget: each share gets its minimum, and a part of the rest.
    pub fn new(total: u64, sizes: &ItemSizes) -> Result<Split, BudgetTooSmall> {
        let minimum = sizes.minimum();
        let Some(rest) = total.checked_sub(minimum.total) else {
            let ItemSizes { event, request, .. } = *sizes;
            return Err(BudgetTooSmall { total, minimum: minimum.total, event, request });
        };
        let part = |sixteenths: u64| rest / 16 * sixteenths;
        let mut split = Split {
            total,
            unverified: minimum.unverified + part(UNVERIFIED),
            requests: (minimum.requests + part(REQUESTS)).min(MAX_REQUESTS.max(minimum.requests)),
            dispatcher: 0,
            rendered: minimum.rendered + part(RENDERED),
            scripts: minimum.scripts + part(SCRIPTS),
            script_replies: minimum.script_replies + part(SCRIPT_REPLIES),
            admin: minimum.admin + part(ADMIN),
            store: (minimum.store + part(STORE)).min(MAX_STORE),
        };
        split.dispatcher = total - split.sum();
        Ok(split)
    }

    fn sum(&self) -> u64 {
        let Split {
            total: _,
            unverified,
            requests,
            dispatcher,
            rendered,
            scripts,
            script_replies,
            admin,
            store,
        } = *self;
        [unverified, requests, dispatcher, rendered, scripts, script_replies, admin, store]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// Returns the whole budget.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Returns the bytes of a share.
    pub fn bytes(&self, share: MemoryShare) -> u64 {
        match share {
            MemoryShare::UnverifiedBodies => self.unverified,
            MemoryShare::Requests => self.requests,
            MemoryShare::Dispatcher => self.dispatcher,
            MemoryShare::Rendered => self.rendered,
            MemoryShare::Scripts => self.scripts,
            MemoryShare::ScriptReplies => self.script_replies,
            MemoryShare::AdminResponses => self.admin,
            MemoryShare::Store => self.store,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use strum::IntoEnumIterator;

    use super::*;

    const MIB: u64 = 1 << 20;
    const SIZES: ItemSizes = ItemSizes {
        event: MIB,
        request: 16 * MIB,
        attempt: 72 << 10,
        rendered: 4 * MIB,
        script_reply: 28 * MIB,
        admin_response: 16 * MIB,
    };

    #[test]
    fn splits_by_the_table() {
        use MemoryShare::*;
        let minimum = Split::minimum(&SIZES);
        for (total, table) in [
            (
                minimum,
                [
                    (UnverifiedBodies, 4),
                    (Requests, 32),
                    (Dispatcher, 4),
                    (Rendered, 4),
                    (Scripts, 6),
                    (ScriptReplies, 28),
                    (AdminResponses, 16),
                    (Store, 4),
                ],
            ),
            (
                256 * MIB,
                [
                    (UnverifiedBodies, 13),
                    (Requests, 61),
                    (Dispatcher, 63),
                    (Rendered, 13),
                    (Scripts, 15),
                    (ScriptReplies, 37),
                    (AdminResponses, 25),
                    (Store, 23),
                ],
            ),
            (
                1024 * MIB,
                [
                    (UnverifiedBodies, 61),
                    (Requests, 128),
                    (Dispatcher, 428),
                    (Rendered, 61),
                    (Scripts, 63),
                    (ScriptReplies, 85),
                    (AdminResponses, 73),
                    (Store, 119),
                ],
            ),
        ] {
            let split = Split::new(total, &SIZES).unwrap();
            let found = table.map(|(share, _)| (share, split.bytes(share) / MIB));
            assert_eq!(found, table, "{} MiB", total / MIB);
        }
        assert!(minimum < 100 * MIB, "{minimum}");
    }

    #[test]
    fn too_small_budget_names_the_flags() {
        let error = Split::new(64 * MIB, &SIZES).unwrap_err().to_string();
        for part in ["64 MiB is too small", "at least 99MiB", "--max-request-bytes", "--max-event-bytes"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    proptest! {
        #[test]
        fn shares_fit_the_budget_and_every_item(
            total in any::<u64>(), event in 0u64..1 << 40, request in 0u64..1 << 40, reply in 0u64..1 << 30,
        ) {
            let sizes = ItemSizes { event, request, script_reply: reply, ..SIZES };
            match Split::new(total, &sizes) {
                Ok(split) => {
                    let sum: u128 = MemoryShare::iter().map(|share| u128::from(split.bytes(share))).sum();
                    prop_assert!(sum <= u128::from(total));
                    prop_assert!(split.bytes(MemoryShare::UnverifiedBodies) >= super::super::pool::request_cost(event));
                    prop_assert!(split.bytes(MemoryShare::Requests) >= super::super::pool::request_cost(request.max(event)));
                    prop_assert!(split.bytes(MemoryShare::Dispatcher) >= 2 * event + sizes.attempt);
                    prop_assert!(split.bytes(MemoryShare::Rendered) >= sizes.rendered);
                    prop_assert!(split.bytes(MemoryShare::Scripts) >= 2 * event);
                    prop_assert!(split.bytes(MemoryShare::ScriptReplies) >= reply);
                    prop_assert!(split.bytes(MemoryShare::AdminResponses) >= sizes.admin_response);
                }
                Err(_) => prop_assert!(total < Split::minimum(&sizes)),
            }
        }
    }
}
