//! The sessions of users: where their token comes from, and how requests of other sites are kept out.

mod caller;
mod csrf;
mod keys;
mod login;
mod login_limit;
mod origin;
mod seal;

pub use caller::Caller;
pub use keys::{KeySource, SessionKeys};
pub use login::routes;
pub use login_limit::LoginLimit;
pub use origin::check_origin;
pub use {csrf::is_valid as is_valid_csrf_token, csrf::issue as issue_csrf_token};
