//! Flags that several commands share.

mod controller;
mod egress;
mod listen;
mod operator_namespace;
mod parse;
mod store;
mod traces;
mod worker;

pub use controller::{ControllerArgs, LeaseArgs, LeaseNameArgs, SelectionArgs};
pub use egress::EgressArgs;
pub use listen::ListenAddress;
pub use operator_namespace::OperatorNamespaceArgs;
pub use parse::{parse_host, parse_installation_id, parse_selector, parse_url, parse_watch_timeout};
pub use store::DatabaseArgs;
pub use traces::TraceArgs;
pub use worker::{ScriptArgs, ServerTlsArgs, WebhookOriginArgs, WorkerArgs};
