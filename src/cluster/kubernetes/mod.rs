//! A Kubernetes cluster, through its API server.

mod api_config;
mod api_reviewer;
mod api_server;
mod authorizer;
mod bearer_token;
mod client;
mod data_cache;
mod events;
mod foreign_status;
mod installed_crds;
mod key_ring;
mod leader;
mod lease;
mod own_writes;
mod review_cache;
mod watch;
mod watch_liveness;
mod watch_restart;

pub use api_config::ApiConfig;
pub use api_server::api_resource;
pub use client::{Kubernetes, KubernetesOptions};
pub use leader::{LeaseLocation, read_leader};
pub use lease::{LeaderElection, LeaseOptions};
pub use watch::{ClusterWatch, watch};
pub use watch_liveness::{WatchLiveness, WatchLivenessLayer};
