//! The command line.

mod commands;
mod diff;
mod import;
mod manifest_files;
mod orphans;
mod release;
mod standalone;
mod store;
mod usage_errors;
