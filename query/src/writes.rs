//! Statements that change something, taken apart: every clause is heeded or refused.
//!
//! What a statement reads is made a query, so that all rules of queries hold for it too; what it writes is worked out of
//! the rows that this gives ([`crate::engine`]).

mod schema;

use datafusion::sql::sqlparser::{
    ast::{
        Assignment, AssignmentTarget, ConflictTarget, Delete, Expr, FromTable, Ident, Insert,
        ObjectName, ObjectNamePart, ObjectType, OnConflictAction, OnInsert, Query, Select,
        SelectItem, SetExpr, Spanned, Statement, TableAlias, TableFactor, TableObject,
        TableWithJoins, UnaryOperator, Update, Value,
    },
    parser::Parser,
    tokenizer::Location,
};
use kimberlite_store::tables::{ColumnType, Table};

use crate::{
    catalog::SCHEMA, dialect::Kimberlite, error::QueryError, statement::place, time_travel::folded,
};

/// Under these names, with a number behind them, stand the values that columns are set to.
const SET: &str = "set #";

/// A statement that changes something.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    CreateTable { table: Table, if_not_exists: bool },
    DropTables { names: Vec<String>, if_exists: bool },
    Insert(Box<Inserting>),
    Update(Updating),
    Delete(Deleting),
}

/// Rows that are added.
#[derive(Clone, Debug)]
pub(crate) struct Inserting {
    pub(crate) target: Target,
    /// Columns that the source is for; all, where none is named.
    pub(crate) columns: Vec<String>,
    pub(crate) source: Query,
    pub(crate) conflict: Option<Conflict>,
    pub(crate) returning: Option<Vec<SelectItem>>,
}

/// What to do where a row is there already.
#[derive(Clone, Debug)]
pub(crate) struct Conflict {
    /// Columns that it is about; the key's, where none is named.
    pub(crate) columns: Vec<String>,
    pub(crate) update: Option<Setting>,
}

/// Columns that are set, where something holds.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) columns: Vec<String>,
    values: Vec<Expr>,
    selection: Option<Expr>,
}

/// Rows that are changed.
#[derive(Clone, Debug)]
pub(crate) struct Updating {
    pub(crate) target: Target,
    pub(crate) setting: Setting,
    pub(crate) returning: Option<Vec<SelectItem>>,
}

/// Rows that are deleted.
#[derive(Clone, Debug)]
pub(crate) struct Deleting {
    pub(crate) target: Target,
    selection: Option<Expr>,
    pub(crate) returning: Option<Vec<SelectItem>>,
}

/// A table that is changed.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
    alias: Option<TableAlias>,
}

fn unsupported<T>(at: Location, what: impl Into<String>) -> Result<T, QueryError> {
    Err(QueryError::Unsupported { what: what.into(), place: place(at) })
}

/// What a statement changes; `None` where it only reads.
pub(crate) fn write_of(statement: &Statement) -> Result<Option<Write>, QueryError> {
    let at = statement.span().start;
    Ok(Some(match statement {
        Statement::CreateTable(create) => schema::create_table(create, at)?,
        Statement::Drop {
            object_type: ObjectType::Table,
            if_exists,
            names,
            cascade: false,
            purge: false,
            temporary: false,
            table: None,
            // Nothing ever hangs on a table.
            restrict: _,
        } => {
            let names = names.iter().map(|name| table_name(name, at)).collect::<Result<_, _>>()?;
            Write::DropTables { names, if_exists: *if_exists }
        }
        Statement::Insert(insert) => Write::Insert(Box::new(inserting(insert, at)?)),
        Statement::Update(update) => Write::Update(updating(update, at)?),
        Statement::Delete(delete) => Write::Delete(deleting(delete, at)?),
        _ => return Ok(None),
    }))
}

/// The name of one of the tenant's tables.
fn table_name(name: &ObjectName, at: Location) -> Result<String, QueryError> {
    let parts: Vec<&Ident> = name.0.iter().filter_map(ObjectNamePart::as_ident).collect();
    match parts[..] {
        [table] if name.0.len() == 1 => Ok(folded(table)),
        [schema, table] if name.0.len() == 2 && folded(schema) == SCHEMA => Ok(folded(table)),
        _ => unsupported(at, "only tables of this tenant can be changed"),
    }
}

fn column_name(name: &ObjectName, at: Location) -> Result<String, QueryError> {
    match &name.0[..] {
        [ObjectNamePart::Identifier(ident)] => Ok(folded(ident)),
        _ => unsupported(at, "a column that is set is named by itself"),
    }
}

/// A statement that says no more than that; what another says beyond it has to be heeded or refused.
fn plain(sql: &str) -> Statement {
    let parsed = Parser::parse_sql(&Kimberlite, sql);
    parsed.expect("a fixed text").remove(0)
}

fn inserting(insert: &Insert, at: Location) -> Result<Inserting, QueryError> {
    let Statement::Insert(mut heeded) = plain("INSERT INTO t VALUES (1)") else {
        unreachable!("a fixed text")
    };
    heeded.table.clone_from(&insert.table);
    heeded.table_alias.clone_from(&insert.table_alias);
    heeded.columns.clone_from(&insert.columns);
    heeded.source.clone_from(&insert.source);
    heeded.on.clone_from(&insert.on);
    heeded.returning.clone_from(&insert.returning);
    if heeded != *insert {
        return unsupported(at, "a clause of this INSERT is not supported");
    }
    let TableObject::TableName(name) = &insert.table else {
        return unsupported(at, "only tables of this tenant can be changed");
    };
    let alias = insert.table_alias.as_ref().map(|alias| TableAlias {
        explicit: true,
        name: alias.alias.clone(),
        columns: Vec::new(),
        at: None,
    });
    let Some(source) = &insert.source else {
        return unsupported(at, "INSERT takes VALUES or a query; DEFAULT VALUES is not supported");
    };
    let columns: Result<Vec<String>, _> =
        insert.columns.iter().map(|name| column_name(name, at)).collect();
    Ok(Inserting {
        target: Target { name: table_name(name, at)?, alias },
        columns: columns?,
        source: (**source).clone(),
        conflict: insert.on.as_ref().map(|on| conflict(on, at)).transpose()?,
        returning: insert.returning.clone(),
    })
}

fn conflict(on: &OnInsert, at: Location) -> Result<Conflict, QueryError> {
    let OnInsert::OnConflict(on) = on else {
        return unsupported(at, "ON DUPLICATE KEY is not supported; ON CONFLICT is");
    };
    let columns = match &on.conflict_target {
        None => Vec::new(),
        Some(ConflictTarget::Columns(columns)) => columns.iter().map(folded).collect(),
        Some(ConflictTarget::OnConstraint(_)) => {
            return unsupported(at, "ON CONSTRAINT is not supported: name the key's columns");
        }
    };
    let update = match &on.action {
        OnConflictAction::DoNothing => None,
        OnConflictAction::DoUpdate(update) => {
            if columns.is_empty() {
                return unsupported(at, "ON CONFLICT DO UPDATE names the key's columns");
            }
            refuse_queries(update.selection.iter(), "ON CONFLICT", at)?;
            refuse_queries(update.assignments.iter().map(|a| &a.value), "ON CONFLICT", at)?;
            Some(setting(&update.assignments, update.selection.clone(), at)?)
        }
    };
    Ok(Conflict { columns, update })
}

fn setting(
    assignments: &[Assignment],
    selection: Option<Expr>,
    at: Location,
) -> Result<Setting, QueryError> {
    let (mut columns, mut values) = (Vec::new(), Vec::new());
    for Assignment { target, value } in assignments {
        let AssignmentTarget::ColumnName(name) = target else {
            return unsupported(at, "columns are set one by one");
        };
        let column = column_name(name, at)?;
        if columns.contains(&column) {
            return Err(QueryError::Meaning(format!("the column \"{column}\" is set twice")));
        }
        columns.push(column);
        values.push(value.clone());
    }
    Ok(Setting { columns, values, selection })
}

fn updating(update: &Update, at: Location) -> Result<Updating, QueryError> {
    let Statement::Update(mut heeded) = plain("UPDATE t SET a = 1") else {
        unreachable!("a fixed text")
    };
    heeded.table.clone_from(&update.table);
    heeded.assignments.clone_from(&update.assignments);
    heeded.selection.clone_from(&update.selection);
    heeded.returning.clone_from(&update.returning);
    if heeded != *update {
        return unsupported(at, "UPDATE takes SET, WHERE and RETURNING; use a subquery for FROM");
    }
    Ok(Updating {
        target: target(&update.table, at)?,
        setting: setting(&update.assignments, update.selection.clone(), at)?,
        returning: update.returning.clone(),
    })
}

fn deleting(delete: &Delete, at: Location) -> Result<Deleting, QueryError> {
    let Statement::Delete(mut heeded) = plain("DELETE FROM t") else {
        unreachable!("a fixed text")
    };
    heeded.from.clone_from(&delete.from);
    heeded.selection.clone_from(&delete.selection);
    heeded.returning.clone_from(&delete.returning);
    if heeded != *delete {
        return unsupported(at, "DELETE takes FROM one table, WHERE and RETURNING");
    }
    let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
    let [from] = &from[..] else {
        return unsupported(at, "DELETE takes FROM one table, WHERE and RETURNING");
    };
    Ok(Deleting {
        target: target(from, at)?,
        selection: delete.selection.clone(),
        returning: delete.returning.clone(),
    })
}

fn target(from: &TableWithJoins, at: Location) -> Result<Target, QueryError> {
    let TableFactor::Table { name, alias, version, args: None, .. } = &from.relation else {
        return unsupported(at, "only tables of this tenant can be changed");
    };
    if version.is_some() {
        return unsupported(at, "a table as it was cannot be changed");
    }
    if !from.joins.is_empty() || alias.as_ref().is_some_and(|a| !a.columns.is_empty()) {
        return unsupported(at, "one table is changed at a time, by the names of its own columns");
    }
    Ok(Target { name: table_name(name, at)?, alias: alias.clone() })
}

/// Queries inside would see only the rows at hand.
fn refuse_queries<'a>(
    exprs: impl Iterator<Item = &'a Expr>,
    whose: &str,
    at: Location,
) -> Result<(), QueryError> {
    use datafusion::sql::sqlparser::ast::Visit;
    for expr in exprs {
        if expr.visit(&mut Queries).is_break() {
            return unsupported(at, format!("a query inside {whose} is not supported"));
        }
    }
    Ok(())
}

/// Stops at a query.
struct Queries;

impl datafusion::sql::sqlparser::ast::Visitor for Queries {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> std::ops::ControlFlow<()> {
        std::ops::ControlFlow::Break(())
    }
}

impl Target {
    fn factor(&self) -> TableWithJoins {
        let mut from = plain_select("SELECT 1 FROM t").from.remove(0);
        if let TableFactor::Table { name, alias, .. } = &mut from.relation {
            *name =
                ObjectName(vec![ObjectNamePart::Identifier(Ident::with_quote('"', &self.name))]);
            alias.clone_from(&self.alias);
        }
        from
    }

    /// What its columns are called by.
    fn qualifier(&self) -> Ident {
        let own = || Ident::with_quote('"', &self.name);
        self.alias.as_ref().map_or_else(own, |alias| alias.name.clone())
    }

    /// A query for what `RETURNING` says of rows that stand under the table's name.
    pub(crate) fn returning(&self, items: &[SelectItem]) -> Result<Statement, QueryError> {
        use datafusion::sql::sqlparser::ast::Visit;
        let mut select = plain_select("SELECT 1 FROM t");
        select.projection = items.to_vec();
        if select.projection.visit(&mut Queries).is_break() {
            let what = "a query inside RETURNING is not supported";
            return unsupported(Location::empty(), what);
        }
        select.from = vec![self.factor()];
        Ok(query(select))
    }
}

impl Setting {
    /// A query for rows of `from` as they are, and behind their columns what they are set to.
    fn query(&self, target: &Target, table: &Table, joined: Option<&str>) -> Statement {
        let mut select = plain_select("SELECT * FROM t");
        let mut from = target.factor();
        if let Some(other) = joined {
            // Each of the rows at hand meets one of the others.
            let on: Vec<String> = table
                .key
                .iter()
                .map(|n| {
                    let column = Ident::with_quote('"', &table.columns[*n].name);
                    format!("{}.{column} = {other}.{column}", target.qualifier())
                })
                .collect();
            let sql = format!("SELECT 1 FROM t JOIN {other} ON {}", on.join(" AND "));
            from.joins = plain_select(&sql).from.remove(0).joins;
            let own = format!("SELECT {}.* FROM t", target.qualifier());
            select.projection = plain_select(&own).projection;
        }
        let values = self.columns.iter().zip(&self.values).enumerate();
        select.projection.extend(values.map(|(i, (column, value))| SelectItem::ExprWithAlias {
            expr: or_default(value, table, column),
            alias: Ident::with_quote('"', format!("{SET}{i}")),
        }));
        select.from = vec![from];
        select.selection.clone_from(&self.selection);
        query(select)
    }

    /// A query for rows that are there, and for what they are set to beside rows under the name `excluded`.
    pub(crate) fn beside_excluded(&self, target: &Target, table: &Table) -> Statement {
        self.query(target, table, Some("excluded"))
    }
}

impl Updating {
    /// A query for the rows as they are, and behind their columns what they are set to.
    pub(crate) fn query(&self, table: &Table) -> Statement {
        self.setting.query(&self.target, table, None)
    }
}

impl Deleting {
    /// A query for the rows.
    pub(crate) fn query(&self) -> Statement {
        let mut select = plain_select("SELECT * FROM t");
        select.from = vec![self.target.factor()];
        select.selection.clone_from(&self.selection);
        query(select)
    }
}

impl Inserting {
    /// A query for the values, with what `DEFAULT` stands for. `columns` are those that they are for.
    pub(crate) fn query(&self, table: &Table, columns: &[String]) -> Statement {
        let mut source = self.source.clone();
        let ordered = source.order_by.is_some();
        match &mut *source.body {
            SetExpr::Values(values) => {
                for row in &mut values.rows {
                    for (value, column) in row.content.iter_mut().zip(columns) {
                        *value = typed(or_default(value, table, column), table, column);
                    }
                }
            }
            // What the values are called does not matter, so two may be called alike.
            SetExpr::Select(select) => {
                for (i, item) in select.projection.iter_mut().enumerate() {
                    let SelectItem::UnnamedExpr(expr) = item else { continue };
                    // By such a name rows may be put in order.
                    let named = matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_));
                    if !(named && ordered) {
                        let alias = Ident::with_quote('"', format!("value #{i}"));
                        *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
                    }
                }
            }
            _ => {}
        }
        Statement::Query(Box::new(source))
    }
}

/// An expression; where it is the word `DEFAULT`, what that stands for.
fn or_default(value: &Expr, table: &Table, column: &str) -> Expr {
    match value {
        Expr::Identifier(Ident { value: word, quote_style: None, .. })
            if word.eq_ignore_ascii_case("DEFAULT") =>
        {
            let column = table.columns.iter().find(|c| c.name == column);
            default_of(column.and_then(|c| c.default.as_deref()))
        }
        other => other.clone(),
    }
}

/// A text or a parameter of which only its column says what it is: the engine would ask those in the rows above and below.
fn typed(value: Expr, table: &Table, column: &str) -> Expr {
    let Some(column) = table.columns.iter().find(|c| c.name == column) else { return value };
    let floats = matches!(column.column_type, ColumnType::Real | ColumnType::Double);
    let open = |value: &Expr| match value {
        Expr::Value(v) => match v.value {
            Value::SingleQuotedString(_) | Value::Placeholder(_) => true,
            // Beside decimals the engine takes floating-point numbers for such.
            Value::Number(..) => floats,
            _ => false,
        },
        _ => false,
    };
    let is_open = match &value {
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => floats && open(expr),
        value => open(value),
    };
    if !is_open {
        return value;
    }
    let type_name = match column.column_type {
        ColumnType::Bytes => "BYTEA".to_owned(),
        // The engine's own times reach less far; texts are read as what the column is later.
        ColumnType::Json
        | ColumnType::Uuid
        | ColumnType::Date
        | ColumnType::Time
        | ColumnType::Timestamp
        | ColumnType::TimestampTz => "TEXT".to_owned(),
        other => other.to_string(),
    };
    let cast = plain_select(&format!("SELECT CAST(1 AS {type_name})")).projection.remove(0);
    match cast {
        SelectItem::UnnamedExpr(Expr::Cast { kind, data_type, array, format, .. }) => {
            Expr::Cast { kind, expr: Box::new(value), data_type, array, format }
        }
        other => unreachable!("a fixed text: {other}"),
    }
}

/// A literal as it stands in a table's definition. One that cannot be read, as another version might write it, becomes a name that
/// is not there.
fn default_of(literal: Option<&str>) -> Expr {
    let parser = Parser::new(&Kimberlite).try_with_sql(literal.unwrap_or("NULL"));
    let parsed = parser.and_then(|mut parser| parser.parse_expr());
    parsed.unwrap_or_else(|_| {
        Expr::Identifier(Ident::with_quote('"', "a DEFAULT of another version"))
    })
}

/// A query for a literal.
pub(crate) fn literal_query(literal: Option<&str>) -> Statement {
    let mut select = plain_select("SELECT 1");
    select.projection = vec![SelectItem::UnnamedExpr(default_of(literal))];
    query(select)
}

fn plain_select(sql: &str) -> Select {
    let Statement::Query(query) = plain(sql) else { unreachable!("a fixed text") };
    let SetExpr::Select(select) = *query.body else { unreachable!("a fixed text") };
    *select
}

fn query(select: Select) -> Statement {
    let Statement::Query(mut query) = plain("SELECT 1") else { unreachable!("a fixed text") };
    query.body = Box::new(SetExpr::Select(Box::new(select)));
    Statement::Query(query)
}
