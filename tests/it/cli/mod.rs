//! The command line.

mod commands;
mod diff;
mod import;
mod release;
mod standalone;
mod store;
mod usage_errors;
