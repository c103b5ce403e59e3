//! The name by which the program was started: `hookstream`, or `kubectl hookstream` as a plugin of kubectl.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::OnceLock;

/// The file name of the program as a plugin of kubectl.
const PLUGIN_FILE: &str = "kubectl-hookstream";

/// Returns true if the program was started as a plugin of kubectl: it then works on the kubeconfig's current context.
pub fn is_kubectl_plugin() -> bool {
    static IS_PLUGIN: OnceLock<bool> = OnceLock::new();
    *IS_PLUGIN.get_or_init(|| std::env::args_os().next().is_some_and(|program| is_plugin_file(&program)))
}

/// Returns the words that start the program, for usage texts.
pub fn program_name() -> &'static str {
    if is_kubectl_plugin() { "kubectl hookstream" } else { "hookstream" }
}

fn is_plugin_file(program: &OsStr) -> bool {
    Path::new(program).file_stem() == Some(OsStr::new(PLUGIN_FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognizes_the_plugin_by_its_file_name() {
        for (program, expected) in [
            ("kubectl-hookstream", true),
            ("/usr/local/bin/kubectl-hookstream", true),
            ("hookstream", false),
            ("./kubectl-hookstream-x", false),
            ("", false),
        ] {
            assert_eq!(is_plugin_file(OsStr::new(program)), expected, "{program}");
        }
    }
}
