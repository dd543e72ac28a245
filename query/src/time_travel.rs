//! Versions of tables: which moment of the log each table in a statement is of.
//!
//! The planner would pass over a version clause and answer with what is now. So each one is taken off the statement
//! before it is planned: the table gets a name of its own, under which the catalogue has it as of that moment.

use std::{collections::HashSet, ops::ControlFlow};

use datafusion::sql::sqlparser::{
    ast::{
        Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName,
        ObjectNamePart, Query, Spanned, Statement, TableAlias, TableFactor, TableVersion, Value,
        Visit, VisitMut, Visitor, VisitorMut,
    },
    tokenizer::Location,
};

use crate::{
    catalog::SCHEMA,
    error::QueryError,
    statement::{AT_POSITION, place},
};

/// A table of a statement as of a moment of its own.
#[derive(Debug)]
pub(crate) struct Versioned {
    /// The table.
    pub(crate) table: String,
    /// What it is called in the statement now.
    pub(crate) name: String,
    pub(crate) when: When,
}

/// A moment as a statement says it.
#[derive(Debug)]
pub(crate) enum When {
    /// The state behind the record at a position.
    Position(u64),
    /// Likewise, by a parameter from 1.
    PositionParameter(usize),
    /// The state at a time, by an expression without columns.
    Time(Box<Expr>),
}

/// Takes the versions off a statement. `before` tables of the same request have names already.
pub(crate) fn take_versions(
    statement: &mut Statement,
    before: usize,
) -> Result<Vec<Versioned>, QueryError> {
    let mut names = CteNames(HashSet::new());
    let _seen: ControlFlow<()> = Visit::visit(&*statement, &mut names);
    let mut taker = Taker { ctes: names.0, before, taken: Vec::new() };
    match VisitMut::visit(statement, &mut taker) {
        ControlFlow::Continue(()) => Ok(taker.taken),
        ControlFlow::Break(error) => Err(*error),
    }
}

/// The names of all common table expressions.
struct CteNames(HashSet<String>);

impl Visitor for CteNames {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        if let Some(with) = &query.with {
            self.0.extend(with.cte_tables.iter().map(|cte| folded(&cte.alias.name)));
        }
        ControlFlow::Continue(())
    }
}

struct Taker {
    ctes: HashSet<String>,
    before: usize,
    taken: Vec<Versioned>,
}

/// A name as SQL reads it: in lower case where it is not quoted.
pub(crate) fn folded(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

fn refused<T>(at: Location, what: String) -> ControlFlow<Box<QueryError>, T> {
    ControlFlow::Break(Box::new(QueryError::Unsupported { what, place: place(at) }))
}

impl VisitorMut for Taker {
    type Break = Box<QueryError>;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Self::Break> {
        let at = factor.span().start;
        let TableFactor::Table { name, alias, args, version, .. } = factor else {
            return ControlFlow::Continue(());
        };
        let Some(version) = version.take() else { return ControlFlow::Continue(()) };
        let parts: Vec<&Ident> = name.0.iter().filter_map(ObjectNamePart::as_ident).collect();
        let (schema, ident) = match parts[..] {
            [ident] => (None, ident),
            [schema, ident] => (Some(folded(schema)), ident),
            _ => return refused(at, "only tables of this tenant have versions".to_owned()),
        };
        let table = folded(ident);
        if args.is_some() {
            return refused(
                at,
                "a function has no versions; its arguments say what it is of".into(),
            );
        }
        if schema.is_none() && self.ctes.contains(&table) {
            let what = format!(
                "\"{table}\" is a name of this statement: the version belongs to the tables inside"
            );
            return refused(at, what);
        }
        if schema.is_some_and(|s| s != SCHEMA) {
            return refused(at, format!("there is no table \"{table}\" that has versions"));
        }
        let when = match when(version) {
            Ok(when) => when,
            Err(what) => return refused(at, what),
        };
        if alias.is_none() {
            *alias = Some(TableAlias {
                explicit: true,
                name: ident.clone(),
                columns: Vec::new(),
                at: None,
            });
        }
        let hidden = format!("{table} as of #{}", self.before + self.taken.len());
        let quoted = Ident::with_quote('"', hidden.clone());
        *name = ObjectName(vec![ObjectNamePart::Identifier(quoted)]);
        self.taken.push(Versioned { table, name: hidden, when });
        ControlFlow::Continue(())
    }
}

fn when(version: TableVersion) -> Result<When, String> {
    let expr = match version {
        TableVersion::ForSystemTimeAsOf(expr) => expr,
        TableVersion::VersionAsOf(_) => {
            return Err("VERSION AS OF is not supported; AS OF POSITION n is".to_owned());
        }
        TableVersion::TimestampAsOf(_) => {
            return Err("TIMESTAMP AS OF is not supported; FOR SYSTEM_TIME AS OF is".to_owned());
        }
        TableVersion::Function(_) | TableVersion::Changes { .. } => {
            let what = "AT, BEFORE and CHANGES are not supported; AS OF POSITION n and FOR SYSTEM_TIME AS OF are";
            return Err(what.to_owned());
        }
    };
    let Some(argument) = position_argument(&expr) else { return Ok(When::Time(Box::new(expr))) };
    let wrong = || "AS OF POSITION takes a number from 0 on, or a parameter".to_owned();
    match argument {
        Value::Number(digits, _) => digits.parse().map(When::Position).map_err(|_| wrong()),
        Value::Placeholder(name) => {
            let number = name.strip_prefix('$').and_then(|n| n.parse().ok()).filter(|n| *n > 0);
            number.map(When::PositionParameter).ok_or_else(wrong)
        }
        _ => Err(wrong()),
    }
}

/// What stands in `POSITION …`.
fn position_argument(expr: &Expr) -> Option<&Value> {
    let Expr::Function(Function { name, args: FunctionArguments::List(list), .. }) = expr else {
        return None;
    };
    let [ObjectNamePart::Identifier(ident)] = &name.0[..] else { return None };
    match &list.args[..] {
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value)))]
            if ident.value == AT_POSITION =>
        {
            Some(&value.value)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::parse;

    fn taken(sql: &str) -> Result<(String, Vec<Versioned>), QueryError> {
        let (_, mut statement) = parse(sql)?.remove(0);
        let taken = take_versions(&mut statement, 0)?;
        Ok((statement.to_string(), taken))
    }

    #[test]
    fn every_version_is_taken_wherever_it_stands() {
        let (sql, taken) = taken(
            "WITH c AS (SELECT * FROM events AS OF POSITION 1) \
             SELECT * FROM c, (SELECT * FROM events AS OF POSITION 2) d, events e \
             LEFT JOIN public.streams FOR SYSTEM_TIME AS OF now() s ON true \
             WHERE EXISTS (SELECT 1 FROM Events AS OF POSITION $1 WHERE events.position = 1) \
             UNION ALL (SELECT * FROM events AS OF POSITION 3)",
        )
        .unwrap();
        assert!(!sql.contains("SYSTEM_TIME"), "{sql}");
        assert!(sql.contains("\"events as of #0\" AS events"), "{sql}");
        assert!(sql.contains("\"streams as of #2\" s"), "{sql}");
        let whens: Vec<String> =
            taken.iter().map(|v| format!("{} {:?}", v.table, v.when)).collect();
        assert_eq!(whens.len(), 5, "{whens:?}");
        assert!(whens[2].starts_with("streams Time"), "{whens:?}");
        assert_eq!(whens[3], "events PositionParameter(1)");
    }

    #[test]
    fn a_version_that_nobody_would_heed_is_refused() {
        for sql in [
            "WITH c AS (SELECT 1) SELECT * FROM c AS OF POSITION 1",
            "SELECT * FROM generate_series(1, 2) AS OF POSITION 1",
            "SELECT * FROM information_schema.tables AS OF POSITION 1",
            "SELECT * FROM events VERSION AS OF 1",
            "SELECT * FROM events TIMESTAMP AS OF '2026-01-01'",
            "SELECT * FROM events AT(OFFSET => 1)",
            "SELECT * FROM events BEFORE(OFFSET => 1)",
            "SELECT * FROM events AS OF POSITION 1.5",
            "SELECT * FROM events FOR SYSTEM_TIME BETWEEN 1 AND 2",
            "SELECT * FROM events FOR SYSTEM_TIME FROM 1 TO 2",
            "SELECT * FROM events FOR SYSTEM_TIME ALL",
        ] {
            let error = taken(sql).expect_err(sql);
            let right = matches!(error, QueryError::Unsupported { .. } | QueryError::Syntax { .. });
            assert!(right, "{sql}: {error:?}");
        }
    }
}
