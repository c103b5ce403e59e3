//! The database server: durable, with its CPU time and the bytes of its log.

use crate::common::settings::number;
use crate::connection::Connection;
use crate::postgres::{PostgresServer, PostgresServerOptions};

/// Settings of a small production server. What syncs is not changed.
const SETTINGS: &[(&str, &str)] = &[
    ("shared_buffers", "512MB"),
    ("max_wal_size", "4GB"),
    ("max_connections", "200"),
    ("checkpoint_timeout", "5min"),
];
const WITH_STATEMENTS: &[(&str, &str)] = &[
    ("shared_preload_libraries", "pg_stat_statements"),
    ("shared_buffers", "512MB"),
    ("max_wal_size", "4GB"),
    ("max_connections", "200"),
    ("checkpoint_timeout", "5min"),
];
/// The statements that are printed.
const MAX_STATEMENTS: usize = 24;

pub struct Server {
    server: PostgresServer,
    control: Connection,
    /// The process of which all others of the server are children.
    postmaster: u32,
    has_statements: bool,
}

/// What the server has used since it started.
#[derive(Clone, Copy, Debug)]
pub struct ServerUsage {
    /// CPU time of all processes, those that ended included.
    pub cpu_us: f64,
    pub wal_bytes: f64,
}

impl Server {
    pub fn start() -> Server {
        let has_statements = number("BENCH_PG_STATEMENTS", 0) > 0;
        let settings = if has_statements { WITH_STATEMENTS } else { SETTINGS };
        let options = PostgresServerOptions { durable: true, settings, ..Default::default() };
        let server = PostgresServer::start(options).unwrap_or_else(|error| panic!("{error}"));
        let control = Connection::open(&server.url("postgres"));
        if has_statements {
            control.run("CREATE EXTENSION pg_stat_statements");
        }
        let postmaster = control.number("SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)");
        Server { server, control, postmaster: postmaster as u32, has_statements }
    }

    /// Returns its version and the settings that decide about durability.
    pub fn description(&self) -> String {
        let rows = self.control.rows(
            "SELECT 'PostgreSQL ' || current_setting('server_version') || ', fsync ' || current_setting('fsync')
                 || ', synchronous_commit ' || current_setting('synchronous_commit') || ', shared_buffers '
                 || current_setting('shared_buffers') || ', max_wal_size ' || current_setting('max_wal_size')",
        );
        rows.concat().concat()
    }

    /// Creates an empty database and returns its URL.
    pub fn new_database(&self) -> String {
        self.server.new_database()
    }

    pub fn usage(&self) -> ServerUsage {
        let wal_bytes = self.control.number("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn");
        let all = procfs::process::all_processes().expect("/proc");
        let mut ticks = 0;
        for stat in all.filter_map(|process| process.ok()?.stat().ok()) {
            let pid = u32::try_from(stat.pid).unwrap_or(0);
            if pid == self.postmaster {
                // The postmaster has waited for the processes that ended.
                ticks += stat.utime + stat.stime;
                ticks += u64::try_from(stat.cutime + stat.cstime).unwrap_or(0);
            } else if u32::try_from(stat.ppid).unwrap_or(0) == self.postmaster {
                ticks += stat.utime + stat.stime;
            }
        }
        // USER_HZ is 100 on all common Linux builds: a tick is 10 ms.
        ServerUsage { cpu_us: ticks as f64 * 10_000.0, wal_bytes }
    }

    pub fn forget_statements(&self) {
        if self.has_statements {
            self.control.rows("SELECT pg_stat_statements_reset()");
        }
    }

    /// Prints the statements that took most time, of all databases.
    pub fn print_statements(&self) {
        if !self.has_statements {
            return;
        }
        println!("\n  total ms    calls   us/call  rows/call  WAL B/call  blocks/call  statement");
        let rows = self.control.rows(&format!(
            "SELECT round(sum(total_exec_time)::numeric), sum(calls),
                    round((1000 * sum(total_exec_time) / sum(calls))::numeric), round(sum(rows) / sum(calls), 1),
                    round(sum(wal_bytes) / sum(calls)), round(sum(shared_blks_hit + shared_blks_read) / sum(calls)),
                    left(regexp_replace(query, '\\s+', ' ', 'g'), 110)
             FROM pg_stat_statements GROUP BY query ORDER BY sum(total_exec_time) DESC LIMIT {MAX_STATEMENTS}"
        ));
        for row in rows {
            let [total, calls, each, of_call, wal, blocks, query] = &row[..] else { continue };
            println!("  {total:>8} {calls:>8} {each:>9} {of_call:>10} {wal:>11} {blocks:>12}  {query}");
        }
    }
}

impl ServerUsage {
    pub fn since(self, before: ServerUsage) -> ServerUsage {
        ServerUsage { cpu_us: self.cpu_us - before.cpu_us, wal_bytes: self.wal_bytes - before.wal_bytes }
    }
}
