//! `dlock init`, and what is said where it was not run.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Place, stderr};

#[test]
fn a_store_that_needs_nothing_says_so() {
    let output = Place::local().output(&["init"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "local needs nothing to be made; it is ready\n");
}

#[test]
fn a_store_that_is_not_there_is_not_ready() {
    let url = format!("redis://127.0.0.1:{}", dlock_fixtures::free_port());
    let output = Place { url, ..Place::local() }.output(&["init"]);
    assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
}

#[cfg(feature = "dynamo")]
#[test]
fn a_missing_table_of_dynamodb_is_made() {
    let place = Place::dynamo();
    let url = place.url.replace("&create=true", "");
    let before = Place { url, ..Place::local() };
    assert_eq!(before.output(&["run", "k", "--", "true"]).status.code(), Some(78));
    for word in ["made the table", "found the table"] {
        let output = before.output(&["init"]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(String::from_utf8_lossy(&output.stdout).contains(word));
    }
    assert_eq!(before.output(&["run", "k", "--", "true"]).status.code(), Some(0));
}

#[cfg(feature = "sql")]
#[test]
fn a_database_without_a_table_says_what_to_run_and_init_makes_it() {
    use dlock_fixtures::{MariaDbServer, PostgresServer};
    let (postgres, maria) = (PostgresServer::start(), MariaDbServer::start());
    for url in [postgres.url(), maria.url()] {
        let place = Place { url, ..Place::local() };
        let before = place.output(&["run", "k", "--", "true"]);
        assert_eq!(before.status.code(), Some(78), "{}", stderr(&before));
        assert!(stderr(&before).contains("`dlock init`") && stderr(&before).contains("CREATE TABLE"));
        for word in ["made the table dlock_locks", "is up to date"] {
            let made = place.output(&["init"]);
            assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
            let said = String::from_utf8(made.stdout).unwrap();
            assert!(said.contains(word), "{said}");
        }
        assert_eq!(place.output(&["run", "k", "--", "true"]).status.code(), Some(0));
        let wrong = Place { url: place.url.replace("/test", "/no_such_database"), ..Place::local() };
        let refused = wrong.output(&["init"]);
        assert_eq!(refused.status.code(), Some(78), "{}", stderr(&refused));
        assert!(stderr(&refused).contains("no such database"), "{}", stderr(&refused));
    }
    // One that may use tables and not make them is shown what to ask for.
    postgres.sql(
        "CREATE ROLE worker LOGIN; REVOKE ALL ON SCHEMA public FROM public; GRANT USAGE ON SCHEMA public TO worker",
    );
    let url = postgres.url().replace("postgres@", "worker@") + "?table=other_locks";
    let refused = Place { url, ..Place::local() }.output(&["init"]);
    assert_eq!(refused.status.code(), Some(78), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("CREATE TABLE IF NOT EXISTS other_locks"), "{}", stderr(&refused));
}
