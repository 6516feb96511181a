//! `cargo xtask verify`: all that can be said without running a test.

use crate::install::install;
use crate::readme::readme;
use crate::shell::{Done, cargo, output, run};

/// The backends' features, and the drivers that each alone may pull in.
const DRIVERS: &[(&str, &str)] = &[
    ("local", "rusqlite"),
    ("redis", "redis"),
    ("etcd", "etcd-client"),
    ("zk", "zookeeper-client"),
    ("dynamo", "aws-sdk-dynamodb"),
    ("sql", "sqlx"),
];

pub(crate) fn verify() -> Done {
    // etcd's client is generated when it is built.
    install()?;
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    let clippy = |arguments: &[&str]| {
        let deny = ["--", "-D", "warnings"];
        run(&mut cargo(&[["clippy", "--quiet"].as_slice(), arguments, &deny].concat()))
    };
    clippy(&["--workspace", "--all-targets", "--all-features"])?;
    for package in ["dlocks", "dlock-cli"] {
        clippy(&["-p", package, "--no-default-features"])?;
        for (feature, _) in DRIVERS {
            clippy(&["-p", package, "--no-default-features", "--features", feature])?;
        }
    }
    clippy(&["-p", "dlocks", "--no-default-features", "--features", "metrics"])?;
    run(cargo(&["doc", "--quiet", "--workspace", "--no-deps", "--all-features"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    drivers_stay_apart()?;
    if output(&mut cargo(&["deny", "--version"])).is_ok() {
        run(&mut cargo(&["deny", "--all-features", "check", "advisories", "bans", "licenses", "sources"]))?;
    } else {
        println!("cargo-deny is not installed: licences and advisories were not looked at");
    }
    readme(true)
}

/// No feature pulls in another's driver, and core has none.
fn drivers_stay_apart() -> Done {
    for feature in DRIVERS.iter().map(|(feature, _)| *feature).chain([""]) {
        let tree = output(&mut cargo(&[
            "tree",
            "-p",
            "dlocks",
            "--no-default-features",
            "--features",
            feature,
            "-e",
            "normal",
            "--prefix",
            "none",
        ]))?;
        for (owner, driver) in DRIVERS {
            let has_it = tree.lines().any(|line| line.split(' ').next() == Some(*driver));
            if has_it != (feature == *owner) {
                return Err(format!("with the feature {feature:?} alone, the driver {driver} is there: {has_it}"));
            }
        }
    }
    Ok(())
}
