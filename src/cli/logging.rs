//! Sets up logs: text on a terminal, JSON otherwise.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use super::failure::Failure;

/// Flags of logging. Logs go to standard error.
#[derive(clap::Args, Clone, Debug)]
pub struct LogArgs {
    /// The format of log lines. Default: text on a terminal, otherwise json.
    #[arg(long, value_enum, value_name = "FORMAT", env = "HOOKSTREAM_LOG_FORMAT")]
    log_format: Option<LogFormat>,
    /// The log level (error, warn, info, debug, trace), or a filter such as info,hookstream=debug.
    #[arg(long, default_value = "info", value_name = "FILTER", env = "HOOKSTREAM_LOG_LEVEL")]
    log_level: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl LogArgs {
    /// Installs the logger of the process.
    pub fn install(&self) -> Result<(), Failure> {
        let filter = EnvFilter::try_new(&self.log_level)
            .map_err(|e| Failure::new(format!("--log-level {}: {e}", self.log_level)))?;
        let is_terminal = std::io::stderr().is_terminal();
        let json = self.log_format.map_or(!is_terminal, |format| matches!(format, LogFormat::Json));
        let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter);
        let installed = if json {
            builder.json().flatten_event(true).with_current_span(false).try_init()
        } else {
            builder.with_ansi(is_terminal).with_target(false).try_init()
        };
        installed.map_err(|e| Failure::new(format!("installing the logger: {e}")))
    }
}
