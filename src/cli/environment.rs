//! Variables named `HOOKSTREAM_*`: finds those that no flag reads, which are likely mistyped.

use std::collections::BTreeSet;

use clap::Command;

use crate::core::suggest::closest;

const PREFIX: &str = "HOOKSTREAM_";

/// Returns a message for each `HOOKSTREAM_*` variable that no flag of the program reads.
pub fn unknown_variables(program: &Command) -> Vec<String> {
    let variables = std::env::vars_os().filter_map(|(name, value)| {
        Some((name.into_string().ok()?, value.into_string().unwrap_or_default()))
    });
    find_unknown(&known_names(program), variables)
}

/// Returns the variables of all flags of all commands.
pub fn known_names(program: &Command) -> BTreeSet<String> {
    let own = program.get_arguments().filter_map(|arg| arg.get_env()?.to_str().map(ToOwned::to_owned));
    own.chain(program.get_subcommands().flat_map(known_names)).collect()
}

fn find_unknown(known: &BTreeSet<String>, variables: impl Iterator<Item = (String, String)>) -> Vec<String> {
    let mut unknown: Vec<String> = variables
        .filter(|(name, value)| {
            name.starts_with(PREFIX) && !known.contains(name) && !is_service_variable(name, value)
        })
        .map(|(name, _)| {
            // Without the common prefix, which would make every name similar.
            let names = known.iter().filter_map(|name| name.strip_prefix(PREFIX));
            let similar = closest(name.trim_start_matches(PREFIX), names);
            let suggestion =
                similar.map(|similar| format!(": did you mean {PREFIX}{similar}?")).unwrap_or_default();
            format!("no flag reads the variable {name}{suggestion}")
        })
        .collect();
    unknown.sort();
    unknown
}

/// Returns true for a variable that Kubernetes sets in every Pod for a Service whose name begins with `hookstream`, such as
/// `HOOKSTREAM_API_SERVICE_HOST` and `HOOKSTREAM_PORT_8080_TCP_ADDR`.
pub fn is_service_variable(name: &str, value: &str) -> bool {
    // HOOKSTREAM_PORT=tcp://10.0.0.1:8080. The value distinguishes it from a mistyped flag.
    let is_link = || ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && is_link())
        || name.match_indices("_PORT_").any(|(at, found)| name.get(at + found.len()..).is_some_and(is_port))
}

/// Returns true for `8080_TCP` and `8080_TCP_PROTO`, `_PORT` or `_ADDR`.
fn is_port(text: &str) -> bool {
    let mut parts = text.split('_');
    let has_number = parts.next().is_some_and(|number| number.parse::<u16>().is_ok());
    let has_protocol = matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"));
    let has_suffix = matches!(parts.next(), None | Some("PROTO" | "PORT" | "ADDR"));
    has_number && has_protocol && has_suffix && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_mistyped_names_and_no_services() {
        let known = ["HOOKSTREAM_LISTEN", "HOOKSTREAM_API_LISTEN", "HOOKSTREAM_LOG_LEVEL"];
        let known = known.into_iter().map(ToOwned::to_owned).collect();
        let unknown = |name: &str, value: &str| {
            find_unknown(&known, std::iter::once((name.to_owned(), value.to_owned())))
        };
        for (name, value) in [
            ("HOOKSTREAM_LISTEN", ":1"),
            ("PATH", "/bin"),
            ("HOOKSTREAM_SERVICE_HOST", "10.0.0.1"),
            ("HOOKSTREAM_SERVICE_PORT", "8080"),
            ("HOOKSTREAM_SERVICE_PORT_INGEST", "8080"),
            ("HOOKSTREAM_PORT", "tcp://10.0.0.1:8080"),
            ("HOOKSTREAM_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("HOOKSTREAM_PORT_8080_TCP_PROTO", "tcp"),
            ("HOOKSTREAM_PORT_8080_TCP_PORT", "8080"),
            ("HOOKSTREAM_PORT_8080_TCP_ADDR", "10.0.0.1"),
            ("HOOKSTREAM_INGEST_SERVICE_HOST", "10.0.0.1"),
            ("HOOKSTREAM_INGEST_PORT_53_UDP", "udp://10.0.0.1:53"),
        ] {
            assert!(unknown(name, value).is_empty(), "{name}");
        }
        for (name, message) in [
            (
                "HOOKSTREAM_LISTN",
                "no flag reads the variable HOOKSTREAM_LISTN: did you mean HOOKSTREAM_LISTEN?",
            ),
            ("HOOKSTREAM_PORT", "no flag reads the variable HOOKSTREAM_PORT"),
            ("HOOKSTREAM_COLOUR", "no flag reads the variable HOOKSTREAM_COLOUR"),
            (
                "HOOKSTREAM_LOGLEVEL",
                "no flag reads the variable HOOKSTREAM_LOGLEVEL: did you mean HOOKSTREAM_LOG_LEVEL?",
            ),
        ] {
            assert_eq!(unknown(name, "8080"), [message]);
        }
    }
}
