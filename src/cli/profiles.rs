//! Named profiles: the places of workers and clusters that commands use, in a file of the user.
//!
//! The file contains paths of tokens and never a token: an unknown member, such as `token`, is an error.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::failure::{Failure, OrFail};
use crate::cluster::files::write_atomically;

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ProfileFile {
    /// The profile of commands without `--profile`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_profile: Option<String>,
    pub profiles: BTreeMap<String, Profile>,
}

/// Defaults of flags. A flag or its variable takes precedence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Profile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingest_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_audience: Option<String>,
}

impl Profile {
    /// Returns true if the profile names a cluster.
    pub fn names_cluster(&self) -> bool {
        self.context.is_some() || self.kubeconfig.is_some()
    }

    /// Returns why the profile cannot be used. A worker has one place.
    pub fn problem(&self) -> Option<&'static str> {
        let names_url = self.url.is_some() || self.ingest_url.is_some();
        (names_url && self.names_cluster())
            .then_some("url and ingestUrl exclude context and kubeconfig: a profile has one worker")
    }
}

/// Returns the file of the profiles: `$XDG_CONFIG_HOME/hookstream/config.yaml`, otherwise below `~/.config`.
pub fn profile_path() -> Result<PathBuf, Failure> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
    let folder = folder.ok_or_else(|| Failure::new("no folder for profiles: set XDG_CONFIG_HOME or HOME"))?;
    Ok(folder.join("hookstream").join("config.yaml"))
}

impl ProfileFile {
    /// Reads the file. A missing one has no profiles.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(ProfileFile::default()),
            Err(error) => return Err(Failure::new(format!("{}: {error}", path.display()))),
        };
        if text.trim().is_empty() {
            return Ok(ProfileFile::default());
        }
        serde_saphyr::from_str(&text).map_err(|error| {
            // The library's text continues with an excerpt of the file.
            let error = error.to_string();
            Failure::new(format!("{}: {}", path.display(), error.lines().next().unwrap_or_default()))
        })
    }

    /// Writes the file so that only its owner can read it.
    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        let text = serde_saphyr::to_string(self).or_fail(|| "writing YAML".into())?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).or_fail(|| format!("creating {}", folder.display()))?;
        }
        write_atomically(path, text.as_bytes()).or_fail(|| "writing the profiles".into())
    }

    /// Returns the profile with this name, otherwise the current one. Without any profile, one without settings.
    pub fn select(&self, name: Option<&str>) -> Result<Profile, Failure> {
        let Some(name) = name.or(self.current_profile.as_deref()) else { return Ok(Profile::default()) };
        let profile = self.profiles.get(name).ok_or_else(|| self.unknown(name))?;
        match profile.problem() {
            Some(problem) => Err(Failure::new(format!("profile {name}: {problem}"))),
            None => Ok(profile.clone()),
        }
    }

    /// Returns the error of a profile that does not exist.
    pub fn unknown(&self, name: &str) -> Failure {
        let names: Vec<&str> = self.profiles.keys().map(String::as_str).collect();
        let existing = if names.is_empty() { "there are none".to_owned() } else { names.join(", ") };
        Failure::new(format!(
            "there is no profile '{}' (profiles: {existing}): create it with `hookstream config set-profile`",
            name.escape_default()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selects_by_name_then_the_current_one() {
        let mut file = ProfileFile::default();
        assert_eq!(file.select(None).unwrap(), Profile::default());
        let prod = Profile { context: Some("prod".into()), ..Profile::default() };
        file.profiles.insert("prod".into(), prod.clone());
        assert_eq!(file.select(None).unwrap(), Profile::default());
        assert_eq!(file.select(Some("prod")).unwrap(), prod);
        file.current_profile = Some("prod".into());
        assert_eq!(file.select(None).unwrap(), prod);
        let unknown = file.select(Some("pord")).unwrap_err().message;
        assert!(unknown.starts_with("there is no profile 'pord' (profiles: prod): create it"), "{unknown}");
    }

    #[test]
    fn file_keeps_its_content_and_no_tokens() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new").join("config.yaml");
        assert_eq!(ProfileFile::read(&path).unwrap(), ProfileFile::default());
        let profile =
            Profile { url: Some("http://a:1".into()), token_file: Some("/t".into()), ..Profile::default() };
        let file =
            ProfileFile { current_profile: Some("a".into()), profiles: [("a".to_owned(), profile)].into() };
        file.write(&path).unwrap();
        assert_eq!(ProfileFile::read(&path).unwrap(), file);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "profiles: {a: {token: t0ken}}\n").unwrap();
        let error = ProfileFile::read(&path).unwrap_err().message;
        assert!(error.contains("unknown field `token`") && !error.contains("t0ken"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}
