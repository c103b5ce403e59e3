//! Parsers of flag values.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use url::{Host, Url};

use crate::core::bucket::Rate;
use crate::core::duration::DurationError;
use crate::core::relay_mark::is_installation_id;
use crate::core::urls::parse_any_url;
use crate::core::{duration, label_selector};

/// Parses a duration for which 0 means off.
pub fn parse_window(text: &str) -> Result<Duration, DurationError> {
    if text == "0" { Ok(Duration::ZERO) } else { duration::parse(text) }
}

/// Parses a rate such as `10/s` or `600/m`. The burst equals the number of requests.
pub fn parse_rate(text: &str) -> Result<Rate, String> {
    let (requests, unit) = text.split_once('/').unwrap_or((text, ""));
    let interval = match unit {
        "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        _ => Duration::ZERO,
    };
    match requests.parse() {
        Ok(requests @ 1..=1_000_000) if !interval.is_zero() => {
            Ok(Rate { requests, interval, burst: requests })
        }
        _ => Err("must be a number of requests per second or minute, such as 10/s or 600/m".to_owned()),
    }
}

/// Parses the duration of a watch, 5 s to 290 s, because load balancers drop connections that are idle for minutes.
pub fn parse_watch_timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration::parse(text).map_err(|e| e.to_string())?;
    if (5..=290).contains(&timeout.as_secs()) {
        Ok(timeout)
    } else {
        Err("must be between 5s and 290s".to_owned())
    }
}

/// Parses the name of a controller class, which is a label's value.
pub fn parse_class(text: &str) -> Result<String, &'static str> {
    const PROBLEM: &str = "must be a label's value: at most 63 letters, digits, '-', '_' or '.'";
    if label_selector::is_label_value(text) { Ok(text.to_owned()) } else { Err(PROBLEM) }
}

/// Parses a label selector. An empty one selects everything.
pub fn parse_selector(text: &str) -> Result<String, &'static str> {
    label_selector::check_selector(text).map(|()| text.to_owned())
}

/// Parses a percentage such as `90%` or `90`, from 1 to 100.
pub fn parse_percent(text: &str) -> Result<u8, String> {
    let digits = text.strip_suffix('%').unwrap_or(text);
    let percent = digits.parse().ok().filter(|n| (1..=100).contains(n) && !digits.starts_with('+'));
    percent.ok_or_else(|| "must be a percentage from 1% to 100%".to_owned())
}

/// Parses a network such as `10.0.0.0/8`, or an address as the network that contains only it.
pub fn parse_network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    network.ok_or_else(|| "must be a network such as 10.0.0.0/8, or an address".to_owned())
}

/// Parses the id of an installation.
pub fn parse_installation_id(text: &str) -> Result<String, String> {
    match is_installation_id(text) {
        true => Ok(text.to_owned()),
        false => Err("must have 1 to 63 letters, digits, dots, dashes or underscores".to_owned()),
    }
}

/// Parses the name or address of a host, without a port.
pub fn parse_host(text: &str) -> Result<String, String> {
    let bare = text.trim_matches(['[', ']']);
    let host = if bare.parse::<IpAddr>().is_ok() { Some(bare.to_owned()) } else { None };
    let host = host.or_else(|| Host::parse(text).ok().map(|host| host.to_string()));
    host.filter(|host| !host.is_empty() && !host.contains('*'))
        .ok_or_else(|| "must be a host name or an address, without scheme and port".to_owned())
}

/// Parses an http or https URL of a server.
pub fn parse_url(text: &str) -> Result<Url, &'static str> {
    let url = parse_any_url(text).ok_or("is not a URL: write it as http://HOST:PORT")?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must be an http or https URL, such as http://HOST:PORT");
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("has no host: write it as http://HOST:PORT");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("other users of the machine can read flags: give credentials in a file (--token-file)");
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_rates() {
        let expected =
            |requests, seconds| Rate { requests, interval: Duration::from_secs(seconds), burst: requests };
        assert_eq!(parse_rate("10/s"), Ok(expected(10, 1)));
        assert_eq!(parse_rate("600/m"), Ok(expected(600, 60)));
        for text in ["", "10", "10/", "/s", "0/s", "-1/s", "10/h", "1.5/s", "10/s/s"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn parses_networks_and_hosts() {
        let network = |text: &str| parse_network(text).map(|network| network.to_string());
        assert_eq!(network("10.0.0.0/8").as_deref(), Ok("10.0.0.0/8"));
        assert_eq!(network("192.0.2.1").as_deref(), Ok("192.0.2.1/32"));
        assert_eq!(network("2001:db8::/32").as_deref(), Ok("2001:db8::/32"));
        for text in ["", "proxy", "10.0.0.0/33", "10.0.0.0/8:80"] {
            assert!(network(text).is_err(), "{text}");
        }
        for (text, host) in [
            ("host.docker.internal", "host.docker.internal"),
            ("Kong", "kong"),
            ("192.0.2.1", "192.0.2.1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
        ] {
            assert_eq!(parse_host(text).as_deref(), Ok(host));
        }
        for text in ["", "kong:8080", "http://kong", "kong/path", "*.example.com", "a b"] {
            assert!(parse_host(text).is_err(), "{text}");
        }
    }

    #[test]
    fn parses_percentages() {
        assert_eq!(parse_percent("90%"), Ok(90));
        assert_eq!(parse_percent("1"), Ok(1));
        for text in ["", "%", "0%", "101%", "+5", "5.5%", "-1", "90%%"] {
            assert!(parse_percent(text).is_err(), "{text}");
        }
    }
}
