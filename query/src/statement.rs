//! From text to statements, of which every clause is heeded or refused.
//!
//! The planner passes over clauses that it does not know what to do with. So what it would pass over is refused here, and
//! versions of tables are taken off by [`crate::time_travel`].

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::{
    ast::{Expr, Query, Select, SetExpr, Spanned, Statement, TableFactor, Visit, Visitor},
    keywords::Keyword,
    parser::{Parser, ParserError},
    tokenizer::{Location, Token, TokenWithSpan, Tokenizer, TokenizerError, Word},
};

use crate::{
    dialect::Kimberlite,
    error::{Place, QueryError},
    limits::{NESTING_MAX, NODES_MAX, SQL_BYTES_MAX, STATEMENTS_MAX},
    writes::write_of,
};

/// The function that stands for `POSITION n` in a version of a table.
pub(crate) const AT_POSITION: &str = "$position";

/// Parses a request's SQL: one statement at least, each with its text.
pub(crate) fn parse(sql: &str) -> Result<Vec<(String, Statement)>, QueryError> {
    if sql.len() > SQL_BYTES_MAX {
        let what = format!("the SQL has more than {SQL_BYTES_MAX} bytes");
        return Err(QueryError::Limit { limit: "sql_bytes", what });
    }
    let tokens = Tokenizer::new(&Kimberlite, sql).tokenize_with_location();
    let tokens = tokens.map_err(|TokenizerError { message, location }| QueryError::Syntax {
        what: message,
        place: place(location),
    })?;
    let meant = tokens.iter().filter(|t| !matches!(t.token, Token::Whitespace(_))).count();
    if meant > NODES_MAX {
        let what = format!("the SQL has more than {NODES_MAX} words and signs");
        return Err(QueryError::Limit { limit: "sql_tokens", what });
    }
    let texts = texts(sql, &tokens);
    let tokens = versions_as_standard(&tokens)?;
    let mut parser = Parser::new(&Kimberlite)
        .with_recursion_limit(NESTING_MAX)
        .with_tokens_with_locations(tokens);
    let parsed = parser.parse_statements();
    let statements = parsed.map_err(|error| match error {
        ParserError::RecursionLimitExceeded => {
            let what = format!("the SQL is nested more than {NESTING_MAX} levels deep");
            QueryError::Limit { limit: "sql_nesting", what }
        }
        ParserError::ParserError(what) | ParserError::TokenizerError(what) => {
            let (what, place) = apart(what);
            QueryError::Syntax { what, place }
        }
    })?;
    if statements.is_empty() {
        let what = "there is no statement".to_owned();
        return Err(QueryError::Syntax { what, place: None });
    }
    if statements.len() > STATEMENTS_MAX {
        let what = format!("there are more than {STATEMENTS_MAX} statements");
        return Err(QueryError::Limit { limit: "sql_statements", what });
    }
    for statement in &statements {
        check(statement)?;
    }
    assert_eq!(texts.len(), statements.len(), "a `;` stands between statements and nowhere else");
    Ok(texts.into_iter().zip(statements).collect())
}

/// The text of each statement.
fn texts(sql: &str, tokens: &[TokenWithSpan]) -> Vec<String> {
    let mut lines: Vec<usize> = vec![0];
    lines.extend(sql.match_indices('\n').map(|(at, _)| at + 1));
    let byte = |at: Location| {
        let line = lines.get((at.line as usize).saturating_sub(1)).copied().unwrap_or(sql.len());
        let behind = (at.column as usize).saturating_sub(1);
        sql[line..].char_indices().nth(behind).map_or(sql.len(), |(i, _)| line + i)
    };
    let mut texts = Vec::new();
    let mut begun: Option<usize> = None;
    for token in tokens {
        match token.token {
            Token::Whitespace(_) => {}
            Token::SemiColon | Token::EOF => {
                let end = byte(token.span.start);
                texts.extend(begun.take().map(|from| sql[from..end].trim_end().to_owned()));
            }
            _ => {
                begun.get_or_insert_with(|| byte(token.span.start));
            }
        }
    }
    texts.extend(begun.map(|from| sql[from..].trim_end().to_owned()));
    texts
}

/// The parser says where in its text; here that is a field.
fn apart(mut what: String) -> (String, Option<Place>) {
    const LINE: &str = " at Line: ";
    let Some(at) = what.rfind(LINE) else { return (what, None) };
    let numbers = what[at + LINE.len()..].split_once(", Column: ");
    let place = numbers.and_then(|(line, column)| {
        Some(Place { line: line.parse().ok()?, column: column.parse().ok()? })
    });
    what.truncate(at);
    (what, place)
}

pub(crate) fn place(at: Location) -> Option<Place> {
    (at.line > 0).then_some(Place { line: at.line, column: at.column })
}

/// `AS OF POSITION n` and `AS OF TIMESTAMP …` behind a table's name, as the parser knows versions of tables:
/// `FOR SYSTEM_TIME AS OF …`. No other SQL has these words in a row.
fn versions_as_standard(tokens: &[TokenWithSpan]) -> Result<Vec<TokenWithSpan>, QueryError> {
    let words: Vec<usize> =
        (0..tokens.len()).filter(|i| !matches!(tokens[*i].token, Token::Whitespace(_))).collect();
    let is = |at: usize, text: &str| {
        words.get(at).is_some_and(|i| match &tokens[*i].token {
            Token::Word(w) => w.quote_style.is_none() && w.value.eq_ignore_ascii_case(text),
            _ => false,
        })
    };
    let mut out = Vec::with_capacity(tokens.len() + 8);
    let mut at = 0;
    while let Some(i) = words.get(at) {
        let span = tokens[*i].span;
        let spanned = |token| TokenWithSpan::new(token, span);
        let of = is(at, "AS") && is(at + 1, "OF");
        let standard = at >= 1 && is(at - 1, "SYSTEM_TIME");
        if of && is(at + 2, "POSITION") {
            let number = words.get(at + 3).map(|i| &tokens[*i]);
            let Some(number) =
                number.filter(|t| matches!(t.token, Token::Number(..) | Token::Placeholder(_)))
            else {
                let what = "AS OF POSITION takes a number or a parameter".to_owned();
                let at = number.map_or(span.start, |t| t.span.start);
                return Err(QueryError::Syntax { what, place: place(at) });
            };
            if !standard {
                out.extend(["FOR", "SYSTEM_TIME"].map(|w| spanned(Token::make_keyword(w))));
            }
            out.extend(["AS", "OF"].map(|w| spanned(Token::make_keyword(w))));
            let function = Word {
                value: AT_POSITION.to_owned(),
                quote_style: Some('"'),
                keyword: Keyword::NoKeyword,
            };
            out.push(spanned(Token::Word(function)));
            out.push(spanned(Token::LParen));
            out.push(number.clone());
            out.push(spanned(Token::RParen));
            at += 4;
            continue;
        }
        if of && is(at + 2, "TIMESTAMP") && !standard {
            out.extend(["FOR", "SYSTEM_TIME"].map(|w| spanned(Token::make_keyword(w))));
        }
        out.push(tokens[*i].clone());
        at += 1;
    }
    Ok(out)
}

fn check(statement: &Statement) -> Result<(), QueryError> {
    let known = match statement {
        Statement::Query(_) => true,
        Statement::Explain { statement, .. } => matches!(**statement, Statement::Query(_)),
        other => write_of(other)?.is_some(),
    };
    if !known {
        let what = "SELECT, VALUES, TABLE, EXPLAIN of them, INSERT, UPDATE, DELETE, CREATE TABLE and DROP TABLE are \
                    the statements here"
            .to_owned();
        return Err(QueryError::Unsupported { what, place: place(statement.span().start) });
    }
    if let Statement::Explain { options, format, query_plan, estimate, .. } = statement
        && (options.is_some() || format.is_some() || *query_plan || *estimate)
    {
        let what = "EXPLAIN takes ANALYZE and VERBOSE, no other options".to_owned();
        return Err(QueryError::Unsupported { what, place: place(statement.span().start) });
    }
    match statement.visit(&mut Check) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

/// Refuses what the planner would pass over.
struct Check;

fn refuse<T>(at: Location, what: &str) -> ControlFlow<Box<QueryError>, T> {
    let what = what.to_owned();
    ControlFlow::Break(Box::new(QueryError::Unsupported { what, place: place(at) }))
}

impl Visitor for Check {
    type Break = Box<QueryError>;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
        let at = query.span().start;
        if !query.locks.is_empty() {
            return refuse(at, "FOR UPDATE and FOR SHARE lock nothing here");
        }
        if query.for_clause.is_some() {
            return refuse(at, "FOR XML, FOR JSON and FOR BROWSE are not supported");
        }
        if query.settings.is_some() || query.format_clause.is_some() {
            return refuse(at, "SETTINGS and FORMAT are not supported");
        }
        if !query.pipe_operators.is_empty() {
            return refuse(at, "pipe operators are not supported");
        }
        if query.fetch.is_some() {
            return refuse(at, "FETCH is not supported; LIMIT is");
        }
        match &*query.body {
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                refuse(at, "a statement that changes rows cannot stand inside a query")
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Self::Break> {
        let at = select.select_token.0.span.start;
        let passed_over = select.top.is_some()
            || select.exclude.is_some()
            || select.select_modifiers.is_some()
            || !select.optimizer_hints.is_empty()
            || !select.lateral_views.is_empty()
            || select.prewhere.is_some()
            || !select.connect_by.is_empty()
            || !select.cluster_by.is_empty()
            || !select.distribute_by.is_empty()
            || !select.sort_by.is_empty()
            || select.value_table_mode.is_some();
        if select.into.is_some() {
            return refuse(at, "SELECT INTO is not supported");
        }
        if passed_over {
            return refuse(at, "a clause of another SQL dialect is not supported");
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Self::Break> {
        let at = factor.span().start;
        match factor {
            TableFactor::Table {
                with_hints,
                with_ordinality,
                partitions,
                json_path,
                sample,
                index_hints,
                alias,
                ..
            } => {
                if sample.is_some() {
                    return refuse(at, "TABLESAMPLE is not supported");
                }
                if *with_ordinality {
                    return refuse(at, "WITH ORDINALITY is not supported");
                }
                if alias.as_ref().is_some_and(|a| a.at.is_some()) {
                    return refuse(at, "AT behind a table is not supported");
                }
                let passed_over = !with_hints.is_empty()
                    || !partitions.is_empty()
                    || json_path.is_some()
                    || !index_hints.is_empty();
                if passed_over {
                    return refuse(at, "hints, partitions and paths of tables are not supported");
                }
            }
            TableFactor::Derived { sample, .. } if sample.is_some() => {
                return refuse(at, "TABLESAMPLE is not supported");
            }
            TableFactor::Derived { .. }
            | TableFactor::TableFunction { .. }
            | TableFactor::Function { with_ordinality: false, .. }
            | TableFactor::UNNEST { with_offset: false, with_ordinality: false, .. }
            | TableFactor::NestedJoin { .. } => {}
            _ => return refuse(at, "this kind of table is not supported"),
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Self::Break> {
        match expr {
            Expr::Collate { .. } => refuse(expr.span().start, "COLLATE is not supported"),
            // The engine takes its pattern for one of another kind.
            Expr::SimilarTo { .. } => {
                refuse(expr.span().start, "SIMILAR TO is not supported; LIKE and ~ are")
            }
            Expr::MatchAgainst { .. } => {
                refuse(expr.span().start, "MATCH … AGAINST is not supported")
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(sql: &str) -> QueryError {
        parse(sql).expect_err(sql)
    }

    #[test]
    fn clauses_that_nobody_would_heed_are_refused() {
        for sql in [
            "SELECT * FROM events TABLESAMPLE BERNOULLI (10)",
            "SELECT * FROM events FOR UPDATE",
            "SELECT * FROM events FOR SHARE",
            "SELECT * FROM events FETCH FIRST 3 ROWS ONLY",
            "SELECT * INTO t FROM events",
            "COPY events TO '/tmp/x'",
            "COPY (SELECT 1) TO '/tmp/x'",
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
            "CREATE TABLE t (a INT PRIMARY KEY, b INT UNIQUE)",
            "CREATE TABLE t (a INT PRIMARY KEY, b INT CHECK (b > 0))",
            "CREATE TABLE t (a INT PRIMARY KEY, b INT REFERENCES u (a))",
            "CREATE TABLE t (a INT PRIMARY KEY, FOREIGN KEY (a) REFERENCES u (a))",
            "CREATE TABLE t (a INT PRIMARY KEY, b INT GENERATED ALWAYS AS IDENTITY)",
            "CREATE TABLE t (a INT PRIMARY KEY, b VARCHAR(10))",
            "CREATE TABLE t (a INT PRIMARY KEY, b NUMERIC)",
            "CREATE TABLE t (a INT PRIMARY KEY, b INT[])",
            "CREATE TABLE t (a INT PRIMARY KEY, b INT DEFAULT now())",
            "CREATE TABLE t (a INT PRIMARY KEY) WITH (fillfactor = 70)",
            "CREATE TEMPORARY TABLE t (a INT PRIMARY KEY)",
            "CREATE TABLE t AS SELECT 1 AS a",
            "CREATE TABLE t (LIKE u)",
            "CREATE TABLE s.t (a INT PRIMARY KEY)",
            "CREATE INDEX i ON t (a)",
            "CREATE VIEW v AS SELECT 1",
            "ALTER TABLE t ADD COLUMN b INT",
            "DROP TABLE t CASCADE",
            "DROP VIEW v",
            "TRUNCATE t",
            "BEGIN",
            "COMMIT",
            "INSERT INTO t DEFAULT VALUES",
            "INSERT INTO t VALUES (1) ON CONFLICT ON CONSTRAINT c DO NOTHING",
            "INSERT INTO t VALUES (1) ON CONFLICT DO UPDATE SET a = 1",
            "INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET a = (SELECT 1)",
            "INSERT OVERWRITE t VALUES (1)",
            "WITH c AS (SELECT 1) INSERT INTO t SELECT * FROM c",
            "UPDATE t SET a = u.a FROM u",
            "UPDATE t SET (a, b) = (1, 2)",
            "UPDATE t AS OF POSITION 1 SET a = 1",
            "UPDATE t SET x.a = 1",
            "DELETE FROM t USING u",
            "DELETE FROM t AS OF POSITION 1",
            "DELETE FROM t, u",
            "DELETE FROM other.t",
            "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE",
            "EXPLAIN DELETE FROM t",
            "SELECT * FROM t WHERE a IN (DELETE FROM t RETURNING a)",
            "SET datafusion.execution.batch_size = 1",
            "SHOW TABLES",
            "SELECT a COLLATE \"C\" FROM events",
            "EXPLAIN (FORMAT JSON) SELECT 1",
            "SELECT 1 FROM events AT OFFSET 5",
        ] {
            let error = refused(sql);
            let right = matches!(error, QueryError::Unsupported { .. } | QueryError::Syntax { .. });
            assert!(right, "{sql}: {error:?}");
        }
    }

    #[test]
    fn versions_of_tables_are_read_in_every_form() {
        for (sql, then) in [
            (
                "SELECT * FROM t AS OF POSITION 5 x",
                // The parser writes the other name first.
                "SELECT * FROM t x FOR SYSTEM_TIME AS OF \"$position\"(5)",
            ),
            (
                "SELECT * FROM t for system_time as of position $1, u",
                "SELECT * FROM t FOR SYSTEM_TIME AS OF \"$position\"($1), u",
            ),
            (
                "SELECT * FROM t AS OF TIMESTAMP '2026-01-01T00:00:00Z' JOIN u ON true",
                "SELECT * FROM t FOR SYSTEM_TIME AS OF TIMESTAMP '2026-01-01T00:00:00Z' JOIN u ON true",
            ),
            // Words that are names stay names.
            ("SELECT a AS of, position FROM t", "SELECT a AS of, position FROM t"),
        ] {
            assert_eq!(parse(sql).unwrap()[0].1.to_string(), then);
        }
        refused("SELECT * FROM t AS OF POSITION 'x'");
        refused("SELECT * FROM (SELECT 1) AS OF POSITION 5");
    }

    #[test]
    fn each_statement_has_its_text() {
        let texts: Vec<String> =
            parse(";; SELECT 'ä;' -- ; no\n;\nSELECT\n  2 ;;SELECT \"ß;\" FROM t")
                .unwrap()
                .into_iter()
                .map(|(text, _)| text)
                .collect();
        assert_eq!(texts, ["SELECT 'ä;' -- ; no", "SELECT\n  2", "SELECT \"ß;\" FROM t"]);
    }

    #[test]
    fn errors_say_where() {
        let QueryError::Syntax { place, .. } = refused("SELECT 1\nFROM events WHERE )") else {
            panic!("a syntax error");
        };
        assert_eq!(place, Some(Place { line: 2, column: 19 }));
    }

    #[test]
    fn too_much_is_refused_by_the_name_of_the_limit() {
        let check = |sql: &str, name: &str| match refused(sql) {
            QueryError::Limit { limit, .. } => assert_eq!(limit, name),
            other => panic!("{other:?}"),
        };
        check(&format!("SELECT {}1{}", "(".repeat(5000), ")".repeat(5000)), "sql_nesting");
        check(&format!("SELECT 1{}", "+1".repeat(NODES_MAX)), "sql_tokens");
        check(&"SELECT 1;".repeat(STATEMENTS_MAX + 1), "sql_statements");
        check(&" ".repeat(SQL_BYTES_MAX + 1), "sql_bytes");
    }
}
