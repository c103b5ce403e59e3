//! Which addresses may be connected to.
//!
//! Asked of the address that is connected to, after the name was resolved: a check of the name would be fooled by a name
//! that resolves to something else the next time, and a check of the text by the many ways to write an address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

/// What may be reached besides the lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Private ranges too: receivers inside the cluster are usual.
    #[default]
    Cluster,
    /// Public addresses only.
    Public,
}

/// The egress policy.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    pub reach: Reach,
    /// Loopback addresses may be used: standalone, and commands that a user runs from a shell.
    pub loopback: bool,
    pub allow: Vec<IpNet>,
    pub deny: Vec<IpNet>,
    /// Never connected to: the API server, whose address would serve a request with the operator's network identity.
    pub refused: Vec<SocketAddr>,
}

/// Why an address is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("the address is unspecified, multicast or reserved")]
    Special,
    #[error("the address is link-local or a metadata service's")]
    LinkLocal,
    #[error("the address is the API server's")]
    ApiServer,
    #[error("the address is in the deny list")]
    DenyList,
    #[error("the address is a loopback address")]
    Loopback,
    #[error("the address is private and the egress policy is public")]
    Private,
}

impl Policy {
    /// Decides about one address, whatever form it came in: one that may lead to several must be allowed as each of
    /// them.
    pub fn check(&self, address: SocketAddr) -> Result<(), Denied> {
        leads_to(address.ip()).into_iter().try_for_each(|ip| self.judge(ip, address.port()))
    }

    fn judge(&self, ip: IpAddr, port: u16) -> Result<(), Denied> {
        let is_it = |refused: &SocketAddr| refused.port() == port && leads_to(refused.ip()).contains(&ip);
        if self.refused.iter().any(is_it) {
            return Err(Denied::ApiServer);
        }
        if is_link_local(ip) {
            return Err(Denied::LinkLocal);
        }
        if is_special(ip) {
            return Err(Denied::Special);
        }
        if self.deny.iter().any(|net| net.contains(&ip)) {
            return Err(Denied::DenyList);
        }
        if self.allow.iter().any(|net| net.contains(&ip)) {
            return Ok(());
        }
        if ip.is_loopback() && !self.loopback {
            return Err(Denied::Loopback);
        }
        if !ip.is_loopback() && self.reach == Reach::Public && is_private(ip) {
            return Err(Denied::Private);
        }
        Ok(())
    }
}

/// Where an address leads: an IPv6 one may be another way to write an IPv4 one, or be translated or tunnelled to it.
/// Where the form does not tell which bits count, all that may.
fn leads_to(ip: IpAddr) -> Vec<IpAddr> {
    let IpAddr::V6(v6) = ip else { return vec![ip] };
    let s = v6.segments();
    let o = v6.octets();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match s {
        // Mapped, and the well-known prefix of NAT64.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => vec![v4(high, low)],
        // Translated (RFC 2765).
        [0, 0, 0, 0, 0xffff, 0, high, low] => vec![v4(high, low)],
        // NAT64 in a network's own way (RFC 8215): the prefix may have 48, 56, 64 or 96 bits, and the ninth octet of an
        // address is never part of what is embedded (RFC 6052).
        [0x64, 0xff9b, 1, ..] => {
            let at = |places: [usize; 4]| {
                let [a, b, c, d] = places.map(|place| o.get(place).copied().unwrap_or_default());
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            };
            let all = [[6, 7, 9, 10], [7, 9, 10, 11], [9, 10, 11, 12], [12, 13, 14, 15]].map(at);
            // What no packet goes to was not meant.
            let meant: Vec<IpAddr> = all.into_iter().filter(|ip| !is_special(*ip)).collect();
            if meant.is_empty() { all.into() } else { meant }
        }
        // 6to4; the address itself is nobody's.
        [0x2002, high, low, ..] => vec![v4(high, low)],
        // Teredo: its server, and who is behind it, written inverted.
        [0x2001, 0, high, low, _, _, other_high, other_low] => {
            vec![v4(high, low), v4(!other_high, !other_low)]
        }
        // ISATAP, under any prefix.
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => vec![ip, v4(high, low)],
        // Compatible.
        [0, 0, 0, 0, 0, 0, high, low] if v6 != Ipv6Addr::LOCALHOST && v6 != Ipv6Addr::UNSPECIFIED => {
            vec![v4(high, low)]
        }
        _ => vec![ip],
    }
}

/// Link-local ranges hold the clouds' metadata services; the others are metadata services elsewhere.
fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            // Alibaba, Azure, Oracle.
            let others = [[100, 100, 100, 200], [168, 63, 129, 16], [192, 0, 0, 192]];
            ip.is_link_local() || others.contains(&ip.octets())
        }
        IpAddr::V6(ip) => {
            // AWS with its time and name servers, Google, Oracle, Scaleway.
            matches!(
                ip.segments(),
                [0xfe80..=0xfebf, ..]
                    | [0xfd00, 0xec2, 0, 0, 0, 0, 0, _]
                    | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]
                    | [0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe]
                    | [0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42]
            )
        }
    }
}

fn is_special(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            first == 0 || first >= 240 || v4.is_multicast()
        }
        IpAddr::V6(v6) => v6.is_unspecified() || v6.is_multicast(),
    }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            // Shared by carriers, benchmarks, protocol assignments.
            let [_, _, c, _] = v4.octets();
            v4.is_private()
                || (a == 100 && (64..128).contains(&b))
                || (a == 198 && (b & 0xfe) == 18)
                || (a, b, c) == (192, 0, 0)
        }
        IpAddr::V6(v6) => v6.segments().first().is_some_and(|s| s & 0xfe00 == 0xfc00 || s & 0xffc0 == 0xfec0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(policy: &Policy, ip: &str) -> Result<(), Denied> {
        policy.check(SocketAddr::new(ip.parse().unwrap(), 443))
    }

    #[test]
    fn table() {
        let cluster = Policy::default();
        let public = Policy { reach: Reach::Public, ..Policy::default() };
        for ip in ["93.184.216.34", "2606:2800:220:1::1", "8.8.8.8", "64:ff9b::808:808"] {
            assert_eq!(check(&cluster, ip), Ok(()), "{ip}");
            assert_eq!(check(&public, ip), Ok(()), "{ip}");
        }
        for ip in [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "198.19.0.1",
            "fd12::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "64:ff9b:1::a00:1",
            "::ffff:0:10.0.0.1",
            "64:ff9b:1:a00:0:100::",
            "2001:0:a00:1::f7f7:f7f7",
            "2001:0:808:808::f5ff:fffe",
            "2a00::5efe:10.0.0.1",
            "192.0.0.9",
        ] {
            assert_eq!(check(&cluster, ip), Ok(()), "{ip}");
            assert_eq!(check(&public, ip), Err(Denied::Private), "{ip}");
        }
        for ip in [
            "127.0.0.1",
            "127.8.8.8",
            "::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "::7f00:1",
            "::ffff:0:127.0.0.1",
            "2001:0:808:808::80ff:fffe",
        ] {
            assert_eq!(check(&cluster, ip), Err(Denied::Loopback), "{ip}");
            assert_eq!(check(&Policy { loopback: true, ..Policy::default() }, ip), Ok(()), "{ip}");
        }
        let open = Policy {
            loopback: true,
            allow: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
            ..Policy::default()
        };
        for ip in [
            "169.254.169.254",
            "169.254.0.1",
            "fe80::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::",
            "::ffff:0:169.254.169.254",
            "::169.254.169.254",
            // NAT64 with a prefix of 48, 56, 64 and 96 bits.
            "64:ff9b:1:a9fe:a9:fe00::",
            "64:ff9b:1:a9:fe:a9fe::",
            "64:ff9b:1:0:a9:fea9:fe00:0",
            "64:ff9b:1::a9fe:a9fe",
            "2001:0:a9fe:a9fe::f7f7:f7f7",
            "2001:0:808:808::5601:5601",
            "2a00::200:5efe:169.254.169.254",
            "fe80::5efe:8.8.8.8",
            "febf::1",
            "fd00:ec2::123",
            "fd20:ce::254",
            "fd00:c1::a9fe:a9fe",
            "fd00:42::42",
            "168.63.129.16",
            "192.0.0.192",
        ] {
            assert_eq!(check(&open, ip), Err(Denied::LinkLocal), "{ip}");
        }
        for ip in ["0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "240.0.0.1", "::", "ff02::1"] {
            assert_eq!(check(&open, ip), Err(Denied::Special), "{ip}");
        }
    }

    #[test]
    fn lists() {
        let policy = Policy {
            reach: Reach::Public,
            allow: vec!["127.0.0.0/8".parse().unwrap(), "10.1.0.0/16".parse().unwrap()],
            deny: vec!["10.1.2.0/24".parse().unwrap(), "93.184.216.34/32".parse().unwrap()],
            ..Policy::default()
        };
        assert_eq!(check(&policy, "127.0.0.1"), Ok(()));
        assert_eq!(check(&policy, "10.1.1.1"), Ok(()));
        assert_eq!(check(&policy, "10.1.2.1"), Err(Denied::DenyList), "deny wins");
        assert_eq!(check(&policy, "::ffff:93.184.216.34"), Err(Denied::DenyList));
    }

    #[test]
    fn the_api_server_is_refused_by_address_and_port() {
        let refused = vec!["10.96.0.1:443".parse().unwrap()];
        let policy = Policy { refused, allow: vec!["10.0.0.0/8".parse().unwrap()], ..Policy::default() };
        assert_eq!(check(&policy, "10.96.0.1"), Err(Denied::ApiServer));
        assert_eq!(check(&policy, "::ffff:10.96.0.1"), Err(Denied::ApiServer));
        assert_eq!(check(&policy, "64:ff9b:1:a60:0:100::"), Err(Denied::ApiServer));
        assert_eq!(policy.check("10.96.0.1:8443".parse().unwrap()), Ok(()));
    }
}
