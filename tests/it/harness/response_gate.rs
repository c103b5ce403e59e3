//! A TCP proxy that withholds a server's answers until the test lets them pass. A call in front of a closed gate stays in
//! flight for as long as the test needs, however slow the machine is.

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct ResponseGate {
    /// The base URL of the proxy.
    pub url: String,
    is_open: watch::Sender<bool>,
}

impl ResponseGate {
    /// Starts an open gate in front of the server with this base URL.
    pub async fn start(server_url: &str) -> ResponseGate {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = server_url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let (is_open, open) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, open) = (server.clone(), open.clone());
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(server).await else { return };
                    let (mut from_client, to_client) = client.into_split();
                    let (from_server, mut to_server) = server.into_split();
                    let requests = async {
                        copy(&mut from_client, &mut to_server).await.ok();
                        to_server.shutdown().await.ok();
                    };
                    tokio::join!(requests, forward_answers(from_server, to_client, open));
                });
            }
        });
        ResponseGate { url, is_open }
    }

    pub fn close(&self) {
        self.is_open.send_replace(false);
    }

    pub fn open(&self) {
        self.is_open.send_replace(true);
    }
}

async fn forward_answers(
    mut server: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    mut open: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = server.read(&mut buffer).await {
        if open.wait_for(|is_open| *is_open).await.is_err()
            || client.write_all(&buffer[..count]).await.is_err()
        {
            break;
        }
    }
    client.shutdown().await.ok();
}
