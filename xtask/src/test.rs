//! `cargo xtask test`: all tests, doctests and examples, on real servers.

use crate::install::{build_programs, example};
use crate::servers::Servers;
use crate::shell::{Done, cargo, output, root, run, run_and_keep};
use std::path::Path;

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

    build_programs()?;
    let run_example = |name: &str, url: Option<&str>| {
        let mut command = example(name);
        command.envs(environment.iter().cloned());
        if let Some(url) = url {
            command.env("DLOCK_URL", url);
        }
        run(&mut command)
    };
    let examples = examples()?;
    for name in &examples {
        if name == ONCE_A_STORE {
            let file = root().join("target/config-swap.db");
            run_example(name, Some("memory:"))?;
            run_example(name, Some(&format!("local:{}", file.display())))?;
            for (_, url) in servers.urls() {
                run_example(name, Some(&url))?;
            }
        } else {
            run_example(name, None)?;
        }
    }
    println!(
        "\n{} test targets, {} examples:",
        kept.iter().filter(|line| line.starts_with("test")).count(),
        examples.len()
    );
    for line in kept.iter().filter(|line| !line.contains(" 0 passed; 0 failed; 0 ignored")) {
        println!("{line}");
    }
    Ok(())
}

/// The examples of all packages, by their files: one that cargo does not know fails when it is run.
fn examples() -> Done<Vec<String>> {
    let packages = output(&mut cargo(&["tree", "--workspace", "--depth", "0", "--prefix", "none", "--format", "{p}"]))?;
    let folders =
        packages.lines().filter_map(|line| line.split(['(', ')']).nth(1)).map(|path| Path::new(path).join("examples"));
    let mut names = Vec::new();
    for folder in folders.filter(|folder| folder.is_dir()) {
        let files = std::fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let rust =
            files.flatten().map(|file| file.path()).filter(|path| path.extension().is_some_and(|kind| kind == "rs"));
        names.extend(rust.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())));
    }
    names.sort();
    Ok(names)
}
