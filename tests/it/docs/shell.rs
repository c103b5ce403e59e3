//! A user's shell: a folder with the repository's files, and the tools on the path.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::pages::root;
use crate::harness::{run, tool, watchdog};

pub struct Shell {
    pub folder: PathBuf,
    envs: Vec<(String, String)>,
}

impl Shell {
    /// Creates the folder. Commands use this kubeconfig.
    pub fn new(hint: &str, kubeconfig: &Path) -> Shell {
        let folder = watchdog::unique_path(hint);
        std::fs::create_dir(&folder).unwrap();
        for name in ["charts", "deploy"] {
            std::os::unix::fs::symlink(root().join(name), folder.join(name)).unwrap();
        }
        // `kubectl apply -f` does not follow a link to a folder.
        std::fs::create_dir(folder.join("crds")).unwrap();
        for file in std::fs::read_dir(root().join("crds")).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), folder.join("crds").join(file.file_name())).unwrap();
        }
        std::fs::create_dir(folder.join("bin")).unwrap();
        for name in ["kubectl", "helm"] {
            std::os::unix::fs::symlink(tool(name), folder.join("bin").join(name)).unwrap();
        }
        for name in ["hookstream", "kubectl-hookstream"] {
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_hookstream"), folder.join("bin").join(name))
                .unwrap();
        }
        let kubeconfig = ("KUBECONFIG".to_owned(), kubeconfig.display().to_string());
        Shell { folder, envs: vec![kubeconfig] }
    }

    /// Sets a variable of all later commands.
    pub fn env(mut self, name: &str, value: &str) -> Shell {
        self.envs.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs a script. Returns its standard output, or its standard error if it fails.
    pub async fn run(&self, script: &str) -> Result<String, String> {
        let mut command = Command::new("bash");
        let path = format!("{}:{}", self.folder.join("bin").display(), std::env::var("PATH").unwrap());
        command.args(["-ec", script]).current_dir(&self.folder).env("PATH", path);
        command.env("HOME", &self.folder).envs(self.envs.iter().map(|(name, value)| (name, value)));
        run(command, "").await
    }

    /// Runs a script that must succeed. Returns its standard output.
    pub async fn expect(&self, script: &str) -> String {
        self.run(script).await.unwrap_or_else(|error| panic!("{script}: {error}"))
    }
}
