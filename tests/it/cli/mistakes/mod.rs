//! Mistakes that people make: each answer is one line with cause and remedy, without Rust values.

mod files;
mod flags;

use super::run_with;
use crate::harness::control_plane;

/// How Rust shows values, and how libraries hide causes.
const RUST_VALUES: [&str; 12] = [
    "Status {",
    "OtherError(",
    "Millis(",
    "ServiceError",
    "Some(",
    "Err(",
    "Os {",
    "Error {",
    "Kind(",
    "Custom {",
    "Utf8Error",
    "ParseIntError",
];

/// Arguments, variables, the exit code, and parts of the message.
struct Mistake<'a> {
    args: Vec<&'a str>,
    envs: Vec<(&'a str, &'a str)>,
    code: i32,
    parts: Vec<String>,
}

fn mistake<'a>(args: &[&'a str], code: i32, parts: &[&str]) -> Mistake<'a> {
    Mistake {
        args: args.to_vec(),
        envs: Vec::new(),
        code,
        parts: parts.iter().map(|part| (*part).to_owned()).collect(),
    }
}

fn with_env<'a>(envs: &[(&'a str, &'a str)], mistake: Mistake<'a>) -> Mistake<'a> {
    Mistake { envs: envs.to_vec(), ..mistake }
}

/// Runs each row and fails with all wrong answers.
async fn check(mistakes: Vec<Mistake<'_>>) {
    let mut wrong = Vec::new();
    for Mistake { args, envs, code, parts } in mistakes {
        let envs: Vec<_> = [("KUBECONFIG", "/no/such/config")].into_iter().chain(envs).collect();
        let (exit_code, out, error) = run_with(&args, &envs).await;
        // `validate` prints its findings on standard output, below a header.
        let answer =
            if args[0] == "validate" { out.lines().skip(1).collect::<Vec<_>>().join("\n") } else { error };
        let status = ["400", "401", "403", "404", "500", "503"].into_iter().find(|status| {
            answer.matches(&format!(" {status} ")).count() + answer.matches(&format!("({status})")).count()
                > 1
        });
        let problem = match () {
            () if exit_code != code => format!("exits with {exit_code}, not {code}"),
            () if answer.trim_end().lines().count() != 1 => "is not one line".to_owned(),
            () if RUST_VALUES.iter().any(|value| answer.contains(value)) => "shows a Rust value".to_owned(),
            () if status.is_some() => "has the status twice".to_owned(),
            () => match parts.iter().find(|part| !answer.contains(part.as_str())) {
                Some(part) => format!("lacks {part:?}"),
                None => continue,
            },
        };
        wrong.push(format!("hookstream {}\n  {problem}: {answer}", args.join(" ")));
    }
    assert!(wrong.is_empty(), "{} wrong answers:\n{}", wrong.len(), wrong.join("\n"));
}

const HOOK: &str = "apiVersion: hookstream.dev/v1alpha1\nkind: EventHook\nmetadata: {name: a}\nspec:\n  source: s\n  handler: {log: {}}\n";

#[tokio::test(flavor = "multi_thread")]
async fn of_rights_in_a_cluster_are_answered_in_one_line() {
    let namespace = control_plane().namespace("mistakes").await;
    let kubeconfig = namespace.service_account("no-rights", "[]").await;
    let kubeconfig = [("KUBECONFIG", kubeconfig.to_str().unwrap())];
    let user = format!("User \"system:serviceaccount:{}:no-rights\" cannot", namespace.name);
    let place = format!("in the namespace \"{}\"", namespace.name);
    let list = ["deliveries", "list", "-n", &namespace.name];
    let service = format!("--service={}/hookstream-api:api", namespace.name);
    let creator = namespace
        .service_account(
            "creator",
            "[{apiGroups: [''], resources: [serviceaccounts/token], verbs: [create]}]",
        )
        .await;
    let creator = [("KUBECONFIG", creator.to_str().unwrap())];
    check(vec![
        with_env(
            &kubeconfig,
            mistake(
                &[&list[..], &["--service", "--service-account", "no-rights"]].concat(),
                2,
                &[
                    &user,
                    "create resource \"serviceaccounts/token\"",
                    &place,
                    "ask for a Role with this right",
                ],
            ),
        ),
        with_env(
            &kubeconfig,
            mistake(
                &[&list[..], &[&service]].concat(),
                2,
                &[&user, "get resource \"services/proxy\"", &place, "ask for a Role with this right"],
            ),
        ),
        with_env(
            &creator,
            mistake(
                &[&list[..], &["--service", "--service-account", "nope"]].concat(),
                2,
                &["it does not exist: create it, or name another with --service-account"],
            ),
        ),
        with_env(
            &kubeconfig,
            mistake(&["uninstall-check"], 2, &["is forbidden", "ask for a Role with this right"]),
        ),
    ])
    .await;
}
