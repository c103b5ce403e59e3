//! The emulators of Kong and Auth0.

mod auth0;
