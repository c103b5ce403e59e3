//! Sets up logs: text on a terminal, JSON otherwise.

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;

use clap::{CommandFactory, ValueEnum};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::environment::unknown_variables;
use super::failure::{Failure, OrFail};
use super::log_json::JsonLines;
use super::output::has_colour;
use crate::core::suggest::did_you_mean;
use crate::net::request_id::current_span;

/// Flags of logging. Logs go to standard error.
#[derive(clap::Args, Clone, Debug)]
pub struct LogArgs {
    /// The format of log lines. Default: text on a terminal, otherwise json.
    #[arg(long, value_enum, value_name = "FORMAT", env = "HOOKSTREAM_LOG_FORMAT")]
    log_format: Option<LogFormat>,
    /// The log level (error, warn, info, debug, trace), or a filter such as info,hookstream=debug.
    #[arg(long, default_value = "info", value_name = "FILTER", value_parser = parse_filter, env = "HOOKSTREAM_LOG_LEVEL")]
    log_level: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// Checks a filter. `EnvFilter` takes an unknown level for the name of a module, and then logs nothing.
fn parse_filter(text: &str) -> Result<String, String> {
    for part in text.split(',') {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        if level != "off" && Level::from_str(level).is_err() {
            let suggestion = did_you_mean(level, LEVELS);
            return Err(format!(
                "'{level}' is no level{suggestion} (error, warn, info, debug, trace or off; for one module MODULE=LEVEL)"
            ));
        }
    }
    EnvFilter::try_new(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

impl LogArgs {
    /// Installs the logger of the process.
    pub fn install(&self) -> Result<(), Failure> {
        let filter = EnvFilter::try_new(&self.log_level).or_fail(|| "--log-level".into())?;
        let is_terminal = std::io::stderr().is_terminal();
        let json = self.log_format.map_or(!is_terminal, |format| matches!(format, LogFormat::Json));
        let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter);
        let installed = if json {
            builder.json().map_event_format(|_| WithRequest(JsonLines)).try_init()
        } else {
            let builder = builder.with_ansi(has_colour(&std::io::stderr())).with_target(false);
            builder.map_event_format(WithRequest).try_init()
        };
        installed.map_err(|e| Failure::new(format!("installing the logger: {e}")))?;
        unknown_variables(&super::Cli::command()).iter().for_each(|warning| tracing::warn!("{warning}"));
        Ok(())
    }
}

/// Formats a line within the span of the request that the current task handles.
struct WithRequest<F>(F);

impl<S, N, F> FormatEvent<S, N> for WithRequest<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        match current_span() {
            Some(span) => span.in_scope(|| self.0.format_event(context, writer, event)),
            None => self.0.format_event(context, writer, event),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_unknown_levels() {
        for text in ["info", "WARN", "off", "info,hookstream=debug", "hookstream::worker=trace", "warn,a=off"]
        {
            assert_eq!(parse_filter(text).as_deref(), Ok(text));
        }
        for (text, part) in [
            ("verbose", "'verbose' is no level (error"),
            ("inof", "'inof' is no level: did you mean info?"),
            ("hookstream=inof", "did you mean info?"),
            ("info,hookstream", "'hookstream' is no level"),
            ("", "'' is no level"),
        ] {
            let error = parse_filter(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
