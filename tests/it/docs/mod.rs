//! The documents are correct: commands work, reasons are listed, links lead somewhere, metrics exist, and generated files
//! are current.

mod architecture;
mod ci;
mod commands;
mod conformance;
mod explained;
mod generated;
mod gitops;
mod metrics;
mod operations;
pub mod pages;
mod postgresql;
mod quickstart;
mod reasons;
mod security_claims;
mod shell;
mod typed;
