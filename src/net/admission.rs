//! Decides whether a port admits a new connection, and which other connection it evicts for that.
//!
//! Silent and slow peers must not close a port: while it is full, a new connection replaces one that does nothing. Pure
//! decisions, without sockets.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::connection_state::{Phase, Snapshot};

/// A port with more connections than this share of its maximum limits the connections of each peer address.
const CROWDED_PERCENT: usize = 80;
/// The share of the maximum that one peer address may use of a crowded port.
const PEER_DIVISOR: usize = 16;
/// A full port may evict a connection whose request body has not advanced for this long.
const STALLED: Duration = Duration::from_secs(1);

/// A peer address as the limit counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer(IpAddr);

impl Peer {
    /// Counts an IPv6 client by its /64, because one client can use all addresses of it.
    pub fn new(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) => {
                Peer(IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::from(u64::MAX) << 64))))
            }
            v4 => Peer(v4),
        }
    }
}

/// An open connection.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<Id> {
    pub id: Id,
    pub peer: Peer,
    pub seen: Snapshot,
}

/// How a port proceeds with a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission<Id> {
    Admit,
    /// Admits it if this connection can be evicted.
    Evict(Id, Snapshot),
    /// Closes it: its address uses its share of a crowded port, and handles requests on each connection.
    Reject,
    /// Admits it later: every connection handles a request.
    Wait,
}

/// A new connection and its port.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub peer: Peer,
    /// Whether many clients share the address, so that no limit for it applies.
    pub is_shared: bool,
    pub max_connections: usize,
    pub now: Duration,
}

/// Decides about a new connection. `of_peer` is the number of open connections of its address.
pub fn admit<Id: Copy>(
    arrival: Arrival,
    open: usize,
    of_peer: usize,
    connections: impl Iterator<Item = Candidate<Id>>,
) -> Admission<Id> {
    let Arrival { peer, is_shared, max_connections, now } = arrival;
    let is_crowded = open.saturating_mul(100) >= max_connections.saturating_mul(CROWDED_PERCENT);
    if is_crowded && !is_shared && of_peer >= (max_connections / PEER_DIVISOR).max(1) {
        // An address that has its share makes room for its new connections itself.
        let own = connections.filter(|connection| connection.peer == peer);
        return victim(now, own).map_or(Admission::Reject, |(id, seen)| Admission::Evict(id, seen));
    }
    if open < max_connections {
        return Admission::Admit;
    }
    victim(now, connections).map_or(Admission::Wait, |(id, seen)| Admission::Evict(id, seen))
}

/// Chooses the connection whose eviction harms least; None if every connection handles a request.
pub fn victim<Id: Copy>(
    now: Duration,
    connections: impl Iterator<Item = Candidate<Id>>,
) -> Option<(Id, Snapshot)> {
    connections
        .filter_map(|connection| Some((rank(now, connection.seen)?, connection)))
        .min_by_key(|(rank, connection)| (*rank, connection.seen.since()))
        .map(|(_, connection)| (connection.id, connection.seen))
}

/// The order of eviction, lowest first; None if the connection must stay.
fn rank(now: Duration, seen: Snapshot) -> Option<u8> {
    match seen.phase() {
        // It has its response.
        Phase::Lingering => Some(0),
        // It has not completed a request, or fails to complete the next.
        Phase::New | Phase::Head => Some(1),
        Phase::Idle => Some(2),
        Phase::Body if now.saturating_sub(seen.since()) >= STALLED => Some(3),
        Phase::Body | Phase::Busy | Phase::Evicted => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 100;
    const NOW: Duration = Duration::from_secs(100);

    fn peer(last: u8) -> Peer {
        Peer::new(IpAddr::from([192, 0, 2, last]))
    }

    /// Connections with these phases, each a second younger than the one before, all of one peer.
    fn connections(phases: &[Phase]) -> Vec<Candidate<usize>> {
        let since = |id: usize| NOW.saturating_sub(Duration::from_secs(50 - id as u64));
        let candidate = |(id, phase): (usize, &Phase)| Candidate {
            id,
            peer: peer(1),
            seen: Snapshot::new(*phase, since(id)),
        };
        phases.iter().enumerate().map(candidate).collect()
    }

    fn arrival(last: u8, is_shared: bool) -> Arrival {
        Arrival { peer: peer(last), is_shared, max_connections: MAX, now: NOW }
    }

    fn evicted(admission: Admission<usize>) -> Option<usize> {
        match admission {
            Admission::Evict(id, _) => Some(id),
            _ => None,
        }
    }

    #[test]
    fn evicts_only_when_full() {
        let idle = connections(&[Phase::Idle; 3]);
        let admit_with = |open| admit(arrival(2, false), open, 0, idle.iter().copied());
        assert_eq!(admit_with(MAX - 1), Admission::Admit);
        assert_eq!(evicted(admit_with(MAX)), Some(0), "the longest idle");
    }

    #[test]
    fn spares_connections_that_completed_a_request() {
        let order = |phases: &[Phase]| victim(NOW, connections(phases).into_iter()).map(|(id, _)| id);
        assert_eq!(order(&[Phase::Idle, Phase::Idle, Phase::New]), Some(2));
        assert_eq!(order(&[Phase::Idle, Phase::Head, Phase::New]), Some(1), "the oldest unfinished");
        assert_eq!(order(&[Phase::New, Phase::Lingering]), Some(1));
        assert_eq!(order(&[Phase::Busy, Phase::Body, Phase::Idle]), Some(2));
        assert_eq!(order(&[Phase::Busy, Phase::Body]), Some(1), "a stalled body");
        assert_eq!(order(&[Phase::Busy, Phase::Evicted]), None);
        let fresh = Candidate { id: 0, peer: peer(1), seen: Snapshot::new(Phase::Body, NOW) };
        assert_eq!(victim(NOW, [fresh].into_iter()), None, "a body that advances");
    }

    #[test]
    fn waits_while_every_connection_handles_a_request() {
        let busy = connections(&[Phase::Busy; 3]);
        assert_eq!(admit(arrival(2, false), MAX, 3, busy.into_iter()), Admission::Wait);
    }

    #[test]
    fn address_over_its_share_of_a_crowded_port_replaces_its_own() {
        let mut mixed = connections(&[Phase::Busy, Phase::Idle, Phase::Idle]);
        mixed[1].peer = peer(2);
        let admit_with =
            |peer, shared, open, of_peer| admit(arrival(peer, shared), open, of_peer, mixed.iter().copied());
        assert_eq!(admit_with(1, false, 79, 60), Admission::Admit, "not crowded");
        assert_eq!(evicted(admit_with(1, false, 80, 60)), Some(2), "its own, not the older one of another");
        assert_eq!(admit_with(1, true, 80, 60), Admission::Admit, "a shared address");
        assert_eq!(admit_with(2, false, 80, 5), Admission::Admit, "an address below its share");
        assert_eq!(admit_with(3, false, 80, 60), Admission::Reject, "nothing of its own to evict");
    }

    #[test]
    fn counts_ipv6_clients_by_their_network() {
        let v6 = |text: &str| Peer::new(text.parse().unwrap());
        assert_eq!(v6("2001:db8::1"), v6("2001:db8::ffff:1"));
        assert_ne!(v6("2001:db8::1"), v6("2001:db8:0:1::1"));
        assert_eq!(v6("::ffff:192.0.2.1"), peer(1));
    }
}
