//! `dlock`: run a command under a distributed lock, and see who holds what.

mod cli;
mod commands;
#[cfg(unix)]
mod events;
mod exit;
#[cfg(unix)]
mod signals;
mod store;
mod text;
#[cfg(unix)]
mod warden;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing better can be done where even this can't be written.
            let _ = error.print();
            return if error.use_stderr() { exit::USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    #[cfg(unix)]
    if let cli::Command::Warden(warden) = &cli.command {
        return warden::guard(warden);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::tell(exit::Failure::new(exit::SOFTWARE, format!("no runtime: {error}"))),
    };
    let done = runtime.block_on(commands::run(cli));
    // What blocks still, such as a look for a host's address, is not waited for.
    runtime.shutdown_background();
    done.unwrap_or_else(exit::tell)
}
