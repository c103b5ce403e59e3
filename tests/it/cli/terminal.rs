//! Runs the program in a pseudo-terminal, as a person does.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::Child;

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::harness::Process;

/// The program on a terminal of its own.
pub struct Terminal {
    child: Child,
    screen: File,
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
        Terminal { child, screen: screen.into(), text: String::new() }
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

    /// Returns false once the program has ended, which closes its side of the terminal.
    fn read_more(&mut self) -> bool {
        let mut bytes = [0; 4096];
        let Ok(count) = self.screen.read(&mut bytes) else { return false };
        self.text.push_str(&String::from_utf8_lossy(&bytes[..count]).replace("\r\n", "\n"));
        count > 0
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
