//! What the tests need beside Rust.

use crate::shell::{Done, cargo, root, run};
use std::path::Path;
use std::process::{Command, Stdio};

/// A program and the Debian package that has it.
const PROGRAMS: &[(&str, &[&str], &str)] = &[
    ("redis-server", &["--version"], "redis-server"),
    ("redis-cli", &["--version"], "redis-tools"),
    // Debian keeps PostgreSQL's programs out of the path.
    ("sh", &["-c", "ls /usr/lib/postgresql/*/bin/initdb"], "postgresql"),
    ("mariadbd", &["--version"], "mariadb-server"),
    ("etcd", &["--version"], "etcd-server"),
    ("etcdctl", &["version"], "etcd-client"),
    ("protoc", &["--version"], "protobuf-compiler"),
    ("sh", &["-c", "test -e /usr/include/google/protobuf/descriptor.proto"], "libprotobuf-dev"),
    ("sh", &["-c", "test -e /usr/share/java/zookeeper.jar"], "zookeeper"),
    ("java", &["-version"], "default-jre-headless"),
    ("pgbouncer", &["--version"], "pgbouncer"),
    ("faketime", &["--version"], "faketime"),
    ("openssl", &["version"], "openssl"),
    ("python3", &["-c", "import venv, ensurepip"], "python3-venv"),
    ("setsid", &["--version"], "util-linux"),
    ("go", &["version"], "golang-go"),
];

/// Installs what is missing, or says how.
pub(crate) fn install() -> Done {
    let is_there = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let missing: Vec<_> = PROGRAMS
        .iter()
        .filter(|(program, arguments, _)| !is_there(program, arguments))
        .map(|(_, _, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("install what is missing: apt-get install -y {}", missing.join(" "));
    let apt = |arguments: &[&str]| {
        let is_root = rustix::process::getuid().is_root();
        let mut command = if is_root { Command::new("apt-get") } else { Command::new("sudo") };
        if !is_root {
            command.args(["-n", "apt-get"]);
        }
        run(command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive"))
    };
    if !is_there("apt-get", &["--version"]) {
        return Err(by_hand);
    }
    let packages: Vec<_> = ["install", "-y", "--no-install-recommends"].iter().chain(&missing).copied().collect();
    apt(&["update"]).and_then(|()| apt(&packages)).map_err(|why| format!("{why}; {by_hand}"))
}

/// The Python with the clients of other projects, made if it is missing.
pub(crate) fn python() -> Done<String> {
    let folder = root().join("target/python");
    let python = folder.join("bin/python");
    let has_clients = |python: &Path| {
        let mut command = Command::new(python);
        command.args(["-c", "import redis, kazoo"]).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !has_clients(&python) {
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "redis==6.4.0", "kazoo==2.10.0"]))?;
    }
    Ok(python.display().to_string())
}

/// A Python with the packages of a file, made if it is missing.
pub(crate) fn venv(folder: &Path, requirements: &Path) -> Done<String> {
    let python = folder.join("bin/python").display().to_string();
    if !folder.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
    }
    // Fast where all is there.
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(requirements))?;
    Ok(python)
}

/// All programs and examples, in one build with the same features as the tests: what one of them needs by itself would be built
/// anew for it.
pub(crate) fn build_programs() -> Done {
    run(&mut cargo(&["build", "--quiet", "--workspace", "--all-features", "--bins", "--examples"]))
}

/// One of the [programs](build_programs).
pub(crate) fn program(name: &str) -> Command {
    let mut command = Command::new(root().join("target/debug").join(name));
    command.current_dir(root());
    command
}

/// One of the [examples](build_programs).
pub(crate) fn example(name: &str) -> Command {
    program(&format!("examples/{name}"))
}

/// The DynamoDB-compatible server, a program of its own: its SQLite and ours can't be linked together.
pub(crate) fn build_dynamo_server() -> Done {
    let (manifest, target) = ("fixtures/dynamo-server/Cargo.toml", "target/dynamo-server");
    run(&mut cargo(&["build", "--quiet", "--manifest-path", manifest, "--target-dir", target]))
}

/// An etcd server newer than a distribution's: before 3.4.31 and 3.5.13, a leader that stood still for a while ends leases that
/// its successor has prolonged (etcd-io/etcd#15247).
pub(crate) fn build_etcd_server() -> Done<String> {
    let program = root().join("target/etcd-server/etcd");
    let mut build = Command::new("go");
    run(build.args(["build", "-o"]).arg(&program).arg(".").current_dir(root().join("fixtures/etcd-server")))?;
    Ok(program.display().to_string())
}
