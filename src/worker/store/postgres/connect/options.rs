//! What a worker knows of its database: the URL and the files of a password and of TLS.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

/// How long one host may take for the connection, TLS and the login.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long data may be unacknowledged before a connection counts as dead. Otherwise a host that vanished would block its
/// connections for about 15 minutes. Shorter than a lease, which must be renewed on another connection meanwhile.
const USER_TIMEOUT: Duration = Duration::from_secs(5);
/// How a vanished host is noticed while nothing is sent.
pub(super) const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
pub(super) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
pub(super) const KEEPALIVE_RETRIES: u32 = 3;
const DEFAULT_PORT: u16 = 5432;

/// Options of a database. `Debug` shows no password.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    pub(super) config: Config,
    pub tls: TlsMode,
    /// The file with the password, which is read at each new connection, so that it can be rotated. It is used instead of
    /// a password in the URL.
    pub password_file: Option<PathBuf>,
    /// The certificate authorities that the server's certificate must come from, in PEM. Default: the system's.
    pub ca_file: Option<PathBuf>,
    /// The client certificate with its chain, and its key, in PEM.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// How long one host may take for the connection, TLS and the login.
    pub connect_timeout: Duration,
    /// Whether a start creates or upgrades the schema.
    pub migrate: bool,
    /// Whether a server that confirms commits before they are on its disk is accepted.
    pub allow_unsafe_sync: bool,
}

/// How a connection is protected: `sslmode` of the URL, with the meaning that PostgreSQL's own programs give it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, strum::EnumString, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum TlsMode {
    Disable,
    /// TLS if the server offers it, without a check of its certificate.
    #[default]
    Prefer,
    /// TLS without a check of the certificate, unless authorities are given.
    Require,
    /// The certificate must come from a given authority.
    VerifyCa,
    /// It must also be issued for the host of the URL.
    VerifyFull,
}

/// Why a URL cannot be used. The messages contain nothing of the URL but names of parameters and hosts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreUrlError {
    #[error("it must look like postgres://USER@HOST:5432/DATABASE")]
    Scheme,
    #[error("it names no host: write postgres://USER@HOST/DATABASE")]
    NoHost,
    #[error("it names no database: append it as the path, such as postgres://USER@HOST/hookstream")]
    NoDatabase,
    #[error("it names no user: write postgres://USER@HOST/DATABASE")]
    NoUser,
    #[error(
        "a special character of the user or password must be percent-encoded, such as %40 for @, or use --store-password-file"
    )]
    Unencoded,
    #[error("sslmode must be disable, prefer, require, verify-ca or verify-full")]
    SslMode,
    #[error("sslmode={} needs --store-ca-file, or sslrootcert in the URL", <&str>::from(.0))]
    NoAuthorities(TlsMode),
    #[error("a client certificate needs both its file and the file of its key")]
    HalfCertificate,
    #[error(
        "with sslmode=disable, files of certificates have no effect: remove them, or use sslmode=verify-full"
    )]
    CertificatesWithoutTls,
    #[error("{0}")]
    Driver(String),
}

impl FromStr for PostgresOptions {
    type Err = StoreUrlError;

    /// Parses a URL in the form that libpq accepts, with several hosts and with parameters. It may name files of
    /// certificates (`sslrootcert`, `sslcert`, `sslkey`).
    fn from_str(url: &str) -> Result<Self, StoreUrlError> {
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(StoreUrlError::Scheme);
        }
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        // More than one separator: the user or the password contains one that is not encoded, and a part of it would be
        // taken for a host, which messages show.
        if base.matches('@').count() > 1 || url.contains('#') {
            return Err(StoreUrlError::Unencoded);
        }
        // The driver does not know these parameters.
        let (mut tls, mut ca_file, mut certificate, mut key) = (None, None, None, None);
        let mut rest = Vec::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let file = || {
                url::form_urlencoded::parse(parameter.as_bytes())
                    .next()
                    .map(|(_, file)| PathBuf::from(&*file))
            };
            match name {
                "sslmode" => tls = Some(value.parse().map_err(|_| StoreUrlError::SslMode)?),
                "sslrootcert" => ca_file = file(),
                "sslcert" => certificate = file(),
                "sslkey" => key = file(),
                _ => rest.push(parameter),
            }
        }
        let url = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
        let mut config: Config = url.parse().map_err(|error| StoreUrlError::Driver(causes(&error)))?;
        if config.get_hosts().iter().any(|host| matches!(host, Host::Tcp(name) if name.contains('@'))) {
            return Err(StoreUrlError::Unencoded);
        }
        if config.get_hosts().is_empty() {
            return Err(StoreUrlError::NoHost);
        }
        if !config.get_hostaddrs().is_empty() {
            return Err(StoreUrlError::Driver("hostaddr is not supported: write addresses as hosts".into()));
        }
        if config.get_ports().len() > 1 && config.get_ports().len() != config.get_hosts().len() {
            return Err(StoreUrlError::Driver("give one port for all hosts, or one for each".into()));
        }
        if config.get_dbname().is_none() {
            return Err(StoreUrlError::NoDatabase);
        }
        if config.get_user().is_none() {
            return Err(StoreUrlError::NoUser);
        }
        if config.get_application_name().is_none() {
            config.application_name("hookstream");
        }
        let client_certificate = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(StoreUrlError::HalfCertificate),
        };
        let connect_timeout = config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(USER_TIMEOUT);
        }
        Ok(PostgresOptions {
            config,
            // Authorities that were given must not be ignored silently.
            tls: tls.unwrap_or(if ca_file.is_some() { TlsMode::VerifyFull } else { TlsMode::default() }),
            password_file: None,
            ca_file,
            client_certificate,
            connect_timeout,
            migrate: true,
            allow_unsafe_sync: false,
        })
    }
}

impl PostgresOptions {
    /// Sets a password, instead of one in the URL.
    pub fn set_password(&mut self, password: &str) {
        self.config.password(password);
    }

    /// Sets the authorities of the server's certificate. Without `sslmode` in the URL they are enforced.
    pub fn set_ca_file(&mut self, file: &Path) {
        self.ca_file = Some(file.to_owned());
        if self.tls == TlsMode::Prefer {
            self.tls = TlsMode::VerifyFull;
        }
    }

    /// Checks options that depend on each other.
    pub fn check(&self) -> Result<(), StoreUrlError> {
        match self.tls {
            TlsMode::VerifyCa if self.ca_file.is_none() => Err(StoreUrlError::NoAuthorities(self.tls)),
            TlsMode::Disable if self.ca_file.is_some() || self.client_certificate.is_some() => {
                Err(StoreUrlError::CertificatesWithoutTls)
            }
            _ => Ok(()),
        }
    }

    /// Returns the hosts with their ports, in the order in which they are tried.
    pub(super) fn endpoints(&self) -> Vec<(Host, u16)> {
        let ports = self.config.get_ports();
        let port = |n: usize| ports.get(n).or(ports.first()).copied().unwrap_or(DEFAULT_PORT);
        self.config.get_hosts().iter().enumerate().map(|(n, host)| (host.clone(), port(n))).collect()
    }

    pub fn database(&self) -> &str {
        self.config.get_dbname().unwrap_or_default()
    }

    pub fn user(&self) -> &str {
        self.config.get_user().unwrap_or_default()
    }

    /// Returns the hosts and the database, without user and password, for messages.
    pub fn description(&self) -> String {
        let hosts: Vec<String> = self.endpoints().iter().map(|(host, port)| host_name(host, *port)).collect();
        format!("{}/{}", hosts.join(","), self.database())
    }

    pub(super) fn driver_tls_mode(&self) -> SslMode {
        match self.tls {
            TlsMode::Disable => SslMode::Disable,
            TlsMode::Prefer => SslMode::Prefer,
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
        }
    }
}

/// Returns a host with its port, for messages.
pub(super) fn host_name(host: &Host, port: u16) -> String {
    match host {
        Host::Tcp(name) if name.contains(':') => format!("[{name}]:{port}"),
        Host::Tcp(name) => format!("{name}:{port}"),
        Host::Unix(path) => path.display().to_string(),
    }
}

/// Returns an error with its causes. Those of the driver's parser name parameters, but no values.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod options_tests {
    use super::*;

    fn parse(url: &str) -> PostgresOptions {
        url.parse().unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    #[test]
    fn reads_hosts_tls_and_files() {
        let options = parse(
            "postgresql://app:s%40cret@one:1,two:2,[::1]/hooks?sslmode=verify-full&sslrootcert=%2Fca.pem&sslcert=/c.pem&sslkey=/k.pem&target_session_attrs=read-write&connect_timeout=7",
        );
        assert_eq!(options.description(), "one:1,two:2,[::1]:5432/hooks");
        assert_eq!((options.user(), options.tls), ("app", TlsMode::VerifyFull));
        assert_eq!(options.ca_file.as_deref(), Some(Path::new("/ca.pem")));
        assert_eq!(options.client_certificate, Some(("/c.pem".into(), "/k.pem".into())));
        assert_eq!(options.connect_timeout, Duration::from_secs(7));
        assert_eq!(options.config.get_password(), Some(&b"s@cret"[..]));
        options.check().unwrap();
        assert!(!format!("{options:?}").contains("s@cret"));
    }

    #[test]
    fn enforces_authorities_that_are_given() {
        let mut options = parse("postgres://u@h/d");
        assert_eq!(options.tls, TlsMode::Prefer);
        options.set_ca_file(Path::new("/ca.pem"));
        assert_eq!(options.tls, TlsMode::VerifyFull);
        assert_eq!(parse("postgres://u@h/d?sslrootcert=/ca.pem").tls, TlsMode::VerifyFull);
        assert_eq!(parse("postgres://u@h/d?sslmode=require&sslrootcert=/ca.pem").tls, TlsMode::Require);
    }

    #[test]
    fn rejects_unusable_urls_without_showing_secrets() {
        for (url, expected) in [
            ("mysql://u:secret@h/d", "postgres://USER@HOST"),
            ("host=h user=u", "postgres://USER@HOST"),
            ("postgres:///d", "names no host"),
            ("postgres://u:secret@h", "names no database"),
            ("postgres://h/d", "names no user"),
            ("postgres://u:sec@ret@h/d", "percent-encoded"),
            ("postgres://u:sec#ret@h/d", "percent-encoded"),
            ("postgres://u:secret@h:port/d", "port"),
            ("postgres://u:secret@h:1,h:2,h:3/d?port=5", "one port"),
            ("postgres://u:secret@h/d?sslmode=full", "sslmode must be"),
            ("postgres://u:secret@h/d?sslcert=/c", "both its file"),
            ("postgres://u:secret@h/d?colour=red", "unknown option `colour`"),
            ("postgres://u:secret@h/d?target_session_attrs=primary", "target_session_attrs"),
        ] {
            let error = url.parse::<PostgresOptions>().expect_err(url).to_string();
            assert!(error.contains(expected), "{url}: {error}");
            assert!(!error.contains("sec") && !error.contains("ret@"), "{url}: {error}");
        }
        let error = parse("postgres://u@h/d?sslmode=verify-ca").check().unwrap_err();
        assert!(error.to_string().contains("sslmode=verify-ca needs --store-ca-file"), "{error}");
        let error = parse("postgres://u@h/d?sslmode=disable&sslrootcert=/ca").check().unwrap_err();
        assert_eq!(error, StoreUrlError::CertificatesWithoutTls);
    }
}
