//! Warnings about flags that have no effect without another flag.
//!
//! They are no usage errors of clap (`requires`), because a variable that is set for a whole shell would then fail commands that
//! do not use it. Variables cause no warning.

use clap::ArgMatches;
use clap::parser::ValueSource;

/// Flags of a command that have an effect only with another one. All are ids of clap.
struct DependentFlags {
    command: &'static str,
    needs: &'static str,
    flags: &'static [&'static str],
}

const DEPENDENT: [DependentFlags; 2] = [
    DependentFlags {
        command: "diff",
        needs: "cluster",
        flags: &["context", "kubeconfig", "operator_namespace"],
    },
    DependentFlags {
        command: "test",
        needs: "event_id",
        flags: &[
            "namespace",
            "token_file",
            "service_account",
            "token_audience",
            "profile",
            "context",
            "kubeconfig",
            "ca_file",
            "url",
            "service",
        ],
    },
];

/// Returns a warning if flags of the command line have no effect.
pub fn warning(matches: &ArgMatches) -> Option<String> {
    let (command, matches) = matches.subcommand()?;
    let dependent = DEPENDENT.iter().find(|dependent| dependent.command == command)?;
    if !matches!(matches.value_source(dependent.needs), None | Some(ValueSource::DefaultValue)) {
        return None;
    }
    let is_given = |flag: &&&str| matches.value_source(flag) == Some(ValueSource::CommandLine);
    let unused: Vec<String> = dependent.flags.iter().filter(is_given).map(|flag| flag_name(flag)).collect();
    let verb = if unused.len() == 1 { "has" } else { "have" };
    let needs = flag_name(dependent.needs);
    (!unused.is_empty()).then(|| format!("{} {verb} no effect without {needs}", unused.join(", ")))
}

fn flag_name(id: &str) -> String {
    format!("--{}", id.replace('_', "-"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn warns_about_flags_without_the_one_they_need() {
        for (args, expected) in [
            (
                "test -f x --data 1 --context prod -n shop",
                Some("--namespace, --context have no effect without --event-id"),
            ),
            (
                "test -f x --data 1 --url http://a --ca-file c",
                Some("--ca-file, --url have no effect without --event-id"),
            ),
            ("test -f x --event-id 1 --context prod", None),
            ("test -f x --data 1", None),
            ("diff x --operator-namespace a", Some("--operator-namespace has no effect without --cluster")),
            ("diff x --operator-namespace a --cluster", None),
            ("crds", None),
        ] {
            let words = std::iter::once("hookstream").chain(args.split(' '));
            let matches = Cli::command().try_get_matches_from(words).unwrap();
            assert_eq!(warning(&matches).as_deref(), expected, "{args}");
        }
    }
}
