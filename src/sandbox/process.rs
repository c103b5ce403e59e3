//! A child as the worker sees it: started, asked, killed.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use super::Options;
use super::protocol::{self, Hello};

/// How long a child may take to start, on a busy machine.
const START: Duration = Duration::from_secs(20);

/// Starts children and buries them, on a thread of its own: a child is killed by the kernel when the thread that
/// started it ends, and threads of the runtime come and go.
#[derive(Clone)]
pub struct Starter(mpsc::Sender<Order>);

enum Order {
    Start(oneshot::Sender<io::Result<Process>>, Starter),
    Bury(Child),
}

impl Starter {
    pub fn new(options: &Options) -> io::Result<Starter> {
        let options = options.clone();
        let (sender, orders) = mpsc::channel();
        std::thread::Builder::new().name("sandbox-starter".into()).spawn(move || {
            for order in orders {
                match order {
                    // Where who asked has gone, dropping the answer buries the child.
                    Order::Start(answer, starter) => {
                        let child = spawn(&options);
                        drop(answer.send(child.map(|child| Process {
                            child: Some(child),
                            pipes: None,
                            starter,
                        })));
                    }
                    Order::Bury(child) => bury(child),
                }
            }
        })?;
        Ok(Starter(sender))
    }

    /// A child that has said hello; else why there is none.
    pub async fn start(&self, options: &Options) -> Result<Process, String> {
        let told = |error: io::Error| format!("the sandbox process does not start: {error}");
        let (answer, started) = oneshot::channel();
        let gone = || "the sandbox's starter has ended".to_owned();
        self.0.send(Order::Start(answer, self.clone())).map_err(|_| gone())?;
        let mut process = started.await.map_err(|_| gone())?.map_err(told)?;
        let pipes = process.child.as_mut().and_then(|child| child.stdin.take().zip(child.stdout.take()));
        if let Some((input, output)) = pipes {
            let input = pipe::Sender::from_owned_fd(OwnedFd::from(input)).map_err(told)?;
            let output = pipe::Receiver::from_owned_fd(OwnedFd::from(output)).map_err(told)?;
            process.pipes = Some((input, output));
        }
        let hello = tokio::time::timeout(START, process.read::<Hello>(64 << 10)).await;
        let hello =
            hello.map_err(|_| format!("the sandbox process did not start within {}s", START.as_secs()))?;
        match hello.map_err(told)?.unconfined {
            Some(why) if !options.allow_unsandboxed => Err(format!(
                "the kernel does not confine the sandbox process: {why}; --script-unsandboxed runs scripts without"
            )),
            Some(why) => {
                tracing::warn!("scripts run in a process that the kernel does not confine: {why}");
                Ok(process)
            }
            None => Ok(process),
        }
    }
}

fn spawn(options: &Options) -> io::Result<Child> {
    // What libraries opened, or whoever started the worker left open, must not be there in the child.
    close_fds::set_fds_cloexec(3, &[]);
    let mut command = Command::new(&options.program);
    command.arg("sandbox").arg(format!("--memory={}", options.memory));
    if options.allow_unsandboxed {
        command.arg("--unsandboxed");
    }
    command.env_clear().current_dir("/");
    // Ctrl-C is for the worker, which lets what it began end.
    command.process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn()
}

fn bury(mut child: Child) {
    child.kill().ok();
    child.wait().ok();
}

/// A child that runs. Dropped, it is killed.
pub struct Process {
    child: Option<Child>,
    pipes: Option<(pipe::Sender, pipe::Receiver)>,
    starter: Starter,
}

impl Process {
    /// Writes a framed message. An error: the child did not read all of it.
    pub async fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        let (input, _) = self.pipes.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        input.write_all(frame).await
    }

    /// Reads a message of at most `max` bytes.
    pub async fn read<T: DeserializeOwned>(&mut self, max: usize) -> io::Result<T> {
        let (_, output) = self.pipes.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut head = [0; 4];
        output.read_exact(&mut head).await?;
        let length = protocol::length(head, max).ok_or(io::ErrorKind::InvalidData)?;
        let mut body = Vec::new();
        // Memory grows with what comes, not with what a head announces.
        output.take(u64::try_from(length).unwrap_or(u64::MAX)).read_to_end(&mut body).await?;
        if body.len() != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&body)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some(child) = self.child.take() else { return };
        if let Err(mpsc::SendError(Order::Bury(child))) = self.starter.0.send(Order::Bury(child)) {
            bury(child);
        }
    }
}

/// A message, ready to be written; none where it is too long.
pub fn frame<T: Serialize>(message: &T, max: usize) -> Option<Vec<u8>> {
    protocol::frame(message, max).ok().flatten()
}
