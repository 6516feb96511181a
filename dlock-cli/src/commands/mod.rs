//! One file a subcommand.

mod bench;
mod break_lock;
mod check;
mod init;
mod ls;
#[cfg(unix)]
mod run;
mod show;

use crate::cli::{Cli, Command};
use crate::exit::{Failure, USAGE};
use crate::text;
use clap::CommandFactory;
use std::process::ExitCode;

pub(crate) async fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let store = cli.store;
    match cli.command {
        #[cfg(unix)]
        Command::Run(args) => run::run(&store, args).await,
        #[cfg(not(unix))]
        Command::Run(_) => Err(Failure::new(USAGE, "`dlock run` needs process groups, which this system has not")),
        Command::Ls { begin, json } => ls::ls(&store, &begin, json).await,
        Command::Show { key, json, quiet } => show::show(&store, &key, json, quiet).await,
        Command::Break { key, holder, token } => break_lock::break_lock(&store, &key, holder, token).await,
        Command::Init | Command::Check { .. } if store.prefix.is_some() => {
            Err(Failure::new(USAGE, "--prefix is about keys, and this command is about the whole store; leave it out"))
        }
        Command::Init => init::init(&store).await,
        Command::Check { filter, json } => check::check(&store, filter, json).await,
        Command::Bench { quick, json } => bench::bench(&store, quick, json).await,
        Command::Completions { shell } => {
            let mut completions = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "dlock", &mut completions);
            text::print(&String::from_utf8_lossy(&completions))?;
            Ok(ExitCode::SUCCESS)
        }
        // Taken before there is a runtime.
        #[cfg(unix)]
        Command::Warden(_) => Ok(ExitCode::SUCCESS),
    }
}
