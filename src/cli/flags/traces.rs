//! Flags for traces.

use std::path::PathBuf;

use http::Uri;

use crate::cli::failure::{Failure, OrFail};
use crate::core::urls::parse_any_url;
use crate::traces::{Collector, HeadersFile};

/// The path at which a collector receives spans, by the OTLP specification.
const TRACES_PATH: &str = "v1/traces";

/// Where traces are exported to.
#[derive(clap::Args, Clone, Debug)]
pub struct TraceArgs {
    /// The address of a collector to which traces of events are exported over OTLP/HTTP, such as
    /// http://otel-collector.observability:4318; /v1/traces is added to its path. The egress flags apply to it. Default: no
    /// traces.
    // Parsed later, because clap prints a value that it rejects, and this one may contain a password.
    #[arg(long, value_name = "URL", env = "HOOKSTREAM_OTLP_ENDPOINT", hide_env_values = true)]
    otlp_endpoint: Option<String>,
    /// A file with headers of the requests to the collector, such as an API key: `name: value` on each line. A replaced file
    /// takes effect at the next request.
    #[arg(long, value_name = "FILE", requires = "otlp_endpoint", env = "HOOKSTREAM_OTLP_HEADERS_FILE")]
    otlp_headers_file: Option<PathBuf>,
    /// The fraction of traces to export, 0 to 1, of those that begin here. A trace that began at the sender is exported if
    /// the sender's traceparent has the flag sampled.
    #[arg(long, default_value = "1", value_name = "RATIO", value_parser = parse_ratio, env = "HOOKSTREAM_OTLP_SAMPLE_RATIO")]
    otlp_sample_ratio: f64,
}

impl TraceArgs {
    /// Returns the collector; None without `--otlp-endpoint`.
    pub fn collector(&self) -> Result<Option<Collector>, Failure> {
        let Some(endpoint) = &self.otlp_endpoint else { return Ok(None) };
        let uri = parse_endpoint(endpoint).or_fail(|| "--otlp-endpoint".into())?;
        let headers = self.otlp_headers_file.clone().map(HeadersFile::open).transpose();
        let headers = headers.or_fail(|| "--otlp-headers-file".into())?;
        Ok(Some(Collector { uri, headers, sample_ratio: self.otlp_sample_ratio }))
    }
}

/// Parses the address of a collector and adds the path for spans. The error does not repeat the text.
fn parse_endpoint(text: &str) -> Result<Uri, &'static str> {
    const EXAMPLE: &str = "is not a URL: give it as http://otel-collector.observability:4318";
    let mut url = parse_any_url(text).filter(|url| url.has_host()).ok_or(EXAMPLE)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must be an http or https URL, because spans are sent over OTLP/HTTP and not gRPC");
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err("other users of the machine can read flags: give credentials with --otlp-headers-file");
    }
    let path = url.path().trim_end_matches('/').to_owned();
    if !path.ends_with(TRACES_PATH) {
        url.set_path(&format!("{path}/{TRACES_PATH}"));
    }
    url.as_str().parse().map_err(|_| EXAMPLE)
}

/// Parses a fraction from 0 to 1.
fn parse_ratio(text: &str) -> Result<f64, &'static str> {
    let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or("must be a fraction from 0 to 1, such as 0.1 for a tenth")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_the_path_for_spans() {
        for (text, expected) in [
            ("http://otel:4318", "http://otel:4318/v1/traces"),
            ("https://otel.example.com/", "https://otel.example.com/v1/traces"),
            ("https://api.example.com/otlp", "https://api.example.com/otlp/v1/traces"),
            ("http://otel:4318/v1/traces", "http://otel:4318/v1/traces"),
        ] {
            assert_eq!(parse_endpoint(text).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn rejects_what_is_no_collector() {
        for (text, expected) in [
            ("otel:4318", "is not a URL"),
            ("otel", "is not a URL"),
            ("grpc://otel:4317", "not gRPC"),
            ("http://us:er@otel:4318", "--otlp-headers-file"),
            ("http://otel:4318?key=us", "--otlp-headers-file"),
        ] {
            let problem = parse_endpoint(text).unwrap_err();
            assert!(problem.contains(expected), "{text}: {problem}");
        }
    }

    #[test]
    fn parses_fractions() {
        assert_eq!((parse_ratio("0"), parse_ratio("0.25"), parse_ratio("1")), (Ok(0.0), Ok(0.25), Ok(1.0)));
        for text in ["", "-0.1", "1.1", "10%", "NaN"] {
            assert!(parse_ratio(text).is_err(), "{text}");
        }
    }
}
