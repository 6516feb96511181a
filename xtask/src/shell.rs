//! Commands, and how they are stopped.

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) type Done<T = ()> = Result<T, String>;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C and SIGTERM end the running command, and then this program: what it started is stopped on the way.
pub(crate) fn on_interrupt() {
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::SeqCst)).expect("the only handler");
}

pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask stands in the workspace").to_owned()
}

pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Runs a command that must succeed.
pub(crate) fn run(command: &mut Command) -> Done {
    println!("$ {}", shown(command));
    wait(command)
}

fn wait(command: &mut Command) -> Done {
    let mut child = command.spawn().map_err(|error| format!("{}: {error}", shown(command)))?;
    loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            return if status.success() { Ok(()) } else { Err(format!("{}: {status}", shown(command))) };
        }
        if interrupted() {
            let _ = kill_process(Pid::from_child(&child), Signal::TERM);
            let _ = child.wait();
            return Err("interrupted".to_owned());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a command that must succeed, shows what it prints, and answers the lines that `is_wanted`.
pub(crate) fn run_and_keep(command: &mut Command, is_wanted: fn(&str) -> bool) -> Done<Vec<String>> {
    println!("$ {}", shown(command));
    let (reader, writer) = std::io::pipe().map_err(|error| error.to_string())?;
    command.stdout(Stdio::from(writer));
    let kept = Mutex::new(Vec::new());
    let done = std::thread::scope(|scope| {
        scope.spawn(|| {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                println!("{line}");
                if is_wanted(&line) {
                    kept.lock().expect("the lines").push(line);
                }
            }
        });
        let done = wait(command);
        // Closes our end of the pipe, so that the reader ends.
        command.stdout(Stdio::null());
        done
    });
    let kept = kept.into_inner().expect("the lines");
    done.map(|()| kept)
}

/// What a command prints.
pub(crate) fn output(command: &mut Command) -> Done<String> {
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| format!("{}: {error}", shown(command)))?;
    if !output.status.success() {
        return Err(format!("{}: {}", shown(command), output.status));
    }
    String::from_utf8(output.stdout).map_err(|error| error.to_string())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
