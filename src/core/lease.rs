//! Leader election: the decisions of one replica that competes for a Lease. No I/O; all times are arguments.
//!
//! A write contains the resource version that was read, so if two replicas take a Lease at once, one write fails with a
//! conflict. A replica takes over after it has observed no change for the lease duration, measured with its own clock.
//! Clocks of different machines are never compared. A leader leads for the renew deadline, counted from before it sent
//! its last renewal. That is shorter than the lease duration, so its last requests arrive before another replica leads.
//!
//! Versions connect one holder with the next. A deleted Lease breaks this chain: the former holder may lead for a renew
//! deadline longer and cannot be observed any more. So a replica that writes a Lease after such a break leads one lease
//! duration later (`is_broken`), and a Lease that never had a holder is no better than none.

use std::time::Duration;

use super::time::Millis;

/// A longer duration in a Lease is ignored: a typing mistake must not block all replicas forever.
const MAX_DURATION: Duration = Duration::from_secs(3600);

/// The timing of an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTerms {
    /// How long other replicas wait for a holder that does not renew.
    pub duration: Duration,
    /// How long the holder leads after it started its last successful write.
    pub renew_deadline: Duration,
    /// The time between two reads or two renewals.
    pub retry: Duration,
}

impl LeaseTerms {
    /// Rejects timings with which two replicas could lead, or a leader could lose its Lease between two renewals.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.duration < Duration::from_secs(1) || self.duration > MAX_DURATION {
            return Err("the lease duration must be between 1s and 1h");
        }
        if self.duration <= self.renew_deadline {
            return Err("the lease duration must be longer than the renew deadline");
        }
        if self.renew_deadline < self.retry.mul_f64(1.5) || self.retry.is_zero() {
            return Err("the renew deadline must be at least one and a half times the retry period");
        }
        Ok(())
    }
}

/// The contents of a Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    /// The uid of the Lease. A Lease that was deleted and created again has another one.
    pub uid: String,
    /// `None` after the holder released the Lease: any replica may take it.
    pub holder: Option<String>,
    /// How long other replicas must wait if the holder does not renew.
    pub duration: Option<Duration>,
    /// False for a Lease that no replica wrote, such as one of a manifest.
    pub was_held: bool,
}

#[derive(Clone, Debug)]
struct Observation {
    version: String,
    record: LeaseRecord,
    /// When this replica first observed this version.
    since: Millis,
}

/// The next step of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElectionStep {
    /// Read the Lease, then call `lease_read` or `read_failed`.
    Read,
    /// Write this replica as holder into this version (`None`: create the Lease), then call `write_accepted`,
    /// `write_conflicted` or `write_failed`.
    Write(Option<String>),
    /// Wait until this time.
    Wait(Millis),
}

/// The election state of one replica.
#[derive(Clone, Debug)]
pub struct Election {
    me: String,
    terms: LeaseTerms,
    /// Takes a Lease that another replica holds, and leads after that replica has certainly stopped.
    takes_over: bool,
    observed: Option<Observation>,
    must_read: bool,
    /// When the next step is due.
    due: Millis,
    /// Leads before this time only.
    until: Millis,
    /// Leads from this time on only: after a takeover or a break the former holder may still lead until then.
    not_before: Millis,
    is_leading: bool,
    /// True while the former holder is unknown, because the Lease was deleted, replaced or restored from a backup.
    is_broken: bool,
    /// True until the Lease is read after a write whose response was lost.
    has_unanswered_write: bool,
    /// The duration of the last holder that was observed, at least our own.
    longest: Duration,
}

impl Election {
    pub fn new(me: impl Into<String>, terms: LeaseTerms, now: Millis) -> Self {
        Election {
            me: me.into(),
            terms,
            takes_over: false,
            observed: None,
            must_read: true,
            due: now,
            until: now,
            not_before: now,
            is_leading: false,
            is_broken: false,
            has_unanswered_write: false,
            longest: terms.duration,
        }
    }

    /// Makes the replica take the Lease without waiting for the holder to release it.
    pub fn with_takeover(self) -> Self {
        Election { takes_over: true, ..self }
    }

    /// Returns the time until which this replica leads, or `None` if it does not lead.
    pub fn leads_until(&self, now: Millis) -> Option<Millis> {
        (self.not_before <= now && now < self.until).then_some(self.until)
    }

    /// Returns the holder that was last observed, if it is another replica.
    pub fn other_holder(&self) -> Option<&str> {
        let holder = self.observed.as_ref()?.record.holder.as_deref();
        holder.filter(|holder| *holder != self.me)
    }

    /// Returns the step to take now.
    pub fn next_step(&self, now: Millis) -> ElectionStep {
        if now < self.due {
            return ElectionStep::Wait(self.due);
        }
        if self.must_read {
            return ElectionStep::Read;
        }
        match &self.observed {
            None => ElectionStep::Write(None),
            Some(observed) if self.may_take(observed, now) => {
                ElectionStep::Write(Some(observed.version.clone()))
            }
            Some(_) => ElectionStep::Read,
        }
    }

    fn may_take(&self, observed: &Observation, now: Millis) -> bool {
        match &observed.record.holder {
            None => true,
            Some(holder) if *holder == self.me || self.takes_over => true,
            Some(_) => now >= observed.since + self.holder_timeout(&observed.record),
        }
    }

    /// True if the former holder is unknown, so that this replica leads only one lease duration after its next write.
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Returns how long to wait for the holder of this record.
    fn holder_timeout(&self, record: &LeaseRecord) -> Duration {
        record.duration.filter(|d| !d.is_zero() && *d <= MAX_DURATION).unwrap_or(self.terms.duration)
    }

    /// Records the Lease that was read, with its resource version. `None`: the Lease does not exist.
    pub fn lease_read(&mut self, found: Option<(String, LeaseRecord)>, now: Millis) {
        self.must_read = false;
        self.update_is_broken(found.as_ref(), now);
        self.observed = found.map(|(version, record)| {
            // Any new version shows that the holder is alive, even with the same contents.
            let since = self.observed.as_ref().filter(|s| s.version == version).map_or(now, |s| s.since);
            Observation { version, record, since }
        });
        if let Some(observed) = self.observed.as_ref().filter(|observed| observed.record.holder.is_some()) {
            self.longest = self.longest.max(self.holder_timeout(&observed.record));
        }
        if self.other_holder().is_some() {
            self.stop_leading();
        }
        self.due = match &self.observed {
            Some(observed) if !self.may_take(observed, now) => {
                (now + self.terms.retry).min(observed.since + self.holder_timeout(&observed.record))
            }
            _ => now,
        };
    }

    /// Determines whether what was read continues what was known. Call it before `observed` is replaced.
    fn update_is_broken(&mut self, found: Option<&(String, LeaseRecord)>, now: Millis) {
        let Some((version, record)) = found else {
            self.is_broken = true;
            return;
        };
        let other_holder = record.holder.as_ref().filter(|holder| **holder != self.me);
        let has_unanswered_write = std::mem::take(&mut self.has_unanswered_write);
        let is_known = |before: &Observation| before.record.uid == record.uid;
        match &self.observed {
            Some(before) if !is_known(before) || is_older(version, &before.version) => self.is_broken = true,
            // A renewal: its writer waited for all earlier holders before it led, and now it is known.
            Some(before) if before.version != *version && other_holder.is_some() => self.is_broken = false,
            // Our own record: of a write whose response was lost, or restored after another replica took the Lease.
            Some(before) if before.version != *version && record.holder.is_some() => {
                self.is_broken |= !has_unanswered_write || now >= self.until;
            }
            _ => {}
        }
        self.is_broken |= record.holder.is_none() && !record.was_held;
    }

    /// Records an accepted write of the Lease with this uid that was sent at `sent`. Returns true if this replica has just
    /// become the leader.
    pub fn write_accepted(&mut self, uid: String, version: String, sent: Millis, now: Millis) -> bool {
        let was_leading = self.is_leading && now < self.until;
        if std::mem::take(&mut self.is_broken) {
            // Every other leader made its last renewal before this write.
            self.not_before = now + self.longest;
        } else if let Some(observed) = &self.observed
            && self.other_holder().is_some()
            && self.takes_over
        {
            self.not_before = now + self.holder_timeout(&observed.record);
        }
        let (holder, duration) = (Some(self.me.clone()), Some(self.terms.duration));
        let record = LeaseRecord { uid, holder, duration, was_held: true };
        self.observed = Some(Observation { version, record, since: now });
        self.until = sent + self.terms.renew_deadline;
        self.due = now + self.terms.retry;
        self.is_leading = self.leads_until(now).is_some();
        self.is_leading && !was_leading
    }

    /// Records a conflict: another replica has written the Lease.
    pub fn write_conflicted(&mut self, now: Millis) {
        self.must_read = true;
        self.due = now;
    }

    /// Records a write with an unknown result, for example a timeout.
    pub fn write_failed(&mut self, now: Millis) {
        self.has_unanswered_write = true;
        self.read_failed(now);
    }

    /// Records a failed read.
    pub fn read_failed(&mut self, now: Millis) {
        self.must_read = true;
        self.due = now + self.terms.retry;
    }

    /// True unless a former holder may still lead: then a release would let the next replica lead beside it.
    pub fn may_release(&self, now: Millis) -> bool {
        !self.is_broken && self.not_before <= now
    }

    /// Returns the version to replace to release the Lease, if this replica holds it.
    pub fn release_version(&self) -> Option<&str> {
        let observed = self.observed.as_ref()?;
        (observed.record.holder.as_deref() == Some(&self.me)).then_some(observed.version.as_str())
    }

    fn stop_leading(&mut self) {
        self.is_leading = false;
        self.until = self.not_before;
    }
}

/// True if a version is older than another one. Versions of one Lease compare as numbers; an etcd that was restored from
/// a backup continues with older ones.
fn is_older(version: &str, than: &str) -> bool {
    version.parse::<u64>().ok().zip(than.parse::<u64>().ok()).is_some_and(|(version, than)| version < than)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TERMS: LeaseTerms = LeaseTerms {
        duration: Duration::from_secs(15),
        renew_deadline: Duration::from_secs(10),
        retry: Duration::from_secs(2),
    };

    fn held(by: &str) -> LeaseRecord {
        let (holder, duration) = (Some(by.to_owned()), Some(TERMS.duration));
        LeaseRecord { uid: "u".into(), holder, duration, was_held: true }
    }

    fn released() -> LeaseRecord {
        LeaseRecord { holder: None, duration: None, ..held("") }
    }

    /// A fake API server with one Lease.
    #[derive(Default)]
    struct Server {
        lease: Option<(u64, LeaseRecord)>,
        count: u64,
        /// The Lease at some earlier time, with a holder.
        backup: Option<LeaseRecord>,
    }

    /// What a user or a tool does to the Lease.
    #[derive(Clone, Copy, Debug)]
    enum Intervention {
        Delete,
        /// Deletes it and creates it without a holder, as a manifest would.
        ReplaceEmpty,
        BackUp,
        /// Deletes it and creates it as it was at the backup.
        ReplaceByBackup,
        /// Restores etcd: the Lease keeps its uid and gets an older version.
        RestoreServer,
    }

    impl Server {
        fn read(&self) -> Option<(String, LeaseRecord)> {
            self.lease.as_ref().map(|(version, record)| (version.to_string(), record.clone()))
        }

        fn write(&mut self, version: Option<&str>, record: LeaseRecord) -> Option<String> {
            if self.lease.as_ref().map(|(v, _)| v.to_string()).as_deref() != version {
                return None;
            }
            self.count += 1000;
            let uid =
                self.lease.as_ref().map_or_else(|| self.count.to_string(), |(_, record)| record.uid.clone());
            self.lease = Some((self.count, LeaseRecord { uid, ..record }));
            Some(self.count.to_string())
        }

        fn uid(&self) -> String {
            self.lease.as_ref().map(|(_, record)| record.uid.clone()).unwrap_or_default()
        }

        fn intervene(&mut self, intervention: Intervention) {
            self.count += 1000;
            let uid = self.count.to_string();
            match intervention {
                Intervention::Delete => self.lease = None,
                Intervention::ReplaceEmpty => {
                    self.lease = Some((self.count, LeaseRecord { uid, was_held: false, ..released() }));
                }
                Intervention::BackUp => {
                    let record = self.lease.as_ref().map(|(_, record)| record.clone());
                    self.backup = record.filter(|record| record.holder.is_some()).or(self.backup.take());
                }
                Intervention::ReplaceByBackup => {
                    if let Some(backup) = &self.backup {
                        self.lease = Some((self.count, LeaseRecord { uid, ..backup.clone() }));
                    }
                }
                Intervention::RestoreServer => {
                    if let (Some(backup), Some((version, _))) = (&self.backup, &self.lease) {
                        // Not the version of another write: a real server would hardly repeat one that a replica knows.
                        self.lease = Some((version - 1, backup.clone()));
                    }
                }
            }
        }
    }

    /// A replica with its own clock, which has any offset and a rate error of up to 10 %.
    struct Replica {
        election: Election,
        offset: i64,
        percent: i64,
        /// The delayed response to a write that the server has accepted.
        response: Option<(String, String, Millis)>,
    }

    impl Replica {
        fn new(name: usize, offset: i64, percent: i64) -> Replica {
            let mut replica = Replica {
                election: Election::new(name.to_string(), TERMS, Millis(0)),
                offset,
                percent,
                response: None,
            };
            replica.election = Election::new(name.to_string(), TERMS, replica.clock(0));
            replica
        }

        fn clock(&self, true_time: i64) -> Millis {
            Millis(self.offset + true_time * self.percent / 100)
        }

        fn leads(&self, true_time: i64) -> bool {
            self.election.leads_until(self.clock(true_time)).is_some()
        }

        /// Takes one step. With `lost` the call is executed but its response is lost; with `slow` the response arrives at
        /// the next step.
        fn step(&mut self, server: &mut Server, true_time: i64, lost: bool, slow: bool) {
            let now = self.clock(true_time);
            if let Some((uid, version, sent)) = self.response.take() {
                self.election.write_accepted(uid, version, sent, now);
                return;
            }
            match self.election.next_step(now) {
                ElectionStep::Wait(_) => {}
                ElectionStep::Read if lost => self.election.read_failed(now),
                ElectionStep::Read => self.election.lease_read(server.read(), now),
                ElectionStep::Write(version) => {
                    let written = server.write(version.as_deref(), held(&self.election.me));
                    let uid = server.uid();
                    match written {
                        _ if lost => self.election.write_failed(now),
                        None => self.election.write_conflicted(now),
                        Some(version) if slow => self.response = Some((uid, version, now)),
                        Some(version) => drop(self.election.write_accepted(uid, version, now, now)),
                    }
                }
            }
        }
    }

    #[derive(Clone, Debug)]
    struct Tick {
        wait: i64,
        who: usize,
        lost: bool,
        slow: bool,
        release: bool,
        /// The replica crashes, and a new one starts in its place.
        crash: bool,
        intervention: Option<Intervention>,
    }

    fn ticks() -> impl Strategy<Value = Vec<Tick>> {
        let wait = prop_oneof![8 => 0i64..3_000, 1 => 0i64..40_000];
        let intervention = prop_oneof![
            30 => Just(None),
            2 => Just(Some(Intervention::Delete)),
            1 => Just(Some(Intervention::ReplaceEmpty)),
            1 => Just(Some(Intervention::BackUp)),
            1 => Just(Some(Intervention::ReplaceByBackup)),
            1 => Just(Some(Intervention::RestoreServer)),
        ];
        let tick = (wait, 0usize..3, 0u8..10, 0u8..10, 0u8..40, 0u8..40, intervention);
        let tick = tick.prop_map(|(wait, who, lost, slow, release, crash, intervention)| Tick {
            wait,
            who,
            lost: lost == 0,
            slow: slow == 0,
            release: release == 0,
            crash: crash == 0,
            intervention,
        });
        proptest::collection::vec(tick, 1..400)
    }

    proptest! {
        /// Includes paused replicas (no tick selects them for a long time), lost or late responses, crashes, and a Lease that
        /// is deleted, replaced or restored at any time.
        #[test]
        fn at_most_one_replica_leads(ticks in ticks(), offsets in proptest::array::uniform3(0i64..1_000_000_000),
                          percents in proptest::array::uniform3(90i64..110)) {
            let mut server = Server::default();
            let mut replicas: Vec<Replica> =
                (0..3).map(|i| Replica::new(i, offsets[i], percents[i])).collect();
            let mut now = 0;
            let mut started = 3;
            for tick in ticks {
                now += tick.wait;
                if let Some(intervention) = tick.intervention {
                    server.intervene(intervention);
                }
                let replica = &mut replicas[tick.who];
                let may_release = replica.response.is_none() && replica.election.may_release(replica.clock(now));
                let released_version = replica.election.release_version().filter(|_| tick.release && may_release);
                if let Some(version) = released_version {
                    server.write(Some(version), released());
                }
                if released_version.is_some() || tick.crash {
                    started += 1;
                    *replica = Replica::new(started, offsets[tick.who], percents[tick.who]);
                    replica.election.due = replica.clock(now);
                } else {
                    replica.step(&mut server, now, tick.lost, tick.slow);
                }
                let leaders = replicas.iter().filter(|r| r.leads(now)).count();
                prop_assert!(leaders <= 1, "{leaders} lead at {now}");
            }
        }

        /// Once calls succeed again, one replica leads and keeps leading.
        #[test]
        fn one_replica_leads_after_recovery(ticks in ticks()) {
            let mut server = Server::default();
            let mut replicas: Vec<Replica> = (0..3).map(|i| Replica::new(i, 0, 100)).collect();
            let mut now = 0;
            for tick in ticks {
                now += tick.wait;
                if let Some(intervention) = tick.intervention {
                    server.intervene(intervention);
                }
                replicas[tick.who].step(&mut server, now, tick.lost, tick.slow);
            }
            let end = now + 60_000;
            while now < end {
                now += 500;
                replicas.iter_mut().for_each(|r| r.step(&mut server, now, false, false));
            }
            let leader: Vec<bool> = replicas.iter().map(|r| r.leads(now)).collect();
            prop_assert_eq!(leader.iter().filter(|l| **l).count(), 1);
            for _ in 0..100 {
                now += 500;
                replicas.iter_mut().for_each(|r| r.step(&mut server, now, false, false));
                let still: Vec<bool> = replicas.iter().map(|r| r.leads(now)).collect();
                prop_assert_eq!(&still, &leader);
            }
        }
    }

    #[test]
    fn takes_released_lease_at_once_and_held_lease_after_its_duration() {
        let mut election = Election::new("b", TERMS, Millis(0));
        let held = |by: &str| LeaseRecord { duration: Some(Duration::from_secs(5)), ..held(by) };
        assert_eq!(election.next_step(Millis(0)), ElectionStep::Read);
        election.lease_read(Some(("1".into(), held("a"))), Millis(0));
        assert_eq!(election.other_holder(), Some("a"));
        assert_eq!(election.next_step(Millis(0)), ElectionStep::Wait(Millis(2_000)));
        assert_eq!(election.next_step(Millis(2_000)), ElectionStep::Read);
        election.lease_read(Some(("2".into(), held("a"))), Millis(2_000));
        election.lease_read(Some(("2".into(), held("a"))), Millis(4_000));
        election.lease_read(Some(("2".into(), held("a"))), Millis(6_000));
        assert_eq!(
            election.next_step(Millis(6_999)),
            ElectionStep::Wait(Millis(7_000)),
            "by the holder's duration"
        );
        assert_eq!(election.next_step(Millis(7_000)), ElectionStep::Write(Some("2".into())));
        election.write_conflicted(Millis(7_000));
        election.lease_read(Some(("3".into(), released())), Millis(7_100));
        assert_eq!(election.next_step(Millis(7_100)), ElectionStep::Write(Some("3".into())));
        assert!(election.write_accepted("u".into(), "4".into(), Millis(7_100), Millis(7_200)), "gained");
        assert_eq!(election.leads_until(Millis(7_200)), Some(Millis(17_100)));
        assert!(!election.write_accepted("u".into(), "5".into(), Millis(9_200), Millis(9_300)), "renewed");
        assert_eq!(election.leads_until(Millis(19_200)), None, "no renewal, no leader");
        assert!(
            election.write_accepted("u".into(), "6".into(), Millis(20_000), Millis(20_000)),
            "gained again"
        );
        election.lease_read(Some(("7".into(), held("a"))), Millis(20_001));
        assert_eq!(election.leads_until(Millis(20_001)), None, "lost");
    }

    #[test]
    fn takeover_leads_after_previous_holder_has_stopped() {
        let mut election = Election::new("b", TERMS, Millis(0)).with_takeover();
        election.lease_read(Some(("1".into(), held("a"))), Millis(0));
        assert_eq!(election.next_step(Millis(0)), ElectionStep::Write(Some("1".into())));
        assert!(!election.write_accepted("u".into(), "2".into(), Millis(0), Millis(100)));
        assert_eq!(election.leads_until(Millis(5_000)), None);
        assert!(
            !election.may_release(Millis(5_000)),
            "the next replica would not wait for the previous holder"
        );
        assert!(!election.write_accepted("u".into(), "3".into(), Millis(14_000), Millis(14_000)));
        assert_eq!(election.leads_until(Millis(15_000)), None);
        assert!(election.write_accepted("u".into(), "4".into(), Millis(16_000), Millis(16_000)), "gained");
        assert!(election.leads_until(Millis(16_000)).is_some());
    }

    /// Creates, takes or replaces the Lease, and returns when the replica leads.
    fn gained_at(election: &mut Election, uid: &str, start: i64) -> i64 {
        (start..)
            .step_by(500)
            .find(|now| {
                let now = Millis(*now);
                if let ElectionStep::Write(_) = election.next_step(now) {
                    election.write_accepted(uid.into(), now.0.to_string(), now, now);
                }
                election.leads_until(now).is_some()
            })
            .unwrap()
    }

    #[test]
    fn waits_for_unknown_holder_of_deleted_lease() {
        let standby = || {
            let mut election = Election::new("b", TERMS, Millis(0));
            let long = LeaseRecord { duration: Some(Duration::from_secs(20)), ..held("a") };
            election.lease_read(Some(("5".into(), long)), Millis(0));
            election
        };
        let mut deleted = standby();
        deleted.lease_read(None, Millis(2_000));
        assert_eq!(deleted.next_step(Millis(2_000)), ElectionStep::Write(None));
        assert_eq!(gained_at(&mut deleted, "v", 2_000), 22_000, "one duration of the known holder");

        let mut replaced = standby();
        replaced.lease_read(Some(("7".into(), LeaseRecord { uid: "v".into(), ..released() })), Millis(2_000));
        assert_eq!(gained_at(&mut replaced, "v", 2_000), 22_000);

        let mut restored = standby();
        restored.lease_read(Some(("3".into(), released())), Millis(2_000));
        assert_eq!(gained_at(&mut restored, "u", 2_000), 22_000, "an older version");

        let mut new = Election::new("c", TERMS, Millis(0));
        new.lease_read(None, Millis(0));
        assert_eq!(gained_at(&mut new, "v", 0), 15_000, "it cannot know whether there was a holder");
        let mut of_manifest = Election::new("c", TERMS, Millis(0));
        of_manifest.lease_read(Some(("1".into(), LeaseRecord { was_held: false, ..released() })), Millis(0));
        assert_eq!(gained_at(&mut of_manifest, "u", 0), 15_000);

        // A renewal by the new holder shows that the chain is whole again.
        let mut standby = standby();
        standby.lease_read(None, Millis(2_000));
        let other = || LeaseRecord { uid: "v".into(), ..held("d") };
        standby.lease_read(Some(("8".into(), other())), Millis(2_500));
        assert!(standby.is_broken());
        standby.lease_read(Some(("9".into(), other())), Millis(4_500));
        assert!(!standby.is_broken());
    }

    #[test]
    fn holder_of_deleted_lease_creates_it_and_pauses() {
        let mut election = Election::new("a", TERMS, Millis(0));
        election.lease_read(Some(("1".into(), released())), Millis(0));
        assert!(election.write_accepted("u".into(), "2".into(), Millis(0), Millis(0)));
        // Its renewal fails, because the Lease does not exist.
        election.write_conflicted(Millis(2_000));
        election.lease_read(None, Millis(2_000));
        assert!(election.leads_until(Millis(2_000)).is_some(), "it was the only leader until now");
        assert_eq!(election.next_step(Millis(2_000)), ElectionStep::Write(None));
        assert!(!election.write_accepted("v".into(), "3".into(), Millis(2_000), Millis(2_000)));
        assert_eq!(election.leads_until(Millis(2_001)), None, "another replica may have created it before");
        assert_eq!(gained_at(&mut election, "v", 2_500), 17_000);
    }

    #[test]
    fn rejects_terms_with_which_two_could_lead() {
        assert!(TERMS.check().is_ok());
        let with = |duration, renew_deadline, retry| LeaseTerms {
            duration: Duration::from_secs(duration),
            renew_deadline: Duration::from_secs(renew_deadline),
            retry: Duration::from_secs(retry),
        };
        for bad in [with(10, 10, 2), with(15, 2, 2), with(15, 10, 0), with(4000, 10, 2), with(0, 0, 0)] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
