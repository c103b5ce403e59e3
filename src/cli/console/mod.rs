//! `hookstream console`: opens the worker's web console through a proxy on this machine.
//!
//! The proxy listens on a loopback address, answers one browser (`gate`), forwards pages of the console only (`headers`,
//! `upstream`), and performs changes of objects with the user's kubeconfig after a confirmation (`actions`).

mod actions;
mod gate;
mod headers;
mod open;
mod pages;
mod proxy;
mod tokens;
mod upstream;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderValue;

use super::failure::{CommandResult, Failure, OrFail};
use super::flags::ListenAddress;
use super::output::print_line;
use super::signals::stop_signal;
use super::worker_args::{WorkerApiArgs, WorkerRoute};
use actions::ConsoleActions;
use gate::{BrowserGate, RandomKey};
use open::{open_browser, watch_enter};
use proxy::ConsoleProxy;
use upstream::ConsoleUpstream;

use crate::console::ROOT;
use crate::core::names::is_namespace;

/// Open the worker's web console in the browser.
///
/// Listens on a loopback address and forwards the console's pages to the worker, as a ServiceAccount with a short-lived
/// token. Prints a link that is valid once and for 60 seconds. Pausing, resuming and reconciling happen with your
/// kubeconfig, after a confirmation. Runs until Ctrl-C.
///
/// Example: hookstream console --context prod -n shop
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The listen address of the proxy; port 0 selects a free port. It must be a loopback address.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8088", env = "HOOKSTREAM_CONSOLE_LISTEN")]
    listen: ListenAddress,
    /// Print the link, and do not open a browser.
    #[arg(long, env = "HOOKSTREAM_NO_OPEN")]
    no_open: bool,
    #[command(flatten)]
    api: WorkerApiArgs,
}

pub async fn run(args: Args) -> CommandResult {
    if !args.listen.is_loopback("--listen")? {
        return Err(Failure::new(format!(
            "--listen {}: the console is for this machine, so the address must be a loopback one, such as 127.0.0.1:8088",
            args.listen
        )));
    }
    let stop = stop_signal()?;
    let route = args.api.route().await?;
    let cluster = match &route {
        WorkerRoute::Url { .. } => None,
        WorkerRoute::Service { cluster, .. } => Some((**cluster).clone()),
    };
    let form_key = RandomKey::generate()?;
    let header = HeaderValue::from_str(form_key.expose()).or_fail(|| "the key of forms".into())?;
    let upstream = ConsoleUpstream::new(route, cluster.is_some().then_some(header))?;
    let listener = args.listen.bind("--listen").await?;
    let address = listener.local_addr().or_fail(|| "listening".into())?;
    let start = start_page(&args.api.caller.namespace)?;
    upstream.probe(&start).await?;
    eprintln!("hookstream: target: {}", upstream.target());
    let gate = BrowserGate::new(address.to_string(), address.port())?;
    let proxy = Arc::new(ConsoleProxy::new(gate, upstream, ConsoleActions::new(cluster, form_key), start));

    let link = proxy.gate.create_link(Instant::now())?;
    print_line(&link);
    eprintln!("hookstream: the link is valid once and for 60 s; Ctrl-C stops the console");
    if !args.no_open && !open_browser(&link) {
        eprintln!("hookstream: no browser could be opened: open the link yourself");
    }
    let enter = watch_enter();
    let renew_links = async {
        match enter {
            Some(mut enter) => {
                while enter.recv().await.is_some() {
                    print_line(&proxy.gate.create_link(Instant::now())?);
                }
                std::future::pending().await
            }
            None => std::future::pending::<Result<(), Failure>>().await,
        }
    };
    tokio::select! {
        served = axum::serve(listener, proxy.clone().router()) => served.or_fail(|| "serving the console".into())?,
        renewed = renew_links => renewed?,
        () = stop => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the first page: the overview of the namespace, because few accounts may read all of them.
fn start_page(namespace: &str) -> Result<String, Failure> {
    match namespace {
        "" => Ok(ROOT.to_owned()),
        name if is_namespace(name) => Ok(format!("{ROOT}namespaces/{name}")),
        name => Err(Failure::new(format!(
            "'{}' is not a valid namespace name (--namespace)",
            name.escape_default()
        ))),
    }
}
