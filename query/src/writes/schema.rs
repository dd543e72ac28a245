//! `CREATE TABLE`.

use datafusion::sql::sqlparser::{
    ast::{
        ColumnDef, ColumnOption, CreateTable, DataType, ExactNumberInfo, Expr, IndexColumn,
        PrimaryKeyConstraint, Statement, TableConstraint, TimezoneInfo, UnaryOperator, Value,
    },
    tokenizer::Location,
};
use kimberlite_store::{
    tables::{Column, ColumnType, Table},
    words::Reference,
};

use super::{Write, plain, table_name, unsupported};
use crate::{catalog::is_ours, error::QueryError, time_travel::folded};

/// A table to be made.
pub(super) fn create_table(create: &CreateTable, at: Location) -> Result<Write, QueryError> {
    let Statement::CreateTable(mut heeded) = plain("CREATE TABLE t (a INT)") else {
        unreachable!("a fixed text")
    };
    heeded.name.clone_from(&create.name);
    heeded.columns.clone_from(&create.columns);
    heeded.constraints.clone_from(&create.constraints);
    heeded.if_not_exists = create.if_not_exists;
    if heeded != *create {
        let what = "CREATE TABLE takes columns and a PRIMARY KEY, no other clauses";
        return unsupported(at, what);
    }
    let name = table_name(&create.name, at)?;
    if is_ours(&name) || name.contains('#') || name.starts_with('$') {
        let what = format!("\"{name}\" cannot be the name of a table");
        return Err(QueryError::Meaning(what));
    }
    let mut columns = Vec::with_capacity(create.columns.len());
    let mut key: Vec<String> = Vec::new();
    for def in &create.columns {
        let (column, is_key) = column(def, at)?;
        if is_key {
            key.push(column.name.clone());
        }
        columns.push(column);
    }
    for constraint in &create.constraints {
        let TableConstraint::PrimaryKey(primary) = constraint else {
            let what = "UNIQUE, CHECK and FOREIGN KEY are not supported yet; PRIMARY KEY is";
            return unsupported(at, what);
        };
        if !key.is_empty() {
            return Err(QueryError::Meaning("a table has one PRIMARY KEY".to_owned()));
        }
        key = primary_key(primary, at)?;
    }
    let numbers: Result<Vec<usize>, QueryError> = key
        .iter()
        .map(|name| {
            let number = columns.iter().position(|c| c.name == *name);
            let what = || QueryError::Meaning(format!("the key's column \"{name}\" is not there"));
            number.ok_or_else(what)
        })
        .collect();
    let key = numbers?;
    for number in &key {
        columns[*number].not_null = true;
    }
    let table = Table { reference: Reference([0; 16]), name, columns, key };
    match table.wrong() {
        Some(what) => Err(QueryError::Meaning(what)),
        None => Ok(Write::CreateTable { table, if_not_exists: create.if_not_exists }),
    }
}

/// A column, and whether it is the key.
fn column(def: &ColumnDef, at: Location) -> Result<(Column, bool), QueryError> {
    let name = folded(&def.name);
    let Some(column_type) = column_type(&def.data_type) else {
        let types = "SMALLINT, INTEGER, BIGINT, REAL, DOUBLE PRECISION, DECIMAL(p,s), TEXT, BOOLEAN, DATE, TIME, \
                     TIMESTAMP, TIMESTAMP WITH TIME ZONE, UUID, BYTES and JSON";
        let what = format!("the column \"{name}\" has a type that is not supported; {types} are");
        return unsupported(at, what);
    };
    let mut column = Column { name, column_type, not_null: false, default: None };
    let mut key = false;
    for option in &def.options {
        match &option.option {
            ColumnOption::Null => {}
            ColumnOption::NotNull => column.not_null = true,
            ColumnOption::Default(value) => {
                if !is_literal(value) {
                    let what = format!("the DEFAULT of \"{}\" is no literal", column.name);
                    return unsupported(at, what);
                }
                column.default = Some(value.to_string());
            }
            ColumnOption::PrimaryKey(primary) if primary.columns.is_empty() => {
                primary_key(primary, at)?;
                key = true;
            }
            _ => {
                let what = format!(
                    "the column \"{}\" has an option that is not supported; NOT NULL, DEFAULT and PRIMARY KEY are",
                    column.name
                );
                return unsupported(at, what);
            }
        }
    }
    Ok((column, key))
}

fn primary_key(primary: &PrimaryKeyConstraint, at: Location) -> Result<Vec<String>, QueryError> {
    let passed_over = primary.index_name.is_some()
        || primary.index_type.is_some()
        || !primary.index_options.is_empty()
        || primary.characteristics.is_some();
    if passed_over {
        return unsupported(at, "PRIMARY KEY takes columns alone");
    }
    let name = |column: &IndexColumn| match &column.column.expr {
        Expr::Identifier(ident)
            if column.operator_class.is_none()
                && column.column.to_string() == ident.to_string() =>
        {
            Ok(folded(ident))
        }
        _ => unsupported(at, "PRIMARY KEY takes columns alone"),
    };
    primary.columns.iter().map(name).collect()
}

fn is_literal(value: &Expr) -> bool {
    match value {
        Expr::Value(value) => !matches!(value.value, Value::Placeholder(_)),
        Expr::TypedString(_) => true,
        Expr::UnaryOp { op: UnaryOperator::Minus | UnaryOperator::Plus, expr } => {
            matches!(&**expr, Expr::Value(v) if matches!(v.value, Value::Number(..)))
        }
        _ => false,
    }
}

fn column_type(data_type: &DataType) -> Option<ColumnType> {
    Some(match data_type {
        DataType::SmallInt(None) | DataType::Int2(None) => ColumnType::SmallInt,
        DataType::Integer(None) | DataType::Int(None) | DataType::Int4(None) => ColumnType::Integer,
        DataType::BigInt(None) | DataType::Int8(None) => ColumnType::BigInt,
        DataType::Real | DataType::Float4 => ColumnType::Real,
        DataType::Double(ExactNumberInfo::None)
        | DataType::DoublePrecision
        | DataType::Float8
        | DataType::Float(ExactNumberInfo::None) => ColumnType::Double,
        DataType::Numeric(digits) | DataType::Decimal(digits) | DataType::Dec(digits) => {
            let (precision, scale) = match digits {
                ExactNumberInfo::PrecisionAndScale(precision, scale) => (*precision, *scale),
                ExactNumberInfo::Precision(precision) => (*precision, 0),
                // Any number of digits cannot be held.
                ExactNumberInfo::None => return None,
            };
            let (precision, scale) = (u8::try_from(precision).ok()?, u8::try_from(scale).ok()?);
            if !(1..=38).contains(&precision) || scale > precision {
                return None;
            }
            ColumnType::Decimal(precision, scale)
        }
        DataType::Text | DataType::Varchar(None) | DataType::CharacterVarying(None) => {
            ColumnType::Text
        }
        DataType::Boolean | DataType::Bool => ColumnType::Boolean,
        DataType::Date => ColumnType::Date,
        DataType::Time(None, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
            ColumnType::Time
        }
        DataType::Timestamp(None, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
            ColumnType::Timestamp
        }
        DataType::Timestamp(None, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => {
            ColumnType::TimestampTz
        }
        DataType::Uuid => ColumnType::Uuid,
        DataType::Bytea
        | DataType::Bytes(None)
        | DataType::Blob(None)
        | DataType::Binary(None)
        | DataType::Varbinary(None) => ColumnType::Bytes,
        DataType::JSON => ColumnType::Json,
        _ => return None,
    })
}
