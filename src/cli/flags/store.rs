//! Flags of a store in PostgreSQL.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};

use crate::cli::failure::{Failure, OrFail};
use crate::worker::store::postgres::connect::PostgresOptions;

/// How to reach a database.
#[derive(clap::Args, Clone, Debug)]
pub struct DatabaseArgs {
    /// A file with the password of the database's user. It is read at each new connection, so that it can be rotated.
    #[arg(long, value_name = "FILE", env = "HOOKSTREAM_STORE_PASSWORD_FILE")]
    store_password_file: Option<PathBuf>,
    /// A file with the certificate authorities (PEM) of the database. With it, sslmode defaults to verify-full.
    #[arg(long, value_name = "FILE", env = "HOOKSTREAM_STORE_CA_FILE")]
    store_ca_file: Option<PathBuf>,
    /// A file with the client certificate and its chain (PEM).
    #[arg(long, value_name = "FILE", requires = "store_key_file", env = "HOOKSTREAM_STORE_CERTIFICATE_FILE")]
    store_certificate_file: Option<PathBuf>,
    /// A file with the private key (PEM) of the client certificate.
    #[arg(long, value_name = "FILE", requires = "store_certificate_file", env = "HOOKSTREAM_STORE_KEY_FILE")]
    store_key_file: Option<PathBuf>,
    /// Accept a database that confirms commits before they are on its disk (fsync or synchronous_commit is off). A crash
    /// of its server then loses accepted events.
    #[arg(long, env = "HOOKSTREAM_ALLOW_UNSAFE_COMMITS")]
    allow_unsafe_commits: bool,
}

/// The store in PostgreSQL of a worker.
#[derive(clap::Args, Clone, Debug)]
pub struct StoreArgs {
    /// Keep events in this PostgreSQL database, which several workers may share, such as
    /// postgres://hookstream@db.example:5432/hookstream?sslmode=verify-full. Several hosts are separated by commas. Put the
    /// password into --store-password-file. Default: a file in --data.
    #[arg(long, value_name = "URL", env = "HOOKSTREAM_STORE_URL", hide_env_values = true)]
    store_url: Option<SecretString>,
    #[command(flatten)]
    database: DatabaseArgs,
    /// The size that the database is planned for. --namespace-share and --hook-share are shares of it.
    #[arg(long, default_value = "50GiB", value_parser = crate::core::size::parse, value_name = "SIZE", env = "HOOKSTREAM_STORE_SIZE")]
    pub store_size: u64,
    /// Do not create or change the tables at the start: `hookstream store migrate` does.
    #[arg(long, env = "HOOKSTREAM_NO_MIGRATE")]
    no_migrate: bool,
}

impl StoreArgs {
    /// Returns the options of the database; None if events are kept in the data folder.
    pub fn database(&self) -> Result<Option<PostgresOptions>, Failure> {
        let Some(url) = &self.store_url else {
            return match self.database.given() {
                Some(flag) => {
                    Err(Failure::new(format!("{flag} has no effect without --store-url: give both, or none")))
                }
                None => Ok(None),
            };
        };
        let mut options = self.database.options("--store-url", url)?;
        options.migrate = !self.no_migrate;
        Ok(Some(options))
    }
}

impl DatabaseArgs {
    /// Parses a URL and adds the files. `flag` names the URL in messages, which never contain it: it may have a password.
    pub fn options(&self, flag: &str, url: &SecretString) -> Result<PostgresOptions, Failure> {
        let mut options: PostgresOptions = url.expose_secret().parse().or_fail(|| flag.into())?;
        options.password_file.clone_from(&self.store_password_file);
        if let Some(file) = &self.store_ca_file {
            options.set_ca_file(file);
        }
        if let (Some(certificate), Some(key)) = (&self.store_certificate_file, &self.store_key_file) {
            options.client_certificate = Some((certificate.clone(), key.clone()));
        }
        options.allow_unsafe_sync = self.allow_unsafe_commits;
        options.check().or_fail(|| flag.into())?;
        Ok(options)
    }

    /// Returns a flag that was given.
    fn given(&self) -> Option<&'static str> {
        [
            ("--store-password-file", self.store_password_file.is_some()),
            ("--store-ca-file", self.store_ca_file.is_some()),
            ("--store-certificate-file", self.store_certificate_file.is_some()),
            ("--allow-unsafe-commits", self.allow_unsafe_commits),
        ]
        .into_iter()
        .find_map(|(flag, is_given)| is_given.then_some(flag))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        store: StoreArgs,
    }

    fn database(args: &[&str]) -> Result<Option<PostgresOptions>, Failure> {
        Program::try_parse_from(["program"].iter().chain(args)).unwrap().store.database()
    }

    #[test]
    fn adds_the_files_to_the_url() {
        let url = "postgres://u@h/d";
        let options =
            database(&["--store-url", url, "--store-password-file", "/p", "--store-ca-file", "/ca"]);
        let options = options.unwrap().unwrap();
        assert_eq!(options.password_file, Some("/p".into()));
        assert_eq!(<&str>::from(options.tls), "verify-full");
        assert!(options.migrate && !options.allow_unsafe_sync);
        let options = database(&["--store-url", url, "--no-migrate", "--allow-unsafe-commits"]);
        let options = options.unwrap().unwrap();
        assert!(!options.migrate && options.allow_unsafe_sync);
        assert!(database(&[]).unwrap().is_none());
    }

    #[test]
    fn names_the_flag_and_not_the_secret() {
        let error = database(&["--store-url", "postgres://u:secret@h"]).unwrap_err().message;
        assert!(error.starts_with("--store-url: it names no database"), "{error}");
        assert!(!error.contains("secret"), "{error}");
        let error = database(&["--store-ca-file", "/ca"]).unwrap_err().message;
        assert!(error.starts_with("--store-ca-file has no effect without --store-url"), "{error}");
        let program = Program::try_parse_from(["program", "--store-url", "postgres://u:secret@h"]).unwrap();
        assert!(!format!("{:?}", program.store).contains("secret"));
    }
}
