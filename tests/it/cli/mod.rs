//! The command line.

mod all_namespaces;
mod cluster_status;
mod cluster_worker;
mod commands;
mod database;
mod deliveries;
mod diff;
mod diff_cluster;
mod environment;
mod import;
mod manifest_files;
mod mistakes;
mod object_requests;
mod on_call;
mod orphans;
mod profiles;
mod progress;
mod release;
mod shared_standalone;
mod standalone;
mod status;
mod store;
mod store_copy;
mod tables;
mod terminal;
mod usage_errors;
mod validate;
mod version;

use crate::harness::Process;

/// Runs the program. Returns the exit code, standard output and standard error.
async fn run(args: &[&str]) -> (i32, String, String) {
    run_with(args, &[]).await
}

/// Runs the program with these variables.
async fn run_with(args: &[&str], envs: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = Process::command(args, envs);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let [out, error] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.code().unwrap(), out, error)
}
