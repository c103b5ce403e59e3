//! Publishes events of any size over one connection, each after the response to the one before.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// One connection to the ingest port.
pub struct Publisher {
    stream: BufReader<TcpStream>,
    path: String,
}

impl Publisher {
    pub fn connect(address: SocketAddr, path: &str) -> Publisher {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_nodelay(true).expect("nodelay");
        Publisher { stream: BufReader::new(stream), path: path.to_owned() }
    }

    /// Publishes one event of about this many bytes. Panics unless it is accepted.
    pub fn publish(&mut self, source: &str, bytes: usize) {
        let status = self.try_publish(source, bytes).expect("a response");
        assert_eq!(status, 202, "the event is accepted");
    }

    /// Publishes one event and returns the status of the response.
    pub fn try_publish(&mut self, source: &str, bytes: usize) -> std::io::Result<u16> {
        let body =
            format!(r#"{{"source":"{source}","event":"e","data":{{"filler":"{}"}}}}"#, "x".repeat(bytes));
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.path,
            body.len()
        );
        self.stream.get_mut().write_all(head.as_bytes())?;
        self.stream.get_mut().write_all(body.as_bytes())?;
        read_response(&mut self.stream)
    }
}

/// Reads one response and returns its status.
pub fn read_response(stream: &mut BufReader<TcpStream>) -> std::io::Result<u16> {
    let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|text| text.parse().ok()).ok_or_else(invalid)?;
    let mut length = 0;
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(|_| invalid())?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(status)
}
