//! Filters that say which rows of a table are meant by their keys.

use std::ops::Deref;

use datafusion::{
    arrow::{
        datatypes::{Schema, SchemaRef},
        record_batch::RecordBatch,
    },
    error::DataFusionError,
    logical_expr::{BinaryExpr, Expr, Operator, expr::InList},
    scalar::ScalarValue,
};
use kimberlite_store::tables::{RowKey, Table};
use serde_json::Value;

use super::stored_rows;
use crate::limits::KEYS_MAX;

/// Keys, each once.
#[derive(Clone, Debug)]
pub(crate) struct Keys(Vec<RowKey>);

impl Deref for Keys {
    type Target = [RowKey];

    fn deref(&self) -> &[RowKey] {
        &self.0
    }
}

/// Whether a filter says what values a column of the key has.
pub(super) fn names_key(table: &Table, filter: &Expr) -> bool {
    table.key.iter().any(|n| values(filter, &table.columns[*n].name).is_some())
}

/// The values that a filter leaves to a column.
fn values(filter: &Expr, column: &str) -> Option<Vec<ScalarValue>> {
    let is_column = |e: &Expr| matches!(e, Expr::Column(c) if c.name == column);
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => {
            match (&**left, &**right) {
                (e, Expr::Literal(v, _)) | (Expr::Literal(v, _), e) if is_column(e) => {
                    Some(vec![v.clone()])
                }
                _ => None,
            }
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            let (mut left, right) = (values(left, column)?, values(right, column)?);
            left.extend(right);
            Some(left)
        }
        Expr::InList(InList { expr, list, negated: false }) if is_column(expr) => {
            let value = |e: &Expr| match e {
                Expr::Literal(v, _) => Some(v.clone()),
                _ => None,
            };
            list.iter().map(value).collect()
        }
        _ => None,
    }
}

/// The keys that filters leave; `None` where they do not say.
pub(super) fn keys(
    table: &Table,
    schema: &SchemaRef,
    filters: &[Expr],
) -> Result<Option<Keys>, DataFusionError> {
    // Every combination of what is left to each column.
    let mut rows: Vec<Vec<ScalarValue>> = vec![Vec::new()];
    for number in &table.key {
        let field = schema.field(*number);
        let Some(left) = filters.iter().find_map(|f| values(f, field.name())) else {
            return Ok(None);
        };
        // NULL is equal to nothing.
        let left: Vec<ScalarValue> = left.into_iter().filter(|v| !v.is_null()).collect();
        if left.iter().any(|v| v.data_type() != *field.data_type())
            || rows.len() * left.len() > KEYS_MAX
        {
            return Ok(None);
        }
        let longer = rows.iter().flat_map(|row| {
            left.iter().map(move |value| [&row[..], std::slice::from_ref(value)].concat())
        });
        rows = longer.collect();
    }
    if rows.is_empty() {
        return Ok(Some(Keys(Vec::new())));
    }
    let fields: Vec<_> = table.key.iter().map(|n| schema.field(*n).clone()).collect();
    let columns = (0..fields.len())
        .map(|i| ScalarValue::iter_to_array(rows.iter().map(|row| row[i].clone())));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let batch = RecordBatch::try_new(std::sync::Arc::new(Schema::new(fields)), columns)?;
    let mut keys: Vec<RowKey> = Vec::with_capacity(rows.len());
    for row in stored_rows(&batch)? {
        let values: Vec<Value> =
            serde_json::from_slice(&row).map_err(|e| DataFusionError::External(Box::new(e)))?;
        // One that no row can have finds none.
        keys.extend(RowKey::new(values));
    }
    keys.sort_unstable_by(|a, b| a.bytes().cmp(b.bytes()));
    keys.dedup_by(|a, b| a.bytes() == b.bytes());
    Ok(Some(Keys(keys)))
}

/// The key of a row as it is stored.
pub(crate) fn key_of_row(table: &Table, row: &[u8]) -> Result<RowKey, String> {
    let wrong = |_| "a row is no array".to_owned();
    let mut values: Vec<Value> = serde_json::from_slice(row).map_err(wrong)?;
    let mut take = |n: usize| values.get_mut(n).map(Value::take).unwrap_or_default();
    RowKey::new(table.key.iter().map(|n| take(*n)).collect())
}
