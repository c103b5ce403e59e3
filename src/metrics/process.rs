//! Metrics of the process itself, under the names that every Prometheus client uses. Read from /proc at each scrape.

use std::fmt;

use procfs::process::{LimitValue, Process};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Exports CPU time, memory, open files, threads and the start of the process. Exports nothing where /proc is missing.
#[derive(Debug)]
pub(super) struct ProcessCollector {
    /// When the process started, in seconds since 1970.
    started: Option<f64>,
}

impl ProcessCollector {
    pub(super) fn new() -> Self {
        let started = || {
            let since_boot = Process::myself().ok()?.stat().ok()?.starttime;
            let boot = procfs::boot_time_secs().ok()?;
            Some(boot as f64 + since_boot as f64 / procfs::ticks_per_second() as f64)
        };
        ProcessCollector { started: started() }
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Ok((process, stat)) = Process::myself().and_then(|own| own.stat().map(|stat| (own, stat))) else {
            return Ok(());
        };
        let mut gauge = |name, help, unit: Option<&Unit>, value: f64| {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
        };
        gauge(
            "process_resident_memory",
            "Resident memory",
            Some(&Unit::Bytes),
            (stat.rss * procfs::page_size()) as f64,
        )?;
        gauge("process_virtual_memory", "Virtual memory", Some(&Unit::Bytes), stat.vsize as f64)?;
        gauge("process_threads", "Threads", None, stat.num_threads as f64)?;
        if let Some(started) = self.started {
            gauge("process_start_time", "Start of the process since 1970", Some(&Unit::Seconds), started)?;
        }
        if let Ok(open) = process.fd_count() {
            gauge("process_open_fds", "Open file descriptors", None, open as f64)?;
        }
        if let Ok(limits) = process.limits()
            && let LimitValue::Value(max) = limits.max_open_files.soft_limit
        {
            gauge("process_max_fds", "Maximum of open file descriptors", None, max as f64)?;
        }
        let seconds = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
        let cpu = ConstCounter::new(seconds);
        let help = "CPU time of the process, in user and system mode";
        cpu.encode(encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), cpu.metric_type())?)
    }
}
