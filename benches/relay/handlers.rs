//! The cost of templates and lambdas: deliveries per second compared with a plain webhook, in alternating rounds, on
//! filled stores.

use std::net::SocketAddr;

use crate::common::figures::Spread;
use crate::common::load;
use crate::common::preload::Size;
use crate::common::process::{self, Subject};

/// Goals as shares of the plain webhook's rate. Informational: the run does not fail below them.
const GOALS: [(&str, f64); 3] = [("template", 0.7), ("template with code", 0.5), ("lambda", 0.5)];
const CONNECTIONS: usize = 64;

struct Handler {
    subject: Subject,
    /// Address of the ops port, which serves the metrics.
    ops: String,
    rates: Vec<f64>,
}

/// Prints the rate of each handler. Returns true if every event was delivered.
pub fn run(sink: SocketAddr, size: Size, rounds: usize, events: usize) -> bool {
    let url = format!("url: 'http://{sink}/'");
    let fields = r#"{"number": {* number *}, "text": {* json(filler) *}, "of": "{{ source }}/{{ event }}"}"#;
    let code = r#"{% if number >= 0 then %}{"number": {* number *}, "text": {* json(filler) *}}{% end %}"#;
    let function =
        "return function (data, event, source, pid) return data.number >= 0 and source == \"bench-0\" end";
    let handlers = [
        format!("webhook: {{{url}}}"),
        format!("webhookCustom: {{{url}, body: '{fields}'}}"),
        format!("webhookCustom: {{{url}, body: '{code}'}}"),
        format!("lambda: {{functions: ['{function}']}}"),
    ];
    let mut handlers: Vec<Handler> = handlers
        .iter()
        .map(|handler| {
            let (subject, ports) = process::start_with_handler(handler, size);
            Handler { subject, ops: ports.ops, rates: Vec::new() }
        })
        .collect();
    let mut all_delivered = true;
    for round in 0..=rounds {
        for handler in &mut handlers {
            // The first round is a warm-up.
            let events = if round == 0 { events / 10 } else { events };
            match load::run_counted(&handler.subject, &handler.ops, CONNECTIONS, events) {
                Some(rate) if round > 0 => handler.rates.push(rate),
                Some(_) => {}
                None => all_delivered = false,
            }
        }
    }
    let mut medians = handlers.iter().map(|handler| Spread::of(handler.rates.iter().copied()).median);
    let plain = medians.next().unwrap_or(f64::NAN);
    println!("handlers, {CONNECTIONS} connections: plain webhook {plain:.0} deliveries/s");
    for ((name, goal), rate) in GOALS.into_iter().zip(medians) {
        println!("  {name:18}  {rate:>7.0} deliveries/s  ratio {:.2} (goal {goal})", rate / plain);
    }
    all_delivered
}
