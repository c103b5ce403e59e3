//! The Helm charts: rendered objects are valid and restricted, and an installation works.

mod admission;
mod installation;
mod installed;
mod rendered;
mod tls;
