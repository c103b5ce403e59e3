//! Flags that restrict outgoing requests.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::ValueEnum;
use ipnet::IpNet;

use crate::cli::failure::{Failure, OrFail};
use crate::core::egress;
use crate::core::urls::parse_any_url;
use crate::net::{Bypass, Egress, Proxy};

/// Flags for the destinations of deliveries and admin API calls.
#[derive(clap::Args, Clone, Debug)]
pub struct EgressArgs {
    /// The addresses that requests may reach. cluster: public and private ones; public: only public ones.
    #[arg(long, value_enum, default_value_t = EgressPolicy::Cluster, value_name = "POLICY", env = "HOOKSTREAM_EGRESS_POLICY")]
    egress_policy: EgressPolicy,
    /// Networks that are allowed regardless of the policy, such as 10.1.0.0/16.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', env = "HOOKSTREAM_EGRESS_ALLOW")]
    egress_allow: Vec<IpNet>,
    /// Networks that are denied, even if the policy or --egress-allow allows them.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', env = "HOOKSTREAM_EGRESS_DENY")]
    egress_deny: Vec<IpNet>,
    /// An HTTP proxy for every request (by CONNECT), such as http://proxy.example.com:3128. HTTPS_PROXY and similar variables
    /// are ignored.
    // Parsed later, because clap prints a value that it rejects, and this one may contain a password.
    #[arg(long, value_name = "URL", env = "HOOKSTREAM_EGRESS_PROXY", hide_env_values = true)]
    egress_proxy: Option<String>,
    /// A file with user:password for the proxy. A replaced file takes effect at the next connection.
    #[arg(long, value_name = "FILE", requires = "egress_proxy", env = "HOOKSTREAM_EGRESS_PROXY_AUTH")]
    egress_proxy_auth: Option<PathBuf>,
    /// Destinations that bypass the proxy: host names, suffixes such as .svc, and networks.
    #[arg(long, value_name = "HOST|CIDR", value_delimiter = ',', env = "HOOKSTREAM_EGRESS_PROXY_BYPASS")]
    egress_proxy_bypass: Vec<Bypass>,
}

/// The address of a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ProxyAddress {
    host: String,
    port: u16,
}

/// Parses the address of a proxy.
fn parse_proxy(text: &str) -> Result<ProxyAddress, String> {
    let url = parse_any_url(text).ok_or("is not a URL: give http://HOST:PORT")?;
    if url.scheme() != "http" {
        return Err("the connection to the proxy is plain HTTP: give http://HOST:PORT".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "other users of the machine can read flags: give user:password in a file with --egress-proxy-auth"
                .into(),
        );
    }
    match (url.host_str(), url.path(), url.query()) {
        (Some(host), "/", None) => {
            let host = host.trim_matches(['[', ']']).to_owned();
            Ok(ProxyAddress { host, port: url.port_or_known_default().unwrap_or(80) })
        }
        _ => Err("a proxy address has a host, a port and no path: give http://HOST:PORT".to_owned()),
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EgressPolicy {
    Cluster,
    Public,
}

impl EgressArgs {
    /// Builds the egress. `loopback` allows loopback addresses; `blocked` are addresses that are never reached, such as the
    /// API server's.
    pub async fn build(&self, loopback: bool, blocked: Vec<SocketAddr>) -> Result<Egress, Failure> {
        let egress = Egress::new(self.policy(loopback, blocked));
        let Some(address) = &self.egress_proxy else { return Ok(egress) };
        let ProxyAddress { host, port } = parse_proxy(address).or_fail(|| "--egress-proxy".into())?;
        let (credentials, bypass) = (self.egress_proxy_auth.clone(), self.egress_proxy_bypass.clone());
        let proxy = Proxy { host, port, credentials, bypass };
        // Fail at the start, not at the first delivery.
        proxy.read_credentials().await.or_fail(|| "--egress-proxy-auth".into())?;
        Ok(egress.via_proxy(proxy))
    }

    fn policy(&self, loopback: bool, blocked: Vec<SocketAddr>) -> egress::EgressRules {
        egress::EgressRules {
            reach: match self.egress_policy {
                EgressPolicy::Cluster => egress::EgressScope::Cluster,
                EgressPolicy::Public => egress::EgressScope::Public,
            },
            loopback,
            allow: self.egress_allow.clone(),
            deny: self.egress_deny.clone(),
            always_denied: blocked,
        }
    }
}
