//! Sizes of a run, which environment variables change.

/// Returns the number in an environment variable, or the default.
pub fn number(name: &str, default: usize) -> usize {
    match std::env::var(name) {
        Ok(text) => {
            text.replace('_', "").parse().unwrap_or_else(|_| panic!("{name} must be a number: {text}"))
        }
        Err(_) => default,
    }
}
