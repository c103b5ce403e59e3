//! The Helm charts: rendered objects are valid and restricted, and an installation works.

mod admission;
mod installation;
mod installed;
mod matrix;
mod rendered;
mod tls;
mod values;
