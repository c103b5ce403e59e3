//! A child as the worker sees it: started, asked, killed.

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

use super::Options;
use super::protocol;
use crate::core::conditions::cut;

/// How long a child may take to start, on a busy machine.
const START: Duration = Duration::from_secs(20);
/// What is told of a child's own words, in bytes.
const MAX_WORDS: usize = 512;

/// Why there is no child.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoChild {
    /// The kernel does not confine it: no other will be.
    #[error(
        "the kernel does not confine the sandbox process: {0}; --script-unsandboxed runs scripts without"
    )]
    Unconfined(String),
    /// It did not start, for a reason that may pass.
    #[error("{0}")]
    Failed(String),
}

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
                            came: BytesMut::new(),
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
    pub async fn start(&self, options: &Options) -> Result<Process, NoChild> {
        let told = |error: io::Error| NoChild::Failed(format!("the sandbox process does not start: {error}"));
        let (answer, started) = oneshot::channel();
        let gone = || NoChild::Failed("the sandbox's starter has ended".into());
        self.0.send(Order::Start(answer, self.clone())).map_err(|_| gone())?;
        let mut process = started.await.map_err(|_| gone())?.map_err(told)?;
        let pipes = process.child.as_mut().and_then(|child| child.stdin.take().zip(child.stdout.take()));
        if let Some((input, output)) = pipes {
            let input = pipe::Sender::from_owned_fd(OwnedFd::from(input)).map_err(told)?;
            let output = pipe::Receiver::from_owned_fd(OwnedFd::from(output)).map_err(told)?;
            process.pipes = Some((input, output));
        }
        let late =
            || NoChild::Failed(format!("the sandbox process did not start within {}s", START.as_secs()));
        let hello = tokio::time::timeout(START, process.hello()).await;
        let hello = hello.map_err(|_| late())?;
        match hello.map_err(told)?.unconfined {
            Some(why) if !options.allow_unsandboxed => Err(NoChild::Unconfined(cut(&why, MAX_WORDS).into())),
            Some(why) => {
                let why = cut(&why, MAX_WORDS);
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
    /// What was read and is not taken yet.
    came: BytesMut,
    starter: Starter,
}

impl Process {
    /// Writes of `out` or reads, whichever is possible first. Nothing is lost where this future is dropped. The error
    /// `BrokenPipe`: it does not read any more.
    pub async fn pump(&mut self, out: &mut BytesMut) -> io::Result<()> {
        let (input, output) = self.pipes.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        tokio::select! {
            // Writing first: that one which is dead has read nothing shows in nothing else.
            biased;
            written = input.write(out), if !out.is_empty() => out.advance(written?),
            read = output.read_buf(&mut self.came) => if read? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            },
        }
        Ok(())
    }

    /// A message of at most `max` bytes, where a whole one came.
    pub fn message(&mut self, max: usize) -> io::Result<Option<BytesMut>> {
        protocol::take(&mut self.came, max)
    }

    /// True where nothing came that was not taken.
    pub fn is_quiet(&self) -> bool {
        self.came.is_empty()
    }

    async fn hello(&mut self) -> io::Result<protocol::Hello> {
        loop {
            match self.message(protocol::MAX_HELLO)? {
                Some(words) if self.is_quiet() => return Ok(protocol::hello(&words)?),
                // It answers what it was not asked.
                Some(_) => return Err(io::ErrorKind::InvalidData.into()),
                None => self.pump(&mut BytesMut::new()).await?,
            }
        }
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
