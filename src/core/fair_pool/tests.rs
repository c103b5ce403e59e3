use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn name(text: impl ToString) -> Arc<str> {
    text.to_string().into()
}

/// Takes as much as the member gets, up to `limit` requests, and leaves it waiting if it wants more.
fn fill(pool: &mut FairPool, group: &str, member: &str, limit: usize, pace: Pace) -> Vec<Grant> {
    let (group, member) = (name(group), name(member));
    let mut grants = Vec::new();
    while grants.len() < limit {
        match pool.request(&group, &member, 1, pace) {
            Some(grant) => grants.push(grant),
            None => {
                pool.wait(&group, &member, 1, pace);
                break;
            }
        }
    }
    grants
}

#[test]
fn one_member_alone_may_use_half_of_the_pool() {
    for pace in [Pace::Fast, Pace::Unproven, Pace::Slow] {
        let mut pool = FairPool::new(2048);
        assert_eq!(fill(&mut pool, "n", "h", 1024, pace).len(), 1024, "{pace:?}");
    }
}

#[test]
fn long_uses_leave_capacity_for_other_groups_and_members() {
    for pace in [Pace::Fast, Pace::Unproven, Pace::Slow] {
        let mut pool = FairPool::new(2048);
        fill(&mut pool, "tarpits", "a", 1024, pace);
        fill(&mut pool, "tarpits", "b", 1024, pace);
        for (group, member) in [("other", "h"), ("tarpits", "c")] {
            assert!(!fill(&mut pool, group, member, 1, Pace::Unproven).is_empty(), "{pace:?} {group}");
            let grants = fill(&mut pool, group, member, 64, Pace::Fast);
            // Hooks that were fast and then hang have taken a part of their namespace's reserve.
            let want = if pace == Pace::Fast && group == "tarpits" { 32 } else { 64 };
            assert!(grants.len() >= want, "{pace:?} {group} {}", grants.len());
        }
        assert!(!fill(&mut pool, "third", "slow", 8, Pace::Slow).is_empty(), "{pace:?}");
    }
}

/// A tenant that creates ever more hooks with hanging receivers cannot take what others need.
#[test]
fn many_members_of_one_group_leave_capacity_for_other_groups() {
    let mut pool = FairPool::new(2048);
    for member in 0..2000 {
        fill(&mut pool, "tarpits", &format!("u{member}"), 1024, Pace::Unproven);
        fill(&mut pool, "tarpits", &format!("s{member}"), 1024, Pace::Slow);
    }
    assert_eq!(fill(&mut pool, "other", "h", 64, Pace::Fast).len(), 64);
    assert!(fill(&mut pool, "third", "slow", 64, Pace::Slow).len() > 8);
}

/// Members that always want more end up with equal parts for each group, and in a group for each member.
#[test]
fn groups_and_then_members_share_equally() {
    let mut pool = FairPool::new(400);
    let mut uses: VecDeque<(Arc<str>, Arc<str>, Grant)> = VecDeque::new();
    let mut group_of = HashMap::new();
    for (group, members) in [("one", 1), ("ten", 10), ("hundred", 100)] {
        for member in 0..members {
            let (group, member) = (name(group), name(format!("{group}-{member}")));
            let grants = fill(&mut pool, &group, &member, usize::MAX, Pace::Slow);
            uses.extend(grants.into_iter().map(|grant| (group.clone(), member.clone(), grant)));
            group_of.insert(member, group);
        }
    }
    for _ in 0..2000 {
        let (group, member, grant) = uses.pop_front().unwrap();
        pool.release(&member, grant, SECOND);
        if !pool.is_waiting(&member) {
            pool.wait(&group, &member, 1, Pace::Slow);
        }
        while let Some(member) = pool.next_waiting() {
            let group = group_of[&member].clone();
            let grant =
                pool.request(&group, &member, 1, Pace::Slow).expect("the capacity that `next_waiting` found");
            pool.wait(&group, &member, 1, Pace::Slow);
            uses.push_back((group, member, grant));
        }
    }
    let count =
        |is: &dyn Fn(&str, &str) -> bool| uses.iter().filter(|(group, member, _)| is(group, member)).count();
    let totals = ["one", "ten", "hundred"].map(|name| count(&|group, _| group == name));
    let (least, most) = (totals.iter().min().unwrap(), totals.iter().max().unwrap());
    assert!(most - least <= 3 && *least > 60, "{totals:?}");
    let ten: Vec<_> = (0..10).map(|n| count(&|_, member| member == format!("ten-{n}"))).collect();
    assert!(ten.iter().max().unwrap() - ten.iter().min().unwrap() <= 2, "{ten:?}");
}

/// With one slot, two groups that always wait get equal time, although one's uses take ten times as long.
#[test]
fn groups_share_time_and_not_uses() {
    let mut pool = FairPool::new(1);
    let mut time = HashMap::from([(name("long"), 0), (name("short"), 0)]);
    for member in time.keys() {
        pool.wait(member, member, 1, Pace::Slow);
    }
    for _ in 0..500 {
        let next = pool.next_waiting().unwrap();
        let grant = pool.request(&next, &next, 1, Pace::Slow).unwrap();
        pool.wait(&next, &next, 1, Pace::Slow);
        let seconds = if *next == *"long" { 10 } else { 1 };
        *time.get_mut(&next).unwrap() += seconds;
        pool.release(&next, grant, SECOND * seconds);
    }
    let (long, short) = (time[&*name("long")], time[&*name("short")]);
    assert!(long.abs_diff(short) <= 20, "{long} s, {short} s");
}

#[test]
fn a_large_request_is_not_overtaken_by_members_that_hold_more() {
    let mut pool = FairPool::new(400);
    let (busy, large) = (name("busy"), name("large"));
    let mut grants: VecDeque<_> = fill(&mut pool, "busy", "busy", usize::MAX, Pace::Slow).into();
    assert_eq!(pool.request(&large, &large, 290, Pace::Slow), None);
    pool.wait(&large, &large, 290, Pace::Slow);
    let mut ended = 0;
    while pool.is_waiting(&large) {
        pool.release(&busy, grants.pop_front().unwrap(), SECOND);
        ended += 1;
        match pool.next_waiting() {
            Some(next) if next == large => break,
            Some(next) => panic!("{next} overtakes"),
            None => {}
        }
    }
    assert!(pool.request(&large, &large, 290, Pace::Slow).is_some());
    assert!(ended < 300);
}

#[test]
fn a_shrunk_grant_returns_the_rest() {
    let mut pool = FairPool::new(100);
    let member = name("m");
    let mut grant = pool.request(&member, &member, 500, Pace::Unproven).unwrap();
    assert_eq!(grant.amount, pool.largest(), "a request for more than there is gets the largest amount");
    pool.shrink(&member, &mut grant, 10);
    assert_eq!((grant.amount, pool.used()), (10, 10));
    pool.release(&member, grant, SECOND);
    assert_eq!(pool.used(), 0);
    assert!(pool.members.is_empty() && pool.group_of.is_empty(), "idle members use no memory");
}

#[derive(Clone, Debug)]
enum Step {
    Request { member: u8, amount: u64, pace: u8 },
    Release { which: prop::sample::Index, seconds: u64 },
    Cancel { member: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..30_u8, prop_oneof![1..4_u64, 1..400_u64], 0..3_u8)
            .prop_map(|(member, amount, pace)| Step::Request { member, amount, pace }),
        5 => (any::<prop::sample::Index>(), 0..1000_u64)
            .prop_map(|(which, seconds)| Step::Release { which, seconds }),
        1 => (0..30_u8).prop_map(|member| Step::Cancel { member }),
    ]
}

proptest! {
    /// The parts are never exceeded, nothing is lost, and every waiting member gets its capacity when uses end.
    #[test]
    fn random_uses_keep_the_books(capacity in 1..300_u64, steps in prop::collection::vec(step(), 1..300)) {
        let mut pool = FairPool::new(capacity);
        let mut held: Vec<(Arc<str>, Grant)> = Vec::new();
        let group_of = |member: &str| name(member.parse::<u8>().unwrap() % 4);
        let pace_of = |pace: u8| [Pace::Fast, Pace::Unproven, Pace::Slow][usize::from(pace)];
        let grant_next = |pool: &mut FairPool, held: &mut Vec<(Arc<str>, Grant)>| {
            while let Some(member) = pool.next_waiting() {
                let grant = pool.request(&group_of(&member), &member, 1, Pace::Slow)
                    .or_else(|| pool.request(&group_of(&member), &member, 1, Pace::Fast));
                match grant {
                    Some(grant) => held.push((member.clone(), grant)),
                    None => panic!("`next_waiting` returned a member that gets nothing"),
                }
            }
        };
        for step in steps {
            match step {
                Step::Request { member, amount, pace } => {
                    let (member, pace) = (name(member), pace_of(pace));
                    match pool.request(&group_of(&member), &member, amount, pace) {
                        Some(grant) => held.push((member, grant)),
                        None => pool.wait(&group_of(&member), &member, amount, pace),
                    }
                }
                Step::Release { which, seconds } if !held.is_empty() => {
                    let (member, grant) = held.swap_remove(which.index(held.len()));
                    pool.release(&member, grant, Duration::from_secs(seconds));
                    grant_next(&mut pool, &mut held);
                }
                Step::Release { .. } => {}
                Step::Cancel { member } => {
                    pool.stop_waiting(&name(member));
                    pool.leave(&name(member));
                    grant_next(&mut pool, &mut held);
                }
            }
            prop_assert_eq!(pool.used(), held.iter().map(|(_, grant)| grant.amount).sum::<u64>());
            prop_assert!(pool.general.used <= pool.general.capacity && pool.reserve.used <= pool.reserve.capacity);
        }
        while let Some((member, grant)) = held.pop() {
            pool.release(&member, grant, SECOND);
            grant_next(&mut pool, &mut held);
        }
        prop_assert!(pool.members.is_empty() && pool.group_of.is_empty(), "a member waits although all is free");
        prop_assert!(pool.waiting.iter().all(BTreeSet::is_empty));
    }
}
