//! Runs the program in a pseudo-terminal, as a person does.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::harness::{DEADLINE, Process};

/// The program on a terminal of its own.
pub struct Terminal {
    child: Child,
    /// What the program prints, until it ends.
    screen: Receiver<Vec<u8>>,
    text: String,
}

impl Terminal {
    /// Starts the program on a terminal with this number of columns.
    pub fn start(args: &[&str], envs: &[(&str, &str)], columns: u16) -> Terminal {
        let screen = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&screen).unwrap();
        unlockpt(&screen).unwrap();
        let name = ptsname(&screen, Vec::new()).unwrap();
        let side = || -> OwnedFd { open(&name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap() };
        let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let first = side();
        tcsetwinsize(&first, size).unwrap();
        let mut command = Process::command(args, envs);
        command.env_remove("COLUMNS").stdin(first).stdout(side()).stderr(side());
        let child = command.spawn().unwrap();
        let (sender, receiver) = channel();
        let mut screen = File::from(screen);
        // The thread ends with the program, which closes its side of the terminal.
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Terminal { child, screen: receiver, text: String::new() }
    }

    /// Reads until this text was printed. Returns everything that was printed so far.
    pub fn read_until(&mut self, part: &str) -> String {
        while !self.text.contains(part) {
            assert!(self.read_more(), "the program ended before it printed {part}: {}", self.text);
        }
        self.text.clone()
    }

    /// Reads until the program ends. Returns everything that it printed.
    pub fn read_to_end(&mut self) -> String {
        while self.read_more() {}
        self.text.clone()
    }

    /// Sends SIGINT, as Ctrl-C does.
    pub fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    /// Waits for the end of the program. Returns its exit code.
    pub fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Returns false once the program has ended.
    fn read_more(&mut self) -> bool {
        match self.screen.recv_timeout(DEADLINE) {
            Ok(bytes) => self.text.push_str(&String::from_utf8_lossy(&bytes).replace("\r\n", "\n")),
            Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => panic!("nothing more within {DEADLINE:?}: {}", self.text),
        }
        true
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
