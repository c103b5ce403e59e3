//! The worker: ingest, matching, delivery, holds, the deliveries API and the store.

mod api_server_proxy;
mod auth0_ingest;
mod authorization;
mod backlog_shares;
mod bad_receivers;
mod cloudevents;
mod deliveries;
mod deliveries_api;
mod durability;
mod egress_proxy;
mod failed_fsync;
mod filters;
mod full_disk;
mod gates;
mod handlers;
mod held_deliveries;
mod invalid_events;
mod kong_reads;
mod metrics;
mod missing_objects;
mod namespace_recreation;
mod pending_deliveries;
mod relays;
mod request_ids;
mod scripts;
