//! `cargo xtask bench`: dlock beside the raw clients and other projects' locks.

use crate::install::{build_dynamo_server, install, venv};
use crate::shell::{Done, cargo, output, root, run};
use dlock_bench::{NotRun, Report};
use dlock_fixtures::{DynamoServer, EtcdServer, MariaDbServer, PostgresServer, RedisServer, ZooKeeperServer};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The stores that can be measured.
const STORES: &[&str] = &["redis", "etcd", "zookeeper", "dynamodb", "postgres", "mariadb", "local", "memory"];
/// Connections that the databases must allow: peers block one for each task that waits.
const CONNECTIONS: u32 = 400;

/// What `bench` does.
#[derive(Debug, clap::Args)]
pub(crate) struct Bench {
    /// Only these stores
    stores: Vec<String>,
    /// Few and short rounds
    #[arg(long)]
    quick: bool,
    /// Rounds of each contender (7, and 3 if quick)
    #[arg(long)]
    rounds: Option<u32>,
    /// Only contenders whose name has this in it; the floors always
    #[arg(long)]
    only: Option<String>,
    /// Only workloads whose name has this in it
    #[arg(long)]
    workload: Option<String>,
    /// Write the tables and plots into docs/PERFORMANCE.md as well
    #[arg(long, conflicts_with_all = ["only", "workload"])]
    docs: bool,
}

/// A server, for as long as its store is measured.
enum Server {
    Redis(RedisServer),
    Etcd(EtcdServer),
    ZooKeeper(ZooKeeperServer),
    Dynamo(DynamoServer),
    Postgres(PostgresServer),
    MariaDb(MariaDbServer),
    /// A file or nothing.
    None(String),
}

impl Server {
    fn start(store: &str) -> Done<Self> {
        Ok(match store {
            "redis" => Server::Redis(RedisServer::start()),
            "etcd" => Server::Etcd(EtcdServer::start()),
            "zookeeper" => Server::ZooKeeper(ZooKeeperServer::start()),
            "dynamodb" => {
                build_dynamo_server()?;
                Server::Dynamo(DynamoServer::start())
            }
            "postgres" => {
                let mut server = PostgresServer::start();
                server.sql(&format!("ALTER SYSTEM SET max_connections = {CONNECTIONS}"));
                // So that requests can be counted.
                server.sql("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'");
                server.restart();
                Server::Postgres(server)
            }
            "mariadb" => {
                let server = MariaDbServer::start();
                server.sql(&format!("SET GLOBAL max_connections = {CONNECTIONS}"));
                Server::MariaDb(server)
            }
            "local" => Server::None(format!("local:{}", root().join("target/bench/locks.db").display())),
            "memory" => Server::None("memory:".to_owned()),
            _ => return Err(format!("no store {store}; there are {}", STORES.join(", "))),
        })
    }

    fn url(&self) -> String {
        match self {
            Server::Redis(server) => server.url(),
            Server::Etcd(server) => server.url(),
            Server::ZooKeeper(server) => server.url(),
            Server::Dynamo(server) => format!("{}&create=true", server.url()),
            Server::Postgres(server) => format!("{}?create=true", server.url()),
            Server::MariaDb(server) => format!("{}?create=true", server.url()),
            Server::None(url) => url.clone(),
        }
    }
}

pub(crate) fn bench(wanted: &Bench) -> Done {
    install()?;
    let folder = root().join("target/bench");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut build = cargo(&["build", "--release", "--manifest-path", "bench/compare/Cargo.toml"]);
    run(build.args(["--target-dir", "target/bench"]))?;
    let all = || STORES.iter().map(|store| (*store).to_owned()).collect();
    let stores = if wanted.stores.is_empty() { all() } else { wanted.stores.clone() };
    let peers = peers(&folder.join("peers"), &stores)?;
    let mut report = Report { notes: circumstances(wanted), ..Report::default() };
    for store in &stores {
        let server = Server::start(store)?;
        let json = folder.join(format!("{store}.json"));
        let mut compare = Command::new(folder.join("release/dlock-bench-compare"));
        compare.args(["compare", store, &server.url()]).arg("--json").arg(&json).arg("--peers").arg(&peers);
        if wanted.quick {
            compare.arg("--quick");
        }
        if let Some(rounds) = wanted.rounds {
            compare.arg("--rounds").arg(rounds.to_string());
        }
        for (name, value) in [("--only", &wanted.only), ("--workload", &wanted.workload)] {
            compare.args(value.iter().flat_map(|value| [name, value.as_str()]));
        }
        match run(&mut compare) {
            Ok(()) => report.extend(read(&json)?),
            // The others' figures are still worth having.
            Err(why) => report.not_run.push(NotRun { store: store.clone(), what: "all of it".to_owned(), why }),
        }
    }
    tell(&report, &folder, wanted.docs)
}

fn read(path: &Path) -> Done<Report> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// The report as tables, JSON and plots.
fn tell(report: &Report, folder: &Path, docs: bool) -> Done {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    };
    let markdown = dlock_bench::markdown(report);
    write("report.md", &markdown)?;
    write("report.json", &serde_json::to_string_pretty(report).map_err(|error| error.to_string())?)?;
    let plots = dlock_bench::plots::write(report, &folder.join("plots")).map_err(|error| error.to_string())?;
    println!("{markdown}\nthe report and {} plots are in {}", plots.len(), folder.display());
    if docs {
        return into_docs(report, &markdown);
    }
    Ok(())
}

/// The tables go between two marks of docs/PERFORMANCE.md, each store's below its plots.
fn into_docs(report: &Report, tables: &str) -> Done {
    const MARKS: (&str, &str) = ("<!-- tables: begin -->", "<!-- tables: end -->");
    let path = root().join("docs/PERFORMANCE.md");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let parts = text.split_once(MARKS.0).and_then(|(head, rest)| Some((head, rest.split_once(MARKS.1)?.1)));
    let (head, tail) = parts.ok_or_else(|| format!("{} has no marks {MARKS:?}", path.display()))?;
    let folder = root().join("docs/plots");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let plots = dlock_bench::plots::write(report, &folder).map_err(|error| error.to_string())?;
    // Stores stand below the heading that is there.
    let mut tables = tables.replace("\n## ", "\n### ");
    for store in report.stores() {
        let names = plots.iter().filter_map(|path| path.file_name()?.to_str());
        let images: String = names
            .filter_map(|name| Some((name, name.strip_prefix(store)?.strip_prefix('-')?.strip_suffix(".svg")?)))
            .map(|(name, what)| format!("![{store}: {what}](plots/{name})\n"))
            .collect();
        tables = tables.replace(&format!("\n### {store}\n"), &format!("\n### {store}\n\n{images}"));
    }
    let text = format!("{head}{}\n\n{}\n\n{}{tail}", MARKS.0, tables.trim(), MARKS.1);
    std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn circumstances(wanted: &Bench) -> Vec<String> {
    let first = |program: &str, arguments: &[&str]| {
        let text = output(Command::new(program).args(arguments)).unwrap_or_default();
        text.lines().next().unwrap_or("unknown").trim().to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let (rounds, length) = if wanted.quick { (3, "0.3 s") } else { (7, "0.8 s") };
    let length = format!("{} rounds of {length}", wanted.rounds.unwrap_or(rounds));
    vec![
        format!("{cores} cores, servers and clients on one machine over loopback; {length} each, all contenders in turn"),
        format!("{}; {}", first("rustc", &["--version"]), first("redis-server", &["--version"])),
        format!("{}; {}", first("psql", &["--version"]), first("mariadbd", &["--version"])),
        "durability: redis without persistence, PostgreSQL with fsync=off, MariaDB with flush at commit 2; the same for all"
            .to_owned(),
    ]
}

/// How the program of a peer is started, or why it can't be.
type Program = Done<Vec<String>>;

/// Makes the programs of other languages that these stores need, and the list of them.
fn peers(folder: &Path, stores: &[String]) -> Done<PathBuf> {
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let sources = root().join("bench/compare/peers");
    let text = |path: PathBuf| path.display().to_string();
    let wanted = |of: &[&str], make: &dyn Fn() -> Program| match stores.iter().any(|store| of.contains(&store.as_str()))
    {
        true => make(),
        false => Err("its store is not measured".to_owned()),
    };
    let python = wanted(&["redis", "zookeeper"], &|| {
        let python = venv(&folder.join("python"), &sources.join("python/requirements.txt"))?;
        Ok(vec![python, text(sources.join("python/peer.py"))])
    });
    let go = wanted(&["redis", "etcd"], &|| {
        let program = text(folder.join("go-peer"));
        run(Command::new("go").args(["build", "-o", &program, "."]).current_dir(sources.join("go")))?;
        Ok(vec![program])
    });
    let java = wanted(&["redis", "zookeeper"], &|| {
        let mut make = Command::new("mvn");
        make.args(["-q", "-B", "-f"]).arg(sources.join("java/pom.xml")).arg("package");
        run(make.arg(format!("-Dout={}", folder.display())))?;
        Ok(["java", "-jar", &text(folder.join("java-peer.jar"))].map(String::from).to_vec())
    });
    let rust = wanted(&["postgres"], &|| {
        let target = folder.join("distributed-lock");
        let manifest = text(sources.join("distributed-lock/Cargo.toml"));
        run(cargo(&["build", "--release", "--manifest-path", &manifest]).arg("--target-dir").arg(&target))?;
        Ok(vec![text(target.join("release/distributed-lock-peer"))])
    });
    let peer = |title: &str, program: &Program, name: Option<&str>, note: &str| match program {
        Ok(command) => {
            let command: Vec<_> = command.iter().map(String::as_str).chain(name).collect();
            json!({ "name": title, "command": command, "note": note })
        }
        Err(why) => json!({ "name": title, "why": why }),
    };
    let list = json!({
        "redis": [
            peer("redis-py", &python, Some("redis-py"), "Python threads; looks again every 100 ms (its default)"),
            peer("python-redis-lock", &python, Some("python-redis-lock"), "Python threads; waits by BLPOP"),
            peer("redsync (Go)", &go, Some("redsync"), "looks again after 50 to 250 ms (its default); no queue or renewal"),
            peer("Redisson (Java)", &java, Some("redisson"), "RLock, threads; waits by a message, renews; no fencing token"),
        ],
        "etcd": [peer("concurrency.Mutex (Go)", &go, Some("etcd"), "a session for each that holds or waits")],
        "zookeeper": [
            peer("kazoo", &python, Some("kazoo"), "Python threads on one session"),
            peer("Curator (Java)", &java, Some("curator"), "threads on one session"),
        ],
        "postgres": [peer(
            "distributed-lock",
            &rust,
            None,
            "a process of its own, since its SQLite does not go with ours; advisory locks; no TTL, no token",
        )],
    });
    let path = folder.join("peers.json");
    std::fs::write(&path, list.to_string()).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(folder.to_owned())
}
