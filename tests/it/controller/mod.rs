//! The controller: objects at Kong and Auth0, status, leader election.

mod adoption;
mod auth0_hooks;
mod auth0_policies;
mod auth0_rate_limits;
mod auth0_streams;
mod crash_points;
mod deletion;
mod delivering_condition;
mod delivery_moves;
mod foreign_answers;
mod hidden_secrets;
mod idle;
mod invalid_references;
mod kong_errors;
mod kong_variants;
mod leadership;
mod lifecycle;
mod lost_key_ring;
mod malformed_objects;
mod namespace_deletion;
mod probes;
mod random_kills;
mod rate_limits;
mod status_writes;
mod suspension;
