//! Flags that select a profile and a cluster, and the choice of the worker's place.
//!
//! In order: `--service`, `--url`, `--context` or `--kubeconfig`, the profile, the current context if the program is a plugin
//! of kubectl, and the worker on this machine. A cluster is used only if the user chose one, so that no command changes the
//! one that a kubeconfig happens to name.

use std::path::PathBuf;

use url::Url;

use super::failure::{Failure, OrFail};
use super::flags::parse_url;
use super::kubeconfig::KubeconfigArgs;
use super::profiles::{Profile, ProfileFile, profile_path};
use super::program::is_kubectl_plugin;
use super::service::{ServiceCluster, ServicePort, WorkerPort};

/// Flags of all commands that call a worker or change objects of a cluster.
#[derive(Clone, Default, clap::Args)]
pub struct ClusterTargetArgs {
    /// The profile to use (see `hookstream config`). Default: the one that `config use-profile` chose.
    #[arg(long, value_name = "NAME", env = "HOOKSTREAM_PROFILE")]
    profile: Option<String>,
    #[command(flatten)]
    kubeconfig: KubeconfigArgs,
}

/// Flags of all commands that call a worker.
#[derive(Clone, Default, clap::Args)]
pub struct TargetArgs {
    #[command(flatten)]
    cluster: ClusterTargetArgs,
    /// A file with the certificate authorities of --url, in PEM format. They replace the system's.
    #[arg(long, value_name = "FILE", env = "HOOKSTREAM_CA_FILE")]
    ca_file: Option<PathBuf>,
}

/// The place of a worker.
pub enum WorkerPlace {
    Url(Url),
    /// A Service of a cluster. `is_found`: by its labels, not by a flag.
    Service {
        cluster: Box<ServiceCluster>,
        service: ServicePort,
        is_found: bool,
    },
}

impl ClusterTargetArgs {
    /// Reads the selected profile.
    pub fn profile(&self) -> Result<Profile, Failure> {
        match profile_path() {
            Ok(path) => ProfileFile::read(&path)?.select(self.profile.as_deref()),
            // Without a home, as in a container, there are no profiles.
            Err(_) if self.profile.is_none() => Ok(Profile::default()),
            Err(failure) => Err(failure),
        }
    }

    /// Returns the cluster of the flags, otherwise of the profile, otherwise that of the kubeconfig.
    pub fn kubeconfig(&self, profile: &Profile) -> KubeconfigArgs {
        self.kubeconfig.or(profile)
    }

    /// Connects to that cluster.
    pub async fn cluster(&self, profile: &Profile) -> Result<ServiceCluster, Failure> {
        ServiceCluster::connect(&self.kubeconfig(profile)).await
    }
}

impl TargetArgs {
    /// Reads the selected profile.
    pub fn profile(&self) -> Result<Profile, Failure> {
        self.cluster.profile()
    }

    /// Returns the file with the certificate authorities of the worker's URL.
    pub fn ca_file<'a>(&'a self, profile: &'a Profile) -> Option<&'a PathBuf> {
        self.ca_file.as_ref().or(profile.ca_file.as_ref())
    }

    /// Chooses the place of the worker's port.
    pub async fn place(
        &self,
        profile: &Profile,
        url: Option<&Url>,
        service: Option<&ServicePort>,
        port: WorkerPort,
    ) -> Result<WorkerPlace, Failure> {
        if let Some(url) = self.worker_url(profile, url, service, port)? {
            return Ok(WorkerPlace::Url(url));
        }
        let cluster = Box::new(self.cluster.cluster(profile).await?);
        if let Some(service) = service {
            return Ok(WorkerPlace::Service { cluster, service: service.clone(), is_found: false });
        }
        let service = cluster.find(port).await?;
        Ok(WorkerPlace::Service { cluster, service, is_found: true })
    }

    /// Connects to the cluster of the worker. None: the worker is at a URL.
    pub async fn worker_cluster(
        &self,
        profile: &Profile,
        url: Option<&Url>,
        service: Option<&ServicePort>,
        port: WorkerPort,
    ) -> Result<Option<ServiceCluster>, Failure> {
        match self.worker_url(profile, url, service, port)? {
            Some(_) => Ok(None),
            None => self.cluster.cluster(profile).await.map(Some),
        }
    }

    /// Returns the URL of the worker's port. None: it is in a cluster.
    fn worker_url(
        &self,
        profile: &Profile,
        url: Option<&Url>,
        service: Option<&ServicePort>,
        port: WorkerPort,
    ) -> Result<Option<Url>, Failure> {
        if service.is_some() {
            return Ok(None);
        }
        if let Some(url) = url {
            if self.cluster.kubeconfig.names_context() {
                let message =
                    "--url and --context name two workers: give one of them (variables count as flags)";
                return Err(Failure::new(message));
            }
            return Ok(Some(url.clone()));
        }
        if !self.cluster.kubeconfig.is_given() {
            if let Some(url) = profile_url(profile, port)? {
                return Ok(Some(url));
            }
            if !profile.names_cluster() && !is_kubectl_plugin() {
                return Url::parse(port.default_url()).map(Some).or_fail(|| "--url".into());
            }
        }
        Ok(None)
    }
}

/// Returns the URL that a profile has for this port. A profile that has only the URL of the other one is incomplete: the
/// worker on this machine would be a surprise.
fn profile_url(profile: &Profile, port: WorkerPort) -> Result<Option<Url>, Failure> {
    let (own, other, name) = match port {
        WorkerPort::Api => (&profile.url, &profile.ingest_url, "url"),
        WorkerPort::Ingest => (&profile.ingest_url, &profile.url, "ingestUrl"),
    };
    match (own, other) {
        (Some(url), _) => parse_url(url).map(Some).or_fail(|| format!("{name} of the profile")),
        (None, Some(_)) => Err(Failure::new(format!(
            "the profile has no {name}: set it with `hookstream config set-profile`, or give the URL as a flag"
        ))),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profile_needs_the_url_of_the_port() {
        let profile = Profile { url: Some("http://a:1".into()), ..Profile::default() };
        assert_eq!(profile_url(&profile, WorkerPort::Api).unwrap().unwrap().as_str(), "http://a:1/");
        let missing = profile_url(&profile, WorkerPort::Ingest).unwrap_err().message;
        assert!(missing.starts_with("the profile has no ingestUrl"), "{missing}");
        assert!(profile_url(&Profile::default(), WorkerPort::Api).unwrap().is_none());
    }
}
