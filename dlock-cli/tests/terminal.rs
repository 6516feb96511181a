//! `dlock run` on a terminal.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Place, SOON};
use dlock_fixtures::wait_until;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

/// A terminal, and what was shown on it.
struct Terminal {
    keyboard: File,
    shown: Arc<Mutex<String>>,
    child: Child,
}

impl Terminal {
    /// Runs a shell command in a session of its own, on a terminal of its own.
    fn run(place: &Place, script: &str) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let open = || File::options().read(true).write(true).open(&name).unwrap();
        let child = Command::new("setsid")
            .args(["--ctty", "--wait", "bash", "-c", script])
            .env("DLOCK_URL", &place.url)
            .env("DLOCK", env!("CARGO_BIN_EXE_dlock"))
            .stdin(open())
            .stdout(open())
            .stderr(open())
            .spawn()
            .unwrap();
        let keyboard = File::from(master);
        let (mut screen, shown) = (keyboard.try_clone().unwrap(), Arc::new(Mutex::new(String::new())));
        std::thread::spawn({
            let shown = shown.clone();
            move || {
                let mut bytes = [0; 1024];
                while let Ok(length @ 1..) = screen.read(&mut bytes) {
                    shown.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..length]));
                }
            }
        });
        Self { keyboard, shown, child }
    }

    fn until(&self, word: &str) {
        wait_until(word, SOON, || self.shown.lock().unwrap().contains(word));
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }
}

#[test]
fn the_command_reads_the_terminal_and_the_shell_has_it_back() {
    let place = Place::local();
    let script = r#"$DLOCK run k -- bash -c 'echo ready; read line; echo "read <$line>"; exit 5'; echo "status $?"; read more; echo "shell read <$more>""#;
    let mut terminal = Terminal::run(&place, script);
    terminal.until("ready");
    terminal.press("hello\n");
    terminal.until("read <hello>");
    terminal.until("status 5");
    terminal.press("again\n");
    terminal.until("shell read <again>");
    assert!(terminal.child.wait().unwrap().success());
}

#[test]
fn ctrl_c_reaches_the_command_once() {
    let place = Place::local();
    let script = r#"trap : INT; $DLOCK run k -- bash -c 'trap "echo got INT; exit 9" INT; echo ready; while :; do sleep 0.05; done'; echo "status $?""#;
    let mut terminal = Terminal::run(&place, script);
    terminal.until("ready");
    terminal.press("\u{3}");
    terminal.until("status 9");
    assert_eq!(terminal.shown.lock().unwrap().matches("got INT").count(), 1);
    assert!(terminal.child.wait().unwrap().success());
}

#[test]
fn ctrl_z_does_not_put_a_lock_to_sleep() {
    let place = Place::local();
    let script = r#"$DLOCK run k -- bash -c 'echo ready; for n in 1 2 3 4 5 6 7 8; do sleep 0.1; done; echo went on'; echo "status $?""#;
    let mut terminal = Terminal::run(&place, script);
    terminal.until("ready");
    terminal.press("\u{1a}");
    terminal.until("went on");
    terminal.until("status 0");
    assert!(terminal.child.wait().unwrap().success());
}
