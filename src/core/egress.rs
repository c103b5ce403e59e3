//! Decides to which addresses the process may connect.
//!
//! The rules apply to the resolved address of each connection. Checking the host name instead would allow DNS rebinding,
//! and checking its text would miss the many notations of an address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

/// The addresses that are allowed without being in the allow list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EgressScope {
    /// Public and private addresses, because many receivers run inside the cluster.
    #[default]
    Cluster,
    /// Public addresses only.
    Public,
}

/// The egress rules of a process.
#[derive(Clone, Debug, Default)]
pub struct EgressRules {
    pub reach: EgressScope,
    /// Allows loopback addresses: in standalone mode and for commands that a user runs from a shell.
    pub loopback: bool,
    pub allow: Vec<IpNet>,
    pub deny: Vec<IpNet>,
    /// Denied even if the allow list contains them.
    pub always_denied: Vec<SocketAddr>,
}

/// Why an address is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EgressDenial {
    #[error("the address is unspecified, multicast or reserved")]
    Special,
    #[error("the address is link-local or a metadata service's")]
    LinkLocal,
    #[error("the address is the API server's")]
    ApiServer,
    #[error(
        "the API server's name cannot be resolved at the moment, and this private address with its port could be its address"
    )]
    ApiServerUnknown,
    #[error("the address is in the deny list")]
    DenyList,
    #[error("the address is a loopback address")]
    Loopback,
    #[error("the address is private and the egress policy is public")]
    Private,
}

impl EgressRules {
    /// Checks one address. An address that may be translated to several others must be allowed for each of them.
    pub fn check(&self, address: SocketAddr) -> Result<(), EgressDenial> {
        effective_addresses(address.ip()).into_iter().try_for_each(|ip| self.check_ip(ip, address.port()))
    }

    fn check_ip(&self, ip: IpAddr, port: u16) -> Result<(), EgressDenial> {
        let is_same =
            |denied: &SocketAddr| denied.port() == port && effective_addresses(denied.ip()).contains(&ip);
        if self.always_denied.iter().any(is_same) {
            return Err(EgressDenial::ApiServer);
        }
        if is_link_local(ip) {
            return Err(EgressDenial::LinkLocal);
        }
        if is_special(ip) {
            return Err(EgressDenial::Special);
        }
        if self.deny.iter().any(|net| net.contains(&ip)) {
            return Err(EgressDenial::DenyList);
        }
        if self.allow.iter().any(|net| net.contains(&ip)) {
            return Ok(());
        }
        if ip.is_loopback() && !self.loopback {
            return Err(EgressDenial::Loopback);
        }
        if !ip.is_loopback() && self.reach == EgressScope::Public && is_private(ip) {
            return Err(EgressDenial::Private);
        }
        Ok(())
    }
}

/// Returns the addresses that packets to `ip` may reach. An IPv6 address may embed an IPv4 address, or be translated or
/// tunnelled to one. If the format is ambiguous, returns all candidates.
pub(super) fn effective_addresses(ip: IpAddr) -> Vec<IpAddr> {
    let IpAddr::V6(v6) = ip else { return vec![ip] };
    let s = v6.segments();
    let o = v6.octets();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match s {
        // IPv4-mapped, and the well-known NAT64 prefix.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => vec![v4(high, low)],
        // IPv4-translated (RFC 2765).
        [0, 0, 0, 0, 0xffff, 0, high, low] => vec![v4(high, low)],
        // Local-use NAT64 (RFC 8215): the prefix may have 48, 56, 64 or 96 bits, and the ninth octet is never part of the
        // embedded address (RFC 6052).
        [0x64, 0xff9b, 1, ..] => {
            let embedded_at = |octets: [usize; 4]| {
                let [a, b, c, d] = octets.map(|octet| o.get(octet).copied().unwrap_or_default());
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            };
            let all = [[6, 7, 9, 10], [7, 9, 10, 11], [9, 10, 11, 12], [12, 13, 14, 15]].map(embedded_at);
            // Unroutable candidates come from a wrong guess of the prefix length.
            let routable: Vec<IpAddr> = all.into_iter().filter(|ip| !is_special(*ip)).collect();
            if routable.is_empty() { all.into() } else { routable }
        }
        // 6to4: packets go to the embedded IPv4 address only.
        [0x2002, high, low, ..] => vec![v4(high, low)],
        // Teredo: the server's address, and the client's address in inverted bits.
        [0x2001, 0, high, low, _, _, other_high, other_low] => {
            vec![v4(high, low), v4(!other_high, !other_low)]
        }
        // ISATAP, under any prefix.
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => vec![ip, v4(high, low)],
        // IPv4-compatible.
        [0, 0, 0, 0, 0, 0, high, low] if v6 != Ipv6Addr::LOCALHOST && v6 != Ipv6Addr::UNSPECIFIED => {
            vec![v4(high, low)]
        }
        _ => vec![ip],
    }
}

/// Returns true for link-local addresses, where most clouds run their metadata service, and for the metadata services
/// at other addresses.
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

/// Returns true for unspecified, multicast and reserved addresses.
fn is_special(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            first == 0 || first >= 240 || v4.is_multicast()
        }
        IpAddr::V6(v6) => v6.is_unspecified() || v6.is_multicast(),
    }
}

pub(super) fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            // Besides RFC 1918: carrier-grade NAT, benchmarking, IETF protocol assignments.
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

    fn check(rules: &EgressRules, ip: &str) -> Result<(), EgressDenial> {
        rules.check(SocketAddr::new(ip.parse().unwrap(), 443))
    }

    #[test]
    fn classifies_addresses() {
        let cluster = EgressRules::default();
        let public = EgressRules { reach: EgressScope::Public, ..EgressRules::default() };
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
            assert_eq!(check(&public, ip), Err(EgressDenial::Private), "{ip}");
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
            assert_eq!(check(&cluster, ip), Err(EgressDenial::Loopback), "{ip}");
            assert_eq!(check(&EgressRules { loopback: true, ..EgressRules::default() }, ip), Ok(()), "{ip}");
        }
        let open = EgressRules {
            loopback: true,
            allow: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
            ..EgressRules::default()
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
            // NAT64 prefixes of 48, 56, 64 and 96 bits.
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
            assert_eq!(check(&open, ip), Err(EgressDenial::LinkLocal), "{ip}");
        }
        for ip in ["0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "240.0.0.1", "::", "ff02::1"] {
            assert_eq!(check(&open, ip), Err(EgressDenial::Special), "{ip}");
        }
    }

    #[test]
    fn deny_list_wins_over_allow_list() {
        let rules = EgressRules {
            reach: EgressScope::Public,
            allow: vec!["127.0.0.0/8".parse().unwrap(), "10.1.0.0/16".parse().unwrap()],
            deny: vec!["10.1.2.0/24".parse().unwrap(), "93.184.216.34/32".parse().unwrap()],
            ..EgressRules::default()
        };
        assert_eq!(check(&rules, "127.0.0.1"), Ok(()));
        assert_eq!(check(&rules, "10.1.1.1"), Ok(()));
        assert_eq!(check(&rules, "10.1.2.1"), Err(EgressDenial::DenyList), "deny wins");
        assert_eq!(check(&rules, "::ffff:93.184.216.34"), Err(EgressDenial::DenyList));
    }

    #[test]
    fn denies_api_server_by_address_and_port() {
        let denied = vec!["10.96.0.1:443".parse().unwrap()];
        let rules = EgressRules {
            always_denied: denied,
            allow: vec!["10.0.0.0/8".parse().unwrap()],
            ..EgressRules::default()
        };
        assert_eq!(check(&rules, "10.96.0.1"), Err(EgressDenial::ApiServer));
        assert_eq!(check(&rules, "::ffff:10.96.0.1"), Err(EgressDenial::ApiServer));
        assert_eq!(check(&rules, "64:ff9b:1:a60:0:100::"), Err(EgressDenial::ApiServer));
        assert_eq!(rules.check("10.96.0.1:8443".parse().unwrap()), Ok(()));
    }
}
