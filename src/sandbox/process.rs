//! Child processes on the worker's side: starting them, exchanging messages, killing them.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use super::options::SandboxOptions;
use super::protocol;
use crate::core::conditions::cut;

/// How long a child may take to start on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// The most bytes of a text from a child that are reported.
const MAX_CHILD_TEXT: usize = 512;

/// Why a child did not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The kernel does not confine it. A retry would fail too.
    #[error(
        "the kernel does not confine the sandbox process: {0}; --script-unsandboxed runs scripts without confinement"
    )]
    Unconfined(String),
    /// It did not start, for a reason that may be temporary.
    #[error("{0}")]
    Failed(String),
}

/// Starts and reaps children on a thread of its own.
///
/// Needed because the kernel kills a child when the thread that started it ends, and threads of the runtime may end.
#[derive(Clone)]
pub struct Starter(mpsc::Sender<Request>);

enum Request {
    Start(oneshot::Sender<io::Result<Process>>, Starter),
    Reap(Child),
}

impl Starter {
    pub fn new(options: &SandboxOptions) -> io::Result<Starter> {
        let options = options.clone();
        let (sender, requests) = mpsc::channel();
        std::thread::Builder::new().name("sandbox-starter".into()).spawn(move || {
            for request in requests {
                match request {
                    // If the caller was dropped, dropping the process reaps the child.
                    Request::Start(reply, starter) => {
                        let child = spawn(&options);
                        drop(reply.send(child.map(|child| Process {
                            child: Some(child),
                            pipes: None,
                            received: BytesMut::new(),
                            starter,
                        })));
                    }
                    Request::Reap(child) => reap(child),
                }
            }
        })?;
        Ok(Starter(sender))
    }

    /// Starts a child and waits for its handshake.
    pub async fn start(&self, options: &SandboxOptions) -> Result<Process, StartError> {
        let failed =
            |error: io::Error| StartError::Failed(format!("the sandbox process does not start: {error}"));
        let (reply, started) = oneshot::channel();
        let ended = || StartError::Failed("the thread that starts sandbox processes has ended".into());
        self.0.send(Request::Start(reply, self.clone())).map_err(|_| ended())?;
        let mut process = started.await.map_err(|_| ended())?.map_err(failed)?;
        let pipes = process.child.as_mut().and_then(|child| child.stdin.take().zip(child.stdout.take()));
        if let Some((input, output)) = pipes {
            let input = pipe::Sender::from_owned_fd(OwnedFd::from(input)).map_err(failed)?;
            let output = pipe::Receiver::from_owned_fd(OwnedFd::from(output)).map_err(failed)?;
            process.pipes = Some((input, output));
        }
        let too_slow = || {
            StartError::Failed(format!(
                "the sandbox process did not start within {}s",
                START_TIMEOUT.as_secs()
            ))
        };
        let handshake = tokio::time::timeout(START_TIMEOUT, process.read_handshake()).await;
        let handshake = handshake.map_err(|_| too_slow())?;
        match handshake.map_err(failed)?.unconfined {
            Some(why) if !options.allow_unsandboxed => {
                Err(StartError::Unconfined(cut(&why, MAX_CHILD_TEXT).into()))
            }
            Some(why) => {
                let why = cut(&why, MAX_CHILD_TEXT);
                tracing::warn!(reason = why, "scripts run in a process that the kernel does not confine");
                Ok(process)
            }
            None => Ok(process),
        }
    }
}

fn spawn(options: &SandboxOptions) -> io::Result<Child> {
    // Descriptors that libraries opened, or that the worker inherited, must not reach the child.
    close_fds::set_fds_cloexec(3, &[]);
    let mut command = Command::new(&options.program);
    command.arg("sandbox").arg(format!("--memory={}", options.memory));
    if options.allow_unsandboxed {
        command.arg("--unsandboxed");
    }
    command.env_clear().current_dir("/");
    // A separate process group, so that Ctrl-C reaches only the worker, which lets running invocations end.
    command.process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn()
}

fn reap(mut child: Child) {
    child.kill().ok();
    child.wait().ok();
}

/// A running child. Dropping it kills it.
pub struct Process {
    child: Option<Child>,
    pipes: Option<(pipe::Sender, pipe::Receiver)>,
    /// Bytes that were read and not consumed yet.
    received: BytesMut,
    starter: Starter,
}

impl Process {
    /// Writes a part of `out` or reads, whichever is possible first.
    ///
    /// Cancel safe: no bytes are lost. Fails with `BrokenPipe` if the child no longer reads.
    pub async fn transfer(&mut self, out: &mut BytesMut) -> io::Result<()> {
        let (input, output) = self.pipes.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        tokio::select! {
            // Write first, because only a failed write shows that a dead child has read nothing.
            biased;
            written = input.write(out), if !out.is_empty() => out.advance(written?),
            read = output.read_buf(&mut self.received) => if read? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            },
        }
        Ok(())
    }

    /// Returns the next message, of at most `max` bytes, if it was read completely.
    pub fn next_message(&mut self, max: usize) -> io::Result<Option<BytesMut>> {
        protocol::split_message(&mut self.received, max)
    }

    /// Returns the length of the message that is being read, if it is known.
    pub fn announced_length(&self, max: usize) -> io::Result<Option<usize>> {
        protocol::announced_length(&self.received, max)
    }

    /// True if all bytes that were read are consumed.
    pub fn is_drained(&self) -> bool {
        self.received.is_empty()
    }

    async fn read_handshake(&mut self) -> io::Result<protocol::Handshake> {
        loop {
            match self.next_message(protocol::MAX_HANDSHAKE)? {
                Some(message) if self.is_drained() => return Ok(protocol::parse_handshake(&message)?),
                // Bytes after the handshake are invalid, because no request was sent.
                Some(_) => return Err(io::ErrorKind::InvalidData.into()),
                None => self.transfer(&mut BytesMut::new()).await?,
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some(child) = self.child.take() else { return };
        if let Err(mpsc::SendError(Request::Reap(child))) = self.starter.0.send(Request::Reap(child)) {
            reap(child);
        }
    }
}
