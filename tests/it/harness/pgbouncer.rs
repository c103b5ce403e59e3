//! PgBouncer in transaction mode in front of a server of the tests.

use std::net::{Ipv4Addr, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::{PostgresServer, START, Supervisor, USER, find, free_port, own_folder, server_user};

pub struct PgBouncer {
    port: u16,
    supervisor: Mutex<Supervisor>,
}

impl PgBouncer {
    /// Starts PgBouncer with at most this many connections to each database, which all clients share.
    pub fn start(server: &PostgresServer, connections: u32) -> Result<PgBouncer, String> {
        PgBouncer::start_at(server.port, connections)
    }

    /// Starts PgBouncer in front of the server at this port.
    pub fn start_at(server_port: u16, connections: u32) -> Result<PgBouncer, String> {
        let program = find("pgbouncer")?;
        let dir = own_folder()?;
        let owner = server_user(dir.path())?;
        let port = free_port();
        let users = dir.path().join("users.txt");
        let conf = dir.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={server_port} user={USER}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = trust\nauth_file = {}\npool_mode = transaction\n\
             default_pool_size = {connections}\nmax_client_conn = 300\n\
             server_login_retry = 1\n",
            users.display()
        );
        for (path, text) in [(&users, format!("\"{USER}\" \"\"\n")), (&conf, text)] {
            std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        let program = [program.into_os_string(), conf.into_os_string()];
        let mut supervisor = Supervisor::start(dir.path(), owner, "TERM", &program)?;
        let dir = dir.keep();
        supervisor.request("start");
        let start = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if supervisor.request("status") == "ended" || start.elapsed() > START {
                let log = std::fs::read_to_string(dir.join("server.log")).unwrap_or_default();
                supervisor.end();
                return Err(format!("pgbouncer did not start:\n{log}"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(PgBouncer { port, supervisor: Mutex::new(supervisor) })
    }

    /// Returns the URL of a database through PgBouncer.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        self.supervisor.get_mut().unwrap_or_else(|e| e.into_inner()).end();
    }
}

#[cfg(test)]
mod tests {
    use super::super::shared;
    use super::*;

    #[test]
    fn ends_when_dropped() {
        let bouncer = PgBouncer::start(shared(), 1).unwrap_or_else(|error| panic!("{error}"));
        let port = bouncer.port;
        drop(bouncer);
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
    }
}
