//! `cargo xtask readme`: the README's table of stores, from what the backends declare.

use crate::install::{build_programs, example};
use crate::shell::{Done, output, root};

const BEGIN: &str = "<!-- stores:begin -->\n";
const END: &str = "<!-- stores:end -->";

pub(crate) fn readme(check: bool) -> Done {
    let path = root().join("README.md");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("README.md: {error}"))?;
    let marks = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?)));
    let Some((before, (table, after))) = marks else {
        return Err(format!("README.md has no place for the table: {BEGIN:?} and {END:?}"));
    };
    build_programs()?;
    let fresh = output(&mut example("store_table"))?;
    if table == fresh {
        return Ok(());
    }
    if check {
        return Err("the README's table of stores is old: run `cargo xtask readme`".to_owned());
    }
    std::fs::write(&path, format!("{before}{BEGIN}{fresh}{END}{after}")).map_err(|error| format!("README.md: {error}"))
}
