//! `cargo xtask fuzz`: random input to everything that reads what others wrote.

use crate::shell::{Done, cargo, root, run};
use clap::Args;
use std::path::PathBuf;
use std::process::Command;

/// What is to be fuzzed.
#[derive(Debug, Args)]
pub(crate) struct Fuzz {
    /// Which targets; all if none is named
    targets: Vec<String>,
    /// For how many seconds each
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// What an input is at the most, in bytes.
const LONGEST: u32 = 512;

/// Runs each target, from its seeds and from what earlier runs found worth keeping.
pub(crate) fn fuzz(orders: &Fuzz) -> Done {
    let known = targets()?;
    let wanted = if orders.targets.is_empty() { &known } else { &orders.targets };
    if let Some(unknown) = wanted.iter().find(|target| !known.contains(target)) {
        return Err(format!("no target {unknown:?}; there are {}", known.join(", ")));
    }
    let program = cargo_fuzz()?;
    for target in wanted {
        let corpus = root().join("target/fuzz-corpus").join(target);
        std::fs::create_dir_all(&corpus).map_err(|error| format!("{}: {error}", corpus.display()))?;
        // The instrumentation is an unstable flag of the compiler.
        let mut command = Command::new(&program);
        command.current_dir(root()).env("RUSTC_BOOTSTRAP", "1").env("CARGO_TARGET_DIR", root().join("target/fuzz"));
        command.args(["fuzz", "run", "--fuzz-dir", "fuzz", target]).arg(corpus).arg(format!("fuzz/seeds/{target}"));
        command.args(["--", "-print_final_stats=1"]);
        command.args([format!("-max_total_time={}", orders.seconds), format!("-max_len={LONGEST}")]);
        run(&mut command)?;
    }
    Ok(())
}

fn targets() -> Done<Vec<String>> {
    let folder = root().join("fuzz/fuzz_targets");
    let files = std::fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut names: Vec<_> =
        files.flatten().filter_map(|file| Some(file.path().file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    Ok(names)
}

/// The program `cargo-fuzz`, installed beside what is built if it is missing.
fn cargo_fuzz() -> Done<PathBuf> {
    let tools = root().join("target/tools");
    let program = tools.join("bin/cargo-fuzz");
    if !program.exists() {
        run(cargo(&["install", "--locked", "cargo-fuzz", "--root"]).arg(tools))?;
    }
    Ok(program)
}
