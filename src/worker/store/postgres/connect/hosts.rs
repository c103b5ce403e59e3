//! Connects to the first host that accepts writes, unless a failover has left it behind.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio_postgres::config::Host;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Config, Notification};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::check::Durability;
use super::failure::{FailureKind, classify, describe};
use super::options::{PostgresOptions, host_name};
use super::session::Session;
use super::timeline::{SeenTimeline, SessionTimeline, Timeline};
use super::tls;

/// Why no host could be used.
#[derive(Debug)]
pub(super) enum ConnectError {
    /// Waiting may help.
    Unavailable(String),
    /// The options or the database must be corrected.
    Rejected(String),
}

/// What a new connection shows of the server: whether it accepts no writes, the client's port as the server sees it, and
/// which commits it could lose.
const PROBE: &str = "
SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool AS is_read_only,
    inet_client_port() AS client_port,
    current_setting('fsync')::bool AS fsync,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('synchronous_standby_names') <> '' AS has_synchronous_standbys";

/// What the connections of this process have shown of its database.
#[derive(Debug, Default)]
pub(super) struct Observations {
    timeline: Arc<SeenTimeline>,
    /// As it was logged last.
    durability: Mutex<Option<Durability>>,
}

/// A new connection to a server that accepts writes.
struct Connected {
    session: Session,
    timeline: Option<Timeline>,
    durability: Durability,
}

impl Connected {
    /// Returns the connection, unless its server must not be used.
    fn admit(
        self,
        options: &PostgresOptions,
        observed: &Observations,
        server: &str,
    ) -> Result<Session, ConnectError> {
        let Connected { mut session, timeline, durability } = self;
        match timeline {
            Some(timeline) => {
                let timeline = SessionTimeline::begin(&observed.timeline, server, timeline);
                session
                    .set_timeline(timeline.map_err(|refused| ConnectError::Unavailable(refused.reason()))?);
            }
            None => observed.timeline.log_unsupported(server),
        }
        durability.reject_unsafe(options).map_err(ConnectError::Rejected)?;
        let mut logged = observed.durability.lock();
        if logged.as_ref() != Some(&durability) {
            durability.log();
            *logged = Some(durability);
        }
        drop(logged);
        Ok(session)
    }
}

/// Connects to the first host of the options that accepts writes and may be used.
pub(super) async fn connect(
    options: &PostgresOptions,
    observed: &Observations,
    notifications: Option<mpsc::Sender<Notification>>,
) -> Result<Session, ConnectError> {
    let mut config = options.config.clone();
    config.ssl_mode(options.driver_tls_mode());
    if let Some(file) = &options.password_file {
        let password = std::fs::read_to_string(file).map_err(|error| {
            ConnectError::Rejected(format!("--store-password-file {}: {error}", file.display()))
        })?;
        // An editor or `echo` appends the line end.
        match password.trim_end_matches(['\r', '\n']) {
            "" => {
                return Err(ConnectError::Rejected(format!(
                    "--store-password-file {}: the file is empty",
                    file.display()
                )));
            }
            password => config.password(password),
        };
    }
    let tls = tls::connector(options).map_err(ConnectError::Rejected)?;
    let endpoints = options.endpoints();
    let mut failures = Vec::new();
    let mut is_rejected = false;
    for (host, port) in &endpoints {
        let name = host_name(host, *port);
        let attempt = connect_host(&config, host, *port, tls.clone(), notifications.clone());
        let result = match tokio::time::timeout(options.connect_timeout, attempt).await {
            Ok(result) => result.and_then(|connected| connected.admit(options, observed, &name)),
            Err(_) => {
                Err(ConnectError::Unavailable(format!("no answer within {:?}", options.connect_timeout)))
            }
        };
        let error = match result {
            Ok(session) => return Ok(session),
            Err(ConnectError::Unavailable(error)) => error,
            Err(ConnectError::Rejected(error)) => {
                is_rejected = true;
                error
            }
        };
        failures.push(format!("{name}: {error}"));
    }
    let failures = failures.join("; ");
    Err(if is_rejected { ConnectError::Rejected(failures) } else { ConnectError::Unavailable(failures) })
}

async fn connect_host(
    config: &Config,
    host: &Host,
    port: u16,
    tls: MakeRustlsConnect,
    notifications: Option<mpsc::Sender<Notification>>,
) -> Result<Connected, ConnectError> {
    let connect_error = |error: std::io::Error| {
        ConnectError::Unavailable(format!("{error}: check that the server runs there"))
    };
    match host {
        Host::Tcp(name) => {
            // Tries all addresses of the name.
            let stream = TcpStream::connect((name.as_str(), port)).await.map_err(connect_error)?;
            keep_alive(&stream, config.get_tcp_user_timeout().copied()).map_err(connect_error)?;
            let own_port = stream.local_addr().ok().map(|address| i32::from(address.port()));
            log_in(config, stream, name, own_port, tls, notifications).await
        }
        Host::Unix(folder) => {
            let path = folder.join(format!(".s.PGSQL.{port}"));
            let stream = UnixStream::connect(path).await.map_err(connect_error)?;
            // PostgreSQL has no TLS on a Unix socket.
            let mut config = config.clone();
            config.ssl_mode(tokio_postgres::config::SslMode::Disable);
            log_in(&config, stream, "localhost", None, tls, notifications).await
        }
    }
}

/// Logs in, checks that the server accepts writes, and reads its timeline.
async fn log_in<S>(
    config: &Config,
    stream: S,
    host: &str,
    own_port: Option<i32>,
    mut tls: MakeRustlsConnect,
    notifications: Option<mpsc::Sender<Notification>>,
) -> Result<Connected, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let tls = MakeTlsConnect::<S>::make_tls_connect(&mut tls, host).map_err(|never| match never {})?;
    let (client, connection) = config.connect_raw(stream, tls).await.map_err(|error| login_error(&error))?;
    let mut session = Session::start(client, connection, notifications);
    // In one round trip.
    let (row, timeline) = tokio::join!(session.fetch_one(PROBE, &[]), Timeline::read(session.client()));
    let row = row.map_err(|error| login_error(&error))?;
    let probe = || -> Result<(bool, Option<i32>, Durability), tokio_postgres::Error> {
        Ok((row.try_get("is_read_only")?, row.try_get("client_port")?, Durability::from_row(&row)?))
    };
    let (is_read_only, port, durability) = probe().map_err(|error| login_error(&error))?;
    if is_read_only {
        return Err(ConnectError::Unavailable(
            "the server is read-only (a standby, or default_transaction_read_only): name the primary in --store-url, or all hosts"
                .into(),
        ));
    }
    // A pooler has a connection of its own to the server, with a port of its own. An address translation in between can
    // look the same, which only costs speed.
    session.set_direct(own_port.is_some() && own_port == port);
    // Without an answer, it could be an old primary. A standby that is being promoted, or a file that is being written, fails
    // for a moment.
    let timeline = timeline.map_err(|error| ConnectError::Unavailable(describe(&error)))?;
    Ok(Connected { session, timeline, durability })
}

/// Classifies an error of a login. A server that is restarting answers too, and is worth another try.
fn login_error(error: &tokio_postgres::Error) -> ConnectError {
    let is_transient = error.code().is_some_and(|code| {
        code.code().starts_with("53")
            || code.code().starts_with("57")
            || classify(error) == FailureKind::Disconnected
    });
    let text = describe(error);
    // Without an answer: the server closed the connection, TLS failed, or the login needs what was not given.
    let is_disconnected = error.code().is_none()
        && !text.starts_with("TLS failed")
        && classify(error) == FailureKind::Disconnected;
    match is_transient || is_disconnected {
        true => ConnectError::Unavailable(text),
        false => ConnectError::Rejected(text),
    }
}

/// Makes the kernel notice a server that vanished.
fn keep_alive(stream: &TcpStream, user_timeout: Option<Duration>) -> std::io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, super::options::KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, super::options::KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, super::options::KEEPALIVE_RETRIES)?;
    #[cfg(target_os = "linux")]
    if let Some(timeout) = user_timeout {
        let millis = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(stream, millis)?;
    }
    #[cfg(not(target_os = "linux"))]
    let _ = user_timeout;
    Ok(())
}
