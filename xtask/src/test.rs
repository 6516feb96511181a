//! `cargo xtask test`: all tests, doctests and examples, on real servers.

use crate::servers::Servers;
use crate::shell::{Done, cargo, output, root, run, run_and_keep};
use std::path::Path;
use std::process::Command;

/// What this task runs with its own eyes on it is run once for each store.
const ONCE_A_STORE: &str = "config_swap";

pub(crate) fn test(packages: &[String]) -> Done {
    let servers = Servers::start()?;
    let environment = servers.environment();
    let tests = |arguments: &[&str]| {
        run_and_keep(cargo(arguments).envs(environment.iter().cloned()), |line| {
            line.starts_with("test result:") || line.starts_with("conformance:") || line.contains("hand-overs/s")
        })
    };
    if !packages.is_empty() {
        let mut arguments = vec!["test", "--all-features"];
        arguments.extend(packages.iter().flat_map(|package| ["-p", package.as_str()]));
        return tests(&arguments).map(drop);
    }
    let mut kept = tests(&["test", "--workspace", "--all-features", "--no-fail-fast"])?;
    // That a scheme's feature is off can only be seen in a build of its own.
    kept.extend(tests(&["test", "-p", "dlocks", "--no-default-features"])?);
    let outside = ["test", "--manifest-path", "examples/outside-backend/Cargo.toml", "--target-dir", "target/outside"];
    kept.extend(tests(&outside)?);

    let run_example = |package: &str, example: &str, url: Option<&str>| {
        let mut command = cargo(&["run", "--quiet", "-p", package, "--all-features", "--example", example]);
        command.envs(environment.iter().cloned());
        if let Some(url) = url {
            command.env("DLOCK_URL", url);
        }
        run(&mut command)
    };
    let mut examples = 0;
    for (package, folder) in packages_with_examples()? {
        for example in examples_in(&folder)? {
            examples += 1;
            if example == ONCE_A_STORE {
                let file = root().join("target/config-swap.db");
                run_example(&package, &example, Some("memory:"))?;
                run_example(&package, &example, Some(&format!("local:{}", file.display())))?;
                for (_, url) in servers.urls() {
                    run_example(&package, &example, Some(&url))?;
                }
            } else {
                run_example(&package, &example, None)?;
            }
        }
    }
    println!("\n{} test targets, {examples} examples:", kept.iter().filter(|line| line.starts_with("test")).count());
    for line in kept.iter().filter(|line| !line.contains(" 0 passed; 0 failed; 0 ignored")) {
        println!("{line}");
    }
    Ok(())
}

/// The packages with a folder of examples: each file there must build and run.
fn packages_with_examples() -> Done<Vec<(String, std::path::PathBuf)>> {
    let names = output(&mut cargo(&["tree", "--workspace", "--depth", "0", "--prefix", "none", "--format", "{p}"]))?;
    let mut found = Vec::new();
    for line in names.lines().filter(|line| !line.trim().is_empty()) {
        let (Some(name), Some(path)) = (line.split(' ').next(), line.split(['(', ')']).nth(1)) else { continue };
        let folder = Path::new(path).join("examples");
        if folder.is_dir() {
            found.push((name.to_owned(), folder));
        }
    }
    Ok(found)
}

/// The examples of a folder, by their files: one that cargo does not know fails when it is run.
fn examples_in(folder: &Path) -> Done<Vec<String>> {
    let files = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let rust = files.flatten().map(|file| file.path()).filter(|path| path.extension().is_some_and(|kind| kind == "rs"));
    let mut names: Vec<_> = rust.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    Ok(names)
}

/// A command that prints the table of stores.
pub(crate) fn store_table() -> Command {
    cargo(&["run", "--quiet", "-p", "dlocks", "--features", "full", "--example", "store_table"])
}
