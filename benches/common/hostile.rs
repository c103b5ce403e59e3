//! Hostile receivers and clients.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};

/// Returns the manifest of a hook that has the name of its source.
pub fn hook(namespace: &str, source: &str, receiver: SocketAddr, delivery: &str) -> String {
    hook_with_handler(namespace, source, &format!("webhook: {{url: 'http://{receiver}/'}}"), delivery)
}

/// Returns the manifest of a hook that has the name of its source and this handler (YAML).
pub fn hook_with_handler(namespace: &str, source: &str, handler: &str, delivery: &str) -> String {
    format!(
        "---\napiVersion: hookstream.dev/v1alpha1\nkind: EventHook\nmetadata: {{name: {source}, namespace: {namespace}}}\n\
         spec: {{source: {source}, handler: {{{handler}}}, delivery: {{{delivery}}}}}\n"
    )
}

/// Starts a receiver that accepts every connection and answers none.
pub fn start_tarpit() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        // Kept, because a dropped connection is an answer.
        let mut connections = Vec::new();
        for connection in listener.incoming().flatten() {
            connections.push(connection);
        }
    });
    address
}

/// Opens connections that send the beginning of a request and then nothing.
pub fn stall(address: SocketAddr, beginning: &[u8], count: usize) -> Vec<TcpStream> {
    let open = |_| {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.write_all(beginning).ok()?;
        Some(stream)
    };
    (0..count).filter_map(open).collect()
}
