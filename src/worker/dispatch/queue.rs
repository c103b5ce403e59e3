//! The queue of one hook: what is in memory, what is claimed, and whether there is more on disk.

use std::collections::{HashSet, VecDeque};

use crate::core::breaker::{Breaker, Leave};
use crate::core::bucket::{Bucket, Rate};
use crate::core::time::Millis;
use crate::worker::store::{Pending, Seq};

/// Deliveries of one hook that may wait in memory.
const WINDOW: usize = 64;

/// One hook's queue.
#[derive(Default)]
pub struct Queue {
    /// Ready to be sent, in memory.
    pub ready: VecDeque<Pending>,
    /// In memory, under way, or with an outcome that is not yet committed: a read of the disk must pass these over.
    pub claimed: HashSet<Seq>,
    pub in_flight: usize,
    /// There may be more due on disk than is in memory.
    pub on_disk: bool,
    pub loading: bool,
    /// It waits for a place among the attempts under way.
    pub crowded: bool,
    /// Something came while a read was under way that the read may not have seen.
    missed_while_loading: bool,
    pub breaker: Breaker,
    /// Present while the hook has a rate limit.
    bucket: Option<Bucket>,
    /// Since when the hook does not exist.
    pub gone_since: Option<Millis>,
    /// The hook lacks something that it needs to send: until when it is not looked for again.
    pub held_until: Option<Millis>,
}

impl Queue {
    /// Takes a delivery into memory, unless there is no room or older ones wait on disk.
    pub fn offer(&mut self, pending: Pending) -> bool {
        let room = !self.on_disk && self.ready.len() < WINDOW;
        if room && self.claimed.insert(pending.seq) {
            self.ready.push_back(pending);
        }
        room
    }

    /// There is something on disk that is not in memory.
    pub fn missed(&mut self) {
        self.on_disk = true;
        self.missed_while_loading |= self.loading;
    }

    /// How many to read from disk now, if any. Claimed ones come again, so the read asks for as many more.
    pub fn wants_more(&mut self) -> Option<usize> {
        if !self.on_disk || self.loading || self.ready.len() > WINDOW / 2 {
            return None;
        }
        self.loading = true;
        self.missed_while_loading = false;
        Some(WINDOW + self.claimed.len())
    }

    /// Takes what was read; the bytes that came into memory.
    pub fn loaded(&mut self, found: Vec<Pending>, limit: usize) -> usize {
        self.loading = false;
        self.on_disk = self.missed_while_loading || found.len() >= limit;
        let mut bytes = 0;
        for pending in found {
            if self.claimed.insert(pending.seq) {
                bytes += pending.event.data.get().len();
                self.ready.push_back(pending);
            }
        }
        bytes
    }

    /// Lets go of what is in memory: the hook may not send now. The bytes that were freed.
    pub fn hold(&mut self) -> usize {
        let mut bytes = 0;
        for pending in self.ready.drain(..) {
            bytes += pending.event.data.get().len();
            self.claimed.remove(&pending.seq);
            self.on_disk = true;
        }
        bytes
    }

    pub fn held(&self, now: Millis) -> bool {
        self.held_until.is_some_and(|until| until > now)
    }

    /// May the hook send one more now? A time: not before it. None: not before something happens.
    pub fn leave(&mut self, rate: Option<Rate>, now: Millis) -> Result<(), Option<Millis>> {
        if rate != self.bucket.as_ref().map(Bucket::rate) {
            self.bucket = rate.map(|rate| Bucket::new(rate, now));
        }
        // The breaker last: leave for a probe that the bucket then refused would never come back.
        if let Some(bucket) = &mut self.bucket {
            bucket.take(now).map_err(Some)?;
        }
        match self.breaker.ask(now) {
            Leave::Granted => Ok(()),
            Leave::NotBefore(until) => Err(Some(until)),
            Leave::Probing => Err(None),
        }
    }

    /// Nothing to do and nothing to remember.
    pub fn idle(&self) -> bool {
        self.ready.is_empty()
            && self.claimed.is_empty()
            && !self.on_disk
            && !self.loading
            && !self.crowded
            && self.breaker.is_idle()
            && self.bucket.is_none()
            && self.in_flight == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::event::{Event, Origin};
    use crate::worker::store::HookId;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn pending(seq: Seq) -> Pending {
        let event = Event {
            id: "e".into(),
            namespace: "n".into(),
            origin: Origin::Api,
            source: "s".into(),
            event: "e".into(),
            time: String::new(),
            data: serde_json::value::to_raw_value("four").unwrap(),
            attributes: BTreeMap::new(),
        };
        let hook = HookId { uid: "u".into(), namespace: "n".into(), name: "h".into() };
        let at = Millis(0);
        Pending {
            seq,
            id: uuid::Uuid::nil(),
            hook,
            event: Arc::new(event),
            accepted: at,
            attempts: 0,
            due: at,
        }
    }

    fn seqs(queue: &Queue) -> Vec<Seq> {
        queue.ready.iter().map(|p| p.seq).collect()
    }

    #[test]
    fn what_does_not_fit_waits_on_disk_and_is_read_once() {
        let mut queue = Queue::default();
        for seq in 0..100 {
            if !queue.offer(pending(seq)) {
                queue.missed();
            }
        }
        assert_eq!(queue.ready.len(), WINDOW);
        assert!(queue.wants_more().is_none(), "not while there is enough in memory");
        queue.ready.drain(..40);
        let limit = queue.wants_more().unwrap();
        assert!(queue.wants_more().is_none(), "one read at a time");
        queue.loaded((0..100).map(pending).collect(), limit);
        assert_eq!(seqs(&queue), (40..100).collect::<Vec<_>>(), "claimed ones are passed over");
        assert!(!queue.on_disk);
    }

    #[test]
    fn what_comes_during_a_read_is_not_forgotten() {
        let mut queue = Queue::default();
        queue.missed();
        let limit = queue.wants_more().unwrap();
        assert!(!queue.offer(pending(7)), "older ones may be on disk");
        queue.missed();
        queue.loaded(Vec::new(), limit);
        assert!(queue.wants_more().is_some());
    }

    #[test]
    fn a_held_queue_keeps_nothing_in_memory() {
        let mut queue = Queue::default();
        queue.offer(pending(1));
        assert_eq!(queue.hold(), 6);
        assert!(queue.claimed.is_empty() && queue.on_disk);
    }
}
