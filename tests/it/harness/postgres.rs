//! A PostgreSQL server of the tests, on a free port of 127.0.0.1, with a data folder of its own.
//!
//! The library's unit tests include this file too, so it uses nothing but std and tempfile.
//!
//! A child `sh` is the parent of the server and reads a pipe whose only writing end is in this process. When this process
//! ends, in whatever way, the pipe closes; then `sh` stops the server and removes its folder. PostgreSQL refuses to run as
//! root: with root's rights, `sh` and the server run as the user `postgres` or `nobody`.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "pgbouncer.rs"]
pub mod pgbouncer;

use std::ffi::OsString;
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// The superuser of every server, and its password where a server asks for one.
pub const USER: &str = "postgres";
pub const PASSWORD: &str = "password-of-the-tests";

/// How long a loaded machine may take to start a server, which may have to recover from a crash.
const START: Duration = Duration::from_secs(60);

/// For a server whose data may be lost: without syncs. All tests of a process share one, so it allows many connections.
const FAST: &[(&str, &str)] = &[("fsync", "off"), ("full_page_writes", "off"), ("max_connections", "300")];

/// For every server. Segments of shared memory are files in the data folder, which are gone with it.
const ALWAYS: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("shared_buffers", "32MB"),
    ("dynamic_shared_memory_type", "mmap"),
    ("log_line_prefix", "%m [%p] %d "),
];

/// Input lines: `start`, `kill9`, `signal NAME`, `stop`, `status`. Each is answered by one line.
const SUPERVISOR: &str = r#"
trap '' HUP INT QUIT TERM
cd /
dir=$1
end_signal=$2
shift 2
pid=
is_running() {
  case $(ps -o stat= -p "$pid") in Z* | '') false ;; *) true ;; esac
}
# Repeats the signal: a server that has just been started still ignores those that this shell ignores.
end_with() {
  while is_running; do
    kill "-$1" "$pid"
    kill -CONT "$pid"
    sleep 0.02
  done
}
while read -r line name; do
  case $line in
    start)
      "$@" </dev/null >>"$dir/server.log" 2>&1 &
      pid=$! ;;
    kill9)
      # Stopped first, so that it starts no further process. A backend that survived could still commit.
      kill -STOP "$pid"
      kill -9 $(ps -A -o ppid=,pid= | awk -v p="$pid" '$1 == p { print $2 }')
      end_with KILL ;;
    signal) kill "-$name" "$pid" ;;
    stop) end_with INT ;;
  esac
  if is_running; then echo "running $pid"; else echo ended; fi
done
if is_running; then
  end_with "$end_signal"
else
  # A server that was killed has left its segment of System V shared memory, of which a machine has a bounded number.
  set -- $(sed -n 7p "$dir/data/postmaster.pid")
  if [ -n "$2" ]; then ipcrm -m "$2"; fi
fi
rm -rf -- "$dir"
"#;

/// What is special about a server. The default: data may be lost in a crash of the machine, no password, no TLS.
#[derive(Clone, Copy, Default)]
pub struct PostgresServerOptions<'a> {
    /// Settings of postgresql.conf, in addition to or instead of the default ones.
    pub settings: &'a [(&'a str, &'a str)],
    /// With syncs, as in production: for tests that kill the server.
    pub durable: bool,
    /// The lines of pg_hba.conf for TCP. Default: `host all all 127.0.0.1/32 trust`. The Unix socket, which only
    /// `PostgresServer::sql` uses, needs no password.
    pub hba: Option<&'a str>,
    /// Files by name and content that the server reads from its data folder, such as a certificate and its key.
    pub files: &'a [(&'a str, &'a str)],
    /// Copy the data of this server, and follow it as a hot standby with this application name.
    pub standby_of: Option<(&'a PostgresServer, &'a str)>,
    /// The port, which a killed server had. Default: a free one.
    pub port: Option<u16>,
}

pub struct PostgresServer {
    dir: PathBuf,
    port: u16,
    supervisor: Mutex<Supervisor>,
}

struct Supervisor {
    child: Child,
    /// None closes the pipe, which ends the server.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

/// Returns the server that all tests of this process share. The first caller starts it. Give each test a database of its
/// own.
pub fn shared() -> &'static PostgresServer {
    static SHARED: OnceLock<Result<PostgresServer, String>> = OnceLock::new();
    SHARED
        .get_or_init(|| PostgresServer::start(PostgresServerOptions::default()))
        .as_ref()
        .unwrap_or_else(|error| panic!("PostgreSQL did not start: {error}"))
}

/// Returns the folder of `initdb` and `postgres`.
pub fn bin_dir() -> Result<&'static Path, String> {
    static BIN: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BIN.get_or_init(|| find("postgresql")).as_ref().map(PathBuf::as_path).map_err(Clone::clone)
}

fn find(what: &str) -> Result<PathBuf, String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/postgres/find.sh");
    let output = Command::new(script).arg(what).output().map_err(|e| format!("{script}: {e}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match text(&output.stdout).lines().last() {
        Some(path) if output.status.success() => Ok(path.into()),
        _ => Err(text(&output.stderr)),
    }
}

impl PostgresServer {
    /// Starts a server and waits until it accepts connections.
    pub fn start(options: PostgresServerOptions<'_>) -> Result<PostgresServer, String> {
        let bin = bin_dir()?;
        let dir = own_folder()?;
        let data = dir.path().join("data");
        let owner = server_user(dir.path())?;
        let program = [bin.join("postgres").into_os_string(), "-D".into(), data.clone().into()];
        let supervisor = Supervisor::start(dir.path(), owner, "QUIT", &program)?;
        // From here on, the supervisor removes the folder.
        let mut server = PostgresServer { dir: dir.keep(), port: 0, supervisor: Mutex::new(supervisor) };

        match options.standby_of {
            None => server.run_program("initdb", owner, |command| {
                command.args(["--no-sync", "--encoding=UTF8", "--locale=C", "--auth=trust"]);
                command.arg(format!("--username={USER}")).arg("-D").arg(&data);
            })?,
            Some((primary, name)) => {
                let copy = || {
                    server.run_program("pg_basebackup", owner, |command| {
                        command.args([
                            "--no-sync",
                            "--checkpoint=fast",
                            "--write-recovery-conf",
                            "--wal-method=stream",
                        ]);
                        command.arg("-D").arg(&data).arg("-d").arg(format!(
                            "host={} port={} user={USER} application_name={name}",
                            primary.dir.display(),
                            primary.port
                        ));
                    })
                };
                // On a busy machine the server may end the stream of the log; the program then removes what it copied.
                copy().or_else(|_| copy())?;
            }
        }
        let write = |name: &str, text: &str| -> Result<(), String> {
            let path = data.join(name);
            std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
                .map_err(|e| e.to_string())?;
            match owner {
                Some((uid, gid)) => chown(&path, Some(uid), Some(gid)).map_err(|e| e.to_string()),
                None => Ok(()),
            }
        };
        let hba = options.hba.unwrap_or("host all all 127.0.0.1/32 trust");
        write("pg_hba.conf", &format!("local all all trust\nlocal replication all trust\n{hba}\n"))?;
        for (name, text) in options.files {
            write(name, text)?;
        }
        // Another program may take the port before the server binds it.
        for last in [false, false, true] {
            server.port = options.port.unwrap_or_else(free_port);
            let mut conf =
                format!("port = {}\nunix_socket_directories = '{}'\n", server.port, server.dir.display());
            let fast = if options.durable { &[][..] } else { FAST };
            for (name, value) in ALWAYS.iter().chain(fast).chain(options.settings) {
                conf.push_str(&format!("{name} = '{value}'\n"));
            }
            write("postgresql.conf", &conf)?;
            match server.restart() {
                Err(error) if last || !error.contains("could not bind") => return Err(error),
                Err(_) => {}
                Ok(()) => break,
            }
        }
        if options.standby_of.is_none() {
            server.sql("postgres", &format!("ALTER ROLE {USER} PASSWORD '{PASSWORD}'"))?;
        }
        Ok(server)
    }

    /// Runs a program of PostgreSQL to its end, as the server's user.
    fn run_program(
        &self,
        name: &str,
        owner: Option<(u32, u32)>,
        arguments: impl FnOnce(&mut Command),
    ) -> Result<(), String> {
        let mut command = Command::new(bin_dir()?.join(name));
        arguments(&mut command);
        clean_environment(&mut command);
        if let Some((uid, gid)) = owner {
            command.uid(uid).gid(gid);
        }
        let output = command.current_dir("/").output().map_err(|e| format!("{name}: {e}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("{name} failed: {}", String::from_utf8_lossy(&output.stderr)))
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the URL of a database, with the superuser and its password.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    /// Creates an empty database and returns its URL.
    pub fn create_database(&self, name: &str) -> String {
        self.create_database_from(name, "template0")
    }

    /// Creates a database as a copy of `template`, which must have no sessions, and returns its URL.
    pub fn create_database_from(&self, name: &str, template: &str) -> String {
        // file_copy makes a checkpoint; wal_log does not, and these databases are small.
        let sql = format!("CREATE DATABASE \"{name}\" TEMPLATE \"{template}\" STRATEGY wal_log");
        self.sql("postgres", &sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        self.url(name)
    }

    /// Creates an empty database with a unique name and returns its URL.
    pub fn new_database(&self) -> String {
        static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.create_database(&format!("test_{n}"))
    }

    /// Runs SQL as the superuser through the Unix socket. Returns the rows of all statements as text, with NULL as "".
    pub fn sql(&self, database: &str, sql: &str) -> Result<Vec<Vec<String>>, String> {
        let path = self.dir.join(format!(".s.PGSQL.{}", self.port));
        let mut stream = UnixStream::connect(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        stream.set_read_timeout(Some(START)).map_err(|e| e.to_string())?;
        let mut startup = 196_608_u32.to_be_bytes().to_vec();
        startup.extend(format!("user\0{USER}\0database\0{database}\0\0").bytes());
        send(&mut stream, None, &startup)?;
        read_until_ready(&mut stream)?;
        send(&mut stream, Some(b'Q'), format!("{sql}\0").as_bytes())?;
        read_until_ready(&mut stream)
    }

    /// Kills every process of the server with SIGKILL, as a crash would.
    pub fn kill9(&self) {
        self.supervisor.lock().unwrap().request("kill9");
    }

    /// Sends a signal to the postmaster, for example `STOP` and `CONT`: while it is stopped, connections that exist go
    /// on, and new ones hang.
    pub fn signal(&self, name: &str) {
        self.supervisor.lock().unwrap().request(&format!("signal {name}"));
    }

    /// Ends all sessions and stops the server in order. The data stays for `restart`.
    pub fn stop(&self) {
        self.supervisor.lock().unwrap().request("stop");
    }

    /// Starts the server, which it stops before if it runs, and waits until it accepts connections.
    pub fn restart(&self) -> Result<(), String> {
        let mut supervisor = self.supervisor.lock().unwrap();
        if supervisor.request("status").starts_with("running") {
            supervisor.request("stop");
        }
        let start = Instant::now();
        loop {
            let log_start = self.log().len();
            let mut status = supervisor.request("start");
            let ended = loop {
                let Some(pid) = status.strip_prefix("running ") else { break true };
                // A killed server has left this file, so compare its process id. The eighth line is the state.
                let file = std::fs::read_to_string(self.dir.join("data/postmaster.pid")).unwrap_or_default();
                let lines: Vec<&str> = file.lines().map(str::trim).collect();
                if lines.first() == Some(&pid) && matches!(lines.get(7), Some(&"ready" | &"standby")) {
                    return Ok(());
                }
                status = supervisor.request("status");
                if start.elapsed() > START {
                    break false;
                }
                std::thread::sleep(Duration::from_millis(20));
            };
            let log = self.log().split_off(log_start);
            // A moment after a crash, its killed processes may not have released their memory.
            let retry = log.contains("shared memory block") || log.contains("lock file \"postmaster.pid\"");
            if !(ended && retry) || start.elapsed() > START {
                return Err(format!("the server did not start:\n{log}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Makes a standby the primary, and waits until it accepts writes.
    pub fn promote(&self) -> Result<(), String> {
        self.sql("postgres", "SELECT pg_promote(true, 60)").map(drop)
    }

    /// Returns the server's log.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.dir.join("server.log")).unwrap_or_default()).into_owned()
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- log of PostgreSQL ---\n{}\n---",
                lines[lines.len().saturating_sub(30)..].join("\n")
            );
        }
        let supervisor = self.supervisor.get_mut().unwrap_or_else(|e| e.into_inner());
        supervisor.end();
    }
}

impl Supervisor {
    /// Starts the supervisor of a program, which `request("start")` starts. It owns the folder.
    ///
    /// `end_signal` ends the program at once. It must be one that the program handles, because it inherits that the shell
    /// ignores signals.
    fn start(
        dir: &Path,
        owner: Option<(u32, u32)>,
        end_signal: &str,
        program: &[OsString],
    ) -> Result<Supervisor, String> {
        let mut sh = Command::new("sh");
        sh.args(["-c", SUPERVISOR, "supervisor"]).arg(dir).arg(end_signal).args(program);
        if let Some((uid, gid)) = owner {
            chown(dir, Some(uid), Some(gid)).map_err(|e| e.to_string())?;
            sh.uid(uid).gid(gid);
        }
        clean_environment(&mut sh);
        // In a process group of its own, so that Ctrl-C does not end the server before the tests.
        sh.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = sh.spawn().map_err(|e| format!("sh: {e}"))?;
        let (input, output) = (child.stdin.take(), child.stdout.take().expect("its pipe"));
        Ok(Supervisor { child, input, output: BufReader::new(output) })
    }

    /// Stops the program, removes its folder, and ends.
    fn end(&mut self) {
        self.input = None;
        self.child.wait().ok();
    }

    fn request(&mut self, line: &str) -> String {
        let input = self.input.as_mut().expect("its pipe");
        input.write_all(format!("{line}\n").as_bytes()).expect("the supervisor of PostgreSQL is gone");
        let mut answer = String::new();
        self.output.read_line(&mut answer).expect("an answer of the supervisor");
        answer.trim().to_owned()
    }
}

fn own_folder() -> Result<tempfile::TempDir, String> {
    let private = std::fs::Permissions::from_mode(0o700);
    let folder = tempfile::Builder::new().prefix("hookstream-pg-").permissions(private).tempdir();
    folder.map_err(|e| e.to_string())
}

/// Settings of the developer, such as PGDATABASE or a locale, must not influence the server.
fn clean_environment(command: &mut Command) {
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("LC_ALL", "C");
}

/// Returns the user and group of the server if the owner of `dir` is root.
fn server_user(dir: &Path) -> Result<Option<(u32, u32)>, String> {
    if std::fs::metadata(dir).map_err(|e| e.to_string())?.uid() != 0 {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd").map_err(|e| format!("/etc/passwd: {e}"))?;
    let user = |name: &str| {
        let fields: Vec<&str> =
            users.lines().find(|line| line.split(':').next() == Some(name))?.split(':').collect();
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    };
    let found = user("postgres").or_else(|| user("nobody"));
    found
        .map(Some)
        .ok_or("root needs a user `postgres` or `nobody`, because PostgreSQL refuses to run as root".into())
}

/// Returns a port that was free a moment ago. The range is below the system's ephemeral ports: a connection cannot take
/// the port while the server restarts.
fn free_port() -> u16 {
    loop {
        let random = RandomState::new().hash_one(Instant::now());
        let port = 12_000 + u16::try_from(random % 20_000).expect("less than 20,000");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// Sends one message of PostgreSQL's protocol. The first of a connection has no kind.
fn send(stream: &mut UnixStream, kind: Option<u8>, body: &[u8]) -> Result<(), String> {
    let mut message: Vec<u8> = kind.into_iter().collect();
    message.extend(u32::try_from(body.len() + 4).expect("a short message").to_be_bytes());
    message.extend(body);
    stream.write_all(&message).map_err(|e| e.to_string())
}

/// Reads messages up to ReadyForQuery. Returns the rows, or the first error.
fn read_until_ready(stream: &mut UnixStream) -> Result<Vec<Vec<String>>, String> {
    let (mut rows, mut error) = (Vec::new(), None);
    loop {
        let mut head = [0; 5];
        stream.read_exact(&mut head).map_err(|e| error.take().unwrap_or_else(|| e.to_string()))?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let mut body = vec![0; length - 4];
        stream.read_exact(&mut body).map_err(|e| e.to_string())?;
        match head[0] {
            b'Z' => return error.map_or(Ok(rows), Err),
            b'D' => rows.push(columns(&body)),
            b'E' => {
                let fields = body.split(|byte| *byte == 0).map(String::from_utf8_lossy);
                let message = fields.into_iter().find(|field| field.starts_with('M'));
                error = error.or(message.map(|field| field[1..].to_owned()));
            }
            _ => {}
        }
    }
}

/// Returns the columns of a DataRow message.
fn columns(body: &[u8]) -> Vec<String> {
    let mut rest = &body[2..];
    let mut columns = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        columns.push(String::from_utf8_lossy(&after[..length]).into_owned());
        rest = &after[length..];
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_survives_kill9_with_its_data_and_leaves_nothing_behind() {
        let server = PostgresServer::start(PostgresServerOptions { durable: true, ..Default::default() })
            .unwrap_or_else(|error| panic!("{error}"));
        server.create_database("a");
        server.sql("a", "CREATE TABLE t (n int); INSERT INTO t VALUES (1), (NULL)").unwrap();
        server.kill9();
        assert!(server.sql("a", "SELECT 1").is_err(), "it is still running");
        server.restart().unwrap();
        let rows = server.sql("a", "SELECT n FROM t ORDER BY n").unwrap();
        assert_eq!(rows, [["1"], [""]]);
        assert_eq!(
            server.sql("a", "SELECT * FROM missing"),
            Err("relation \"missing\" does not exist".into())
        );
        let dir = server.dir.clone();
        drop(server);
        assert!(!dir.exists(), "{}", dir.display());
    }

    #[test]
    fn standby_follows_and_is_promoted() {
        let primary = shared();
        let options = PostgresServerOptions { standby_of: Some((primary, "second")), ..Default::default() };
        let standby = PostgresServer::start(options).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(standby.sql("postgres", "SELECT pg_is_in_recovery()").unwrap(), [["t"]]);
        standby.promote().unwrap();
        standby.sql("postgres", "CREATE TABLE written (n int)").unwrap();
    }
}
