//! [`Arg`]: what PostgreSQL is given with a statement, bound or written into its text.
//!
//! A named statement lives in one server's session. Behind a transaction pooler each request may reach another session, in
//! which that name stands for another's statement, or for none. There, the arguments are written into the text, and each
//! request is one simple query.

use crate::lent::on;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, PgPool, Postgres};

/// One argument, `$1` being the first.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arg<'a> {
    Text(&'a str),
    Int(Option<i64>),
    Texts(&'a [&'a str]),
}

impl Arg<'_> {
    /// As SQL, safe whatever it contains and whatever `standard_conforming_strings` says.
    fn literal(self) -> String {
        match self {
            Arg::Text(text) => format!("{}::text", quoted(text)),
            Arg::Int(Some(number)) => format!("({number})::bigint"),
            Arg::Int(None) => "NULL::bigint".to_owned(),
            Arg::Texts(texts) => {
                let texts: Vec<_> = texts.iter().copied().map(quoted).collect();
                format!("ARRAY[{}]::text[]", texts.join(", "))
            }
        }
    }
}

/// An escape string, in which only the quote and the backslash mean something; the connection speaks UTF-8.
fn quoted(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// The statement with its arguments in the place of `$1` to `$9`. What an argument contains is not looked at again.
pub(crate) fn in_text(statement: &str, args: &[Arg<'_>]) -> String {
    let mut parts = statement.split('$');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let place = part.bytes().next().map_or(0, |digit| usize::from(digit.wrapping_sub(b'1')));
        match args.get(place) {
            Some(arg) => {
                text.push_str(&arg.literal());
                text.push_str(&part[1..]);
            }
            None => {
                text.push('$');
                text.push_str(part);
            }
        }
    }
    text
}

fn bound<'a>(statement: &str, args: &[Arg<'a>]) -> Query<'a, Postgres, PgArguments> {
    args.iter().fold(sqlx::query(AssertSqlSafe(statement.to_owned())), |query, arg| match *arg {
        Arg::Text(text) => query.bind(text),
        Arg::Int(number) => query.bind(number),
        Arg::Texts(texts) => query.bind(texts),
    })
}

/// Runs one statement, and answers its rows.
pub(crate) async fn rows(
    pool: &PgPool,
    pooled: bool,
    statement: &str,
    args: &[Arg<'_>],
) -> Result<Vec<PgRow>, sqlx::Error> {
    if pooled {
        let query = sqlx::raw_sql(AssertSqlSafe(in_text(statement, args)));
        on!(pool, query.fetch_all).await
    } else {
        let query = bound(statement, args);
        on!(pool, query.fetch_all).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_stand_in_the_text_and_can_not_end_their_quotes() {
        let sql = in_text(
            "SELECT $1, $2, $3, $4",
            &[Arg::Text(r"a'b\'c $2"), Arg::Int(Some(i64::MIN)), Arg::Int(None), Arg::Texts(&["x", "y'"])],
        );
        let expected =
            r"SELECT E'a''b\\''c $2'::text, (-9223372036854775808)::bigint, NULL::bigint, ARRAY[E'x', E'y''']::text[]";
        assert_eq!(sql, expected);
    }
}
