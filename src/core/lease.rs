//! Who leads: the decisions of one replica that competes for a Lease. No I/O; time is given.
//!
//! A write carries the version that was read, so of two replicas that take a Lease at once one is refused. Whether the
//! holder is still there is judged by how long *this* replica has seen no change: clocks of machines are never compared.
//! The leader counts its time from before it sent a write, and for less than others wait: what it sent just before its
//! time was over arrives before anybody else leads.

use std::time::Duration;

use super::time::Millis;

/// A record that says it lasts longer is not believed: a typing mistake must not stop all replicas for ever.
const LONGEST: Duration = Duration::from_secs(3600);

/// How long things take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How long others wait for a holder that gives no sign.
    pub duration: Duration,
    /// How long the holder leads after it began its last successful write.
    pub renew_deadline: Duration,
    /// The time between two looks, or two renewals.
    pub retry: Duration,
}

impl Terms {
    /// Refuses terms under which two could lead, or a leader would lose its Lease between two renewals.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.duration < Duration::from_secs(1) || self.duration > LONGEST {
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

/// What a Lease says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// None: it was let go, whoever comes takes it.
    pub holder: Option<String>,
    /// How long its holder asks others to wait.
    pub duration: Option<Duration>,
}

#[derive(Clone, Debug)]
struct Seen {
    version: String,
    record: Record,
    /// When this replica first saw this version.
    since: Millis,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read the Lease, then tell by `read` or `failed`.
    Read,
    /// Write ourselves into this version of it (None: create it), then tell by `wrote`, `conflict` or `failed`.
    Write(Option<String>),
    /// Nothing before this time.
    Wait(Millis),
}

/// One replica.
#[derive(Clone, Debug)]
pub struct Election {
    me: String,
    terms: Terms,
    /// Takes a Lease that another holds, and leads once that other has certainly stopped.
    by_force: bool,
    seen: Option<Seen>,
    must_read: bool,
    due: Millis,
    until: Millis,
    not_before: Millis,
    leading: bool,
}

impl Election {
    pub fn new(me: impl Into<String>, terms: Terms, now: Millis) -> Self {
        Election {
            me: me.into(),
            terms,
            by_force: false,
            seen: None,
            must_read: true,
            due: now,
            until: now,
            not_before: now,
            leading: false,
        }
    }

    /// A replica that does not wait for the holder to go.
    pub fn by_force(self) -> Self {
        Election { by_force: true, ..self }
    }

    /// Until when this replica leads, if it does.
    pub fn leads_until(&self, now: Millis) -> Option<Millis> {
        (self.not_before <= now && now < self.until).then_some(self.until)
    }

    /// Who else holds the Lease, as last seen.
    pub fn other(&self) -> Option<&str> {
        let holder = self.seen.as_ref()?.record.holder.as_deref();
        holder.filter(|holder| *holder != self.me)
    }

    pub fn next(&self, now: Millis) -> Step {
        if now < self.due {
            return Step::Wait(self.due);
        }
        if self.must_read {
            return Step::Read;
        }
        match &self.seen {
            None => Step::Write(None),
            Some(seen) if self.may_take(seen, now) => Step::Write(Some(seen.version.clone())),
            Some(_) => Step::Read,
        }
    }

    fn may_take(&self, seen: &Seen, now: Millis) -> bool {
        match &seen.record.holder {
            None => true,
            Some(holder) if *holder == self.me || self.by_force => true,
            Some(_) => now >= seen.since + self.patience(&seen.record),
        }
    }

    fn patience(&self, record: &Record) -> Duration {
        record.duration.filter(|d| !d.is_zero() && *d <= LONGEST).unwrap_or(self.terms.duration)
    }

    /// The Lease as the API server has it; None: there is none.
    pub fn read(&mut self, found: Option<(String, Record)>, now: Millis) {
        self.must_read = false;
        self.seen = found.map(|(version, record)| {
            // Any change is a sign of life, also one that only looks the same.
            let since = self.seen.as_ref().filter(|s| s.version == version).map_or(now, |s| s.since);
            Seen { version, record, since }
        });
        if self.other().is_some() {
            self.stand_down();
        }
        self.due = match &self.seen {
            Some(seen) if !self.may_take(seen, now) => {
                (now + self.terms.retry).min(seen.since + self.patience(&seen.record))
            }
            _ => now,
        };
    }

    /// A write that began at `sent` was accepted. True: this replica did not lead before.
    pub fn wrote(&mut self, version: String, sent: Millis, now: Millis) -> bool {
        if let Some(seen) = &self.seen
            && self.other().is_some()
            && self.by_force
        {
            self.not_before = now + self.patience(&seen.record);
        }
        let went_on = self.leading && now < self.until;
        let record = Record { holder: Some(self.me.clone()), duration: Some(self.terms.duration) };
        self.seen = Some(Seen { version, record, since: now });
        self.until = sent + self.terms.renew_deadline;
        self.due = now + self.terms.retry;
        self.leading = self.leads_until(now).is_some();
        self.leading && !went_on
    }

    /// Another version is there: somebody else wrote.
    pub fn conflict(&mut self, now: Millis) {
        self.must_read = true;
        self.due = now;
    }

    /// Nobody knows whether the last step was carried out.
    pub fn failed(&mut self, now: Millis) {
        self.must_read = true;
        self.due = now + self.terms.retry;
    }

    /// The version to write an empty holder into, where the Lease is ours to let go.
    pub fn release(&self) -> Option<&str> {
        let seen = self.seen.as_ref()?;
        (seen.record.holder.as_deref() == Some(&self.me)).then_some(seen.version.as_str())
    }

    fn stand_down(&mut self) {
        self.leading = false;
        self.until = self.not_before;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TERMS: Terms = Terms {
        duration: Duration::from_secs(15),
        renew_deadline: Duration::from_secs(10),
        retry: Duration::from_secs(2),
    };

    /// An API server with one Lease.
    #[derive(Default)]
    struct Server {
        lease: Option<(u64, Record)>,
        count: u64,
    }

    impl Server {
        fn read(&self) -> Option<(String, Record)> {
            self.lease.as_ref().map(|(version, record)| (version.to_string(), record.clone()))
        }

        fn write(&mut self, version: Option<&str>, record: Record) -> Option<String> {
            if self.lease.as_ref().map(|(v, _)| v.to_string()).as_deref() != version {
                return None;
            }
            self.count += 1;
            self.lease = Some((self.count, record));
            Some(self.count.to_string())
        }
    }

    /// A replica with a clock of its own: it starts anywhere, and may run a tenth too slow or too fast.
    struct Replica {
        election: Election,
        offset: i64,
        percent: i64,
        /// A write that the server accepted, and whose answer is on its way.
        answer: Option<(String, Millis)>,
    }

    impl Replica {
        fn new(name: usize, offset: i64, percent: i64) -> Replica {
            let mut replica = Replica {
                election: Election::new(name.to_string(), TERMS, Millis(0)),
                offset,
                percent,
                answer: None,
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

        /// One step. `lost`: the call is carried out and its answer lost; `slow`: the answer comes at the next step.
        fn step(&mut self, server: &mut Server, true_time: i64, lost: bool, slow: bool) {
            let now = self.clock(true_time);
            if let Some((version, sent)) = self.answer.take() {
                self.election.wrote(version, sent, now);
                return;
            }
            match self.election.next(now) {
                Step::Wait(_) => {}
                Step::Read if lost => self.election.failed(now),
                Step::Read => self.election.read(server.read(), now),
                Step::Write(version) => {
                    let me =
                        Record { holder: Some(self.election.me.clone()), duration: Some(TERMS.duration) };
                    match server.write(version.as_deref(), me) {
                        _ if lost => self.election.failed(now),
                        None => self.election.conflict(now),
                        Some(version) if slow => self.answer = Some((version, now)),
                        Some(version) => drop(self.election.wrote(version, now, now)),
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
    }

    fn ticks() -> impl Strategy<Value = Vec<Tick>> {
        let tick = (prop_oneof![8 => 0i64..3_000, 1 => 0i64..40_000], 0usize..3, 0u8..10, 0u8..10, 0u8..40);
        let tick = tick.prop_map(|(wait, who, lost, slow, release)| Tick {
            wait,
            who,
            lost: lost == 0,
            slow: slow == 0,
            release: release == 0,
        });
        proptest::collection::vec(tick, 1..400)
    }

    proptest! {
        /// Whoever is paused (a replica that no tick names for long), whatever answer is lost or late.
        #[test]
        fn two_never_lead(ticks in ticks(), offsets in proptest::array::uniform3(0i64..1_000_000_000),
                          percents in proptest::array::uniform3(90i64..110)) {
            let mut server = Server::default();
            let mut replicas: Vec<Replica> =
                (0..3).map(|i| Replica::new(i, offsets[i], percents[i])).collect();
            let mut now = 0;
            for tick in ticks {
                now += tick.wait;
                let replica = &mut replicas[tick.who];
                match replica.election.release().map(ToOwned::to_owned) {
                    Some(version) if tick.release && replica.answer.is_none() => {
                        server.write(Some(&version), Record { holder: None, duration: None });
                        *replica = Replica::new(tick.who + 10 * now as usize, offsets[tick.who], percents[tick.who]);
                        replica.election.due = replica.clock(now);
                    }
                    _ => replica.step(&mut server, now, tick.lost, tick.slow),
                }
                let leaders = replicas.iter().filter(|r| r.leads(now)).count();
                prop_assert!(leaders <= 1, "{leaders} lead at {now}");
            }
        }

        /// Once calls succeed again, there is one leader, and it stays.
        #[test]
        fn one_leads_in_the_end(ticks in ticks()) {
            let mut server = Server::default();
            let mut replicas: Vec<Replica> = (0..3).map(|i| Replica::new(i, 0, 100)).collect();
            let mut now = 0;
            for tick in ticks {
                now += tick.wait;
                replicas[tick.who].step(&mut server, now, tick.lost, tick.slow);
            }
            let end = now + 40_000;
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
    fn what_was_let_go_is_taken_at_once_and_what_is_held_when_its_time_is_over() {
        let mut election = Election::new("b", TERMS, Millis(0));
        let held = |by: &str| Record { holder: Some(by.into()), duration: Some(Duration::from_secs(5)) };
        assert_eq!(election.next(Millis(0)), Step::Read);
        election.read(Some(("1".into(), held("a"))), Millis(0));
        assert_eq!(election.other(), Some("a"));
        assert_eq!(election.next(Millis(0)), Step::Wait(Millis(2_000)));
        assert_eq!(election.next(Millis(2_000)), Step::Read);
        election.read(Some(("2".into(), held("a"))), Millis(2_000));
        election.read(Some(("2".into(), held("a"))), Millis(4_000));
        election.read(Some(("2".into(), held("a"))), Millis(6_000));
        assert_eq!(election.next(Millis(6_999)), Step::Wait(Millis(7_000)), "by what the holder asks for");
        assert_eq!(election.next(Millis(7_000)), Step::Write(Some("2".into())));
        election.conflict(Millis(7_000));
        let free = Record { holder: None, duration: None };
        election.read(Some(("3".into(), free)), Millis(7_100));
        assert_eq!(election.next(Millis(7_100)), Step::Write(Some("3".into())));
        assert!(election.wrote("4".into(), Millis(7_100), Millis(7_200)), "gained");
        assert_eq!(election.leads_until(Millis(7_200)), Some(Millis(17_100)));
        assert!(!election.wrote("5".into(), Millis(9_200), Millis(9_300)), "renewed");
        assert_eq!(election.leads_until(Millis(19_200)), None, "no renewal, no leader");
        assert!(election.wrote("6".into(), Millis(20_000), Millis(20_000)), "gained again");
        election.read(Some(("7".into(), held("a"))), Millis(20_001));
        assert_eq!(election.leads_until(Millis(20_001)), None, "lost");
    }

    #[test]
    fn by_force_it_leads_when_the_holder_has_certainly_stopped() {
        let mut election = Election::new("b", TERMS, Millis(0)).by_force();
        let held = Record { holder: Some("a".into()), duration: Some(Duration::from_secs(15)) };
        election.read(Some(("1".into(), held)), Millis(0));
        assert_eq!(election.next(Millis(0)), Step::Write(Some("1".into())));
        assert!(!election.wrote("2".into(), Millis(0), Millis(100)));
        assert_eq!(election.leads_until(Millis(5_000)), None);
        assert!(!election.wrote("3".into(), Millis(14_000), Millis(14_000)));
        assert_eq!(election.leads_until(Millis(15_000)), None);
        assert!(election.wrote("4".into(), Millis(16_000), Millis(16_000)), "gained");
        assert!(election.leads_until(Millis(16_000)).is_some());
    }

    #[test]
    fn terms_that_would_let_two_lead_are_refused() {
        assert!(TERMS.check().is_ok());
        let with = |duration, renew_deadline, retry| Terms {
            duration: Duration::from_secs(duration),
            renew_deadline: Duration::from_secs(renew_deadline),
            retry: Duration::from_secs(retry),
        };
        for bad in [with(10, 10, 2), with(15, 2, 2), with(15, 10, 0), with(4000, 10, 2), with(0, 0, 0)] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
