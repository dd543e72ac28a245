//! Tables that users make: their columns, their keys, and what is asked of them.

use std::{collections::BTreeMap, fmt, ops::Bound, str::FromStr};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    limits::{COLUMN_NAME_BYTES_MAX, COLUMNS_MAX, ROW_KEY_BYTES_MAX},
    words::{Actor, Hex, Reference},
};

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum ColumnType {
    /// 16 bits.
    SmallInt,
    /// 32 bits.
    Integer,
    /// 64 bits.
    BigInt,
    /// IEEE 754, 32 bits.
    Real,
    /// IEEE 754, 64 bits.
    Double,
    /// Digits in all, 1 to 38, and how many of them stand behind the point.
    Decimal(u8, u8),
    /// UTF-8.
    Text,
    /// True or false.
    Boolean,
    /// A day.
    Date,
    /// A time of day in microseconds.
    Time,
    /// A day and a time of day, of no zone.
    Timestamp,
    /// A moment in microseconds.
    TimestampTz,
    /// A UUID.
    Uuid,
    /// Any bytes.
    Bytes,
    /// A JSON text as it came.
    Json,
}

const PLAIN: [(&str, ColumnType); 14] = [
    ("SMALLINT", ColumnType::SmallInt),
    ("INTEGER", ColumnType::Integer),
    ("BIGINT", ColumnType::BigInt),
    ("REAL", ColumnType::Real),
    ("DOUBLE", ColumnType::Double),
    ("TEXT", ColumnType::Text),
    ("BOOLEAN", ColumnType::Boolean),
    ("DATE", ColumnType::Date),
    ("TIME", ColumnType::Time),
    ("TIMESTAMP", ColumnType::Timestamp),
    ("TIMESTAMP WITH TIME ZONE", ColumnType::TimestampTz),
    ("UUID", ColumnType::Uuid),
    ("BYTES", ColumnType::Bytes),
    ("JSON", ColumnType::Json),
];

impl ColumnType {
    /// Whether two values of it are equal or not, and look alike when they are: a key is found by its bytes.
    pub fn keys(self) -> bool {
        !matches!(self, Self::Real | Self::Double | Self::Json)
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Decimal(precision, scale) = self {
            return write!(f, "DECIMAL({precision},{scale})");
        }
        let name = PLAIN.iter().find(|(_, t)| t == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

impl FromStr for ColumnType {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some((_, plain)) = PLAIN.iter().find(|(name, _)| *name == text) {
            return Ok(*plain);
        }
        let digits = text.strip_prefix("DECIMAL(").and_then(|t| t.strip_suffix(')'));
        let (precision, scale) =
            digits.and_then(|d| d.split_once(',')).ok_or("an unknown column type")?;
        match (precision.parse(), scale.parse()) {
            (Ok(p @ 1..=38), Ok(s)) if s <= p => Ok(Self::Decimal(p, s)),
            _ => Err("a DECIMAL that cannot be"),
        }
    }
}

impl From<ColumnType> for String {
    fn from(column_type: ColumnType) -> Self {
        column_type.to_string()
    }
}

impl TryFrom<String> for ColumnType {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub column_type: ColumnType,
    /// Whether there is a value in every row.
    pub not_null: bool,
    /// What it is where nothing is said: a literal of SQL.
    pub default: Option<String>,
}

/// A table as it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// What stands for it in the log, in hex there.
    #[serde(rename = "table", with = "hex_reference")]
    pub reference: Reference,
    /// Its name.
    pub name: String,
    /// Its columns.
    pub columns: Vec<Column>,
    /// The numbers of the columns, from 0, that its rows are told apart by.
    pub key: Vec<usize>,
}

impl Table {
    /// What keeps it from being a table.
    pub fn wrong(&self) -> Option<String> {
        if self.name.is_empty() || self.name.len() > COLUMN_NAME_BYTES_MAX {
            return Some(format!("a table's name has 1 to {COLUMN_NAME_BYTES_MAX} bytes"));
        }
        if self.columns.is_empty() || self.columns.len() > COLUMNS_MAX {
            return Some(format!("a table has 1 to {COLUMNS_MAX} columns"));
        }
        for (i, column) in self.columns.iter().enumerate() {
            if column.name.is_empty() || column.name.len() > COLUMN_NAME_BYTES_MAX {
                return Some(format!("a column's name has 1 to {COLUMN_NAME_BYTES_MAX} bytes"));
            }
            if self.columns[..i].iter().any(|c| c.name == column.name) {
                return Some(format!("the column \"{}\" stands twice", column.name));
            }
        }
        if self.key.is_empty() {
            return Some("a table has a PRIMARY KEY".to_owned());
        }
        for (i, number) in self.key.iter().enumerate() {
            let Some(column) = self.columns.get(*number) else {
                return Some("the key has a column that is not there".to_owned());
            };
            if self.key[..i].contains(number) {
                return Some(format!("the column \"{}\" stands twice in the key", column.name));
            }
            if !column.column_type.keys() {
                let (name, kind) = (&column.name, column.column_type);
                return Some(format!("\"{name}\" cannot be part of a key: it is {kind}"));
            }
            if !column.not_null {
                return Some(format!("\"{}\" is part of the key, so NOT NULL", column.name));
            }
        }
        None
    }
}

mod hex_reference {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    use super::{Hex, Reference};
    use crate::node::sixteen;

    pub(super) fn serialize<S: Serializer>(r: &Reference, to: S) -> Result<S::Ok, S::Error> {
        Hex(&r.0).to_string().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Reference, D::Error> {
        let text = String::deserialize(from)?;
        sixteen(&text).map(Reference).ok_or_else(|| D::Error::custom("no reference"))
    }
}

/// The JSON of a change of the schema.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum SchemaBody {
    /// A table is there from here on.
    CreateTable(Table),
    /// It is gone from here on.
    DropTable(TableBody),
}

/// The JSON that says which table.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TableBody {
    #[serde(with = "hex_reference")]
    pub(crate) table: Reference,
}

/// The JSON that says which row.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RowBody {
    #[serde(with = "hex_reference")]
    pub(crate) table: Reference,
    pub(crate) key: Vec<Value>,
}

/// What tells a row from the others of its table: whole numbers, texts, true and false.
#[derive(Clone, Debug)]
pub struct RowKey {
    pub(crate) values: Vec<Value>,
    /// No key's bytes begin another's.
    pub(crate) bytes: Box<[u8]>,
}

impl RowKey {
    /// A key of values as rows have them.
    ///
    /// # Errors
    /// A value cannot be part of a key, or they are too long together.
    pub fn new(values: Vec<Value>) -> Result<Self, String> {
        let mut bytes = Vec::new();
        for value in &values {
            match value {
                Value::Bool(false) => bytes.push(1),
                Value::Bool(true) => bytes.push(2),
                Value::Number(number) => {
                    let number = number.as_i64().ok_or("a key has a number that is not whole")?;
                    bytes.push(3);
                    bytes.extend_from_slice(&(number.cast_unsigned() ^ 1 << 63).to_be_bytes());
                }
                Value::String(text) => {
                    bytes.push(4);
                    for byte in text.bytes() {
                        bytes.push(byte);
                        // A zero inside is told from the two at the end by what follows it.
                        if byte == 0 {
                            bytes.push(0xff);
                        }
                    }
                    bytes.extend_from_slice(&[0, 0]);
                }
                Value::Null | Value::Array(_) | Value::Object(_) => {
                    return Err("a key has a value that is no number, text or truth".to_owned());
                }
            }
        }
        if bytes.is_empty() {
            return Err("a key has no values".to_owned());
        }
        if bytes.len() > ROW_KEY_BYTES_MAX {
            return Err(format!("a key has more than {ROW_KEY_BYTES_MAX} bytes"));
        }
        Ok(Self { values, bytes: bytes.into() })
    }

    /// Its bytes, by which keys are put in order.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// What a request has changed and not written yet: rows by table and key, absent where they are deleted.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    rows: BTreeMap<(Reference, Box<[u8]>), Option<Bytes>>,
}

impl Overlay {
    /// Notes a change.
    pub fn set(&mut self, table: Reference, key: &RowKey, row: Option<Bytes>) {
        self.rows.insert((table, key.bytes.clone()), row);
    }

    /// What is noted of a row.
    pub fn get(&self, table: Reference, key: &RowKey) -> Option<&Option<Bytes>> {
        self.rows.get(&(table, key.bytes.clone()))
    }

    /// What is noted of rows of a table with keys behind `after` up to `last`.
    pub(crate) fn between(
        &self,
        table: Reference,
        after: Option<&[u8]>,
        last: Option<&[u8]>,
    ) -> impl Iterator<Item = (&[u8], &Option<Bytes>)> {
        let from = match after {
            Some(key) => Bound::Excluded((table, key.into())),
            None => Bound::Included((table, Box::default())),
        };
        let rows = self.rows.range((from, Bound::Unbounded));
        let here = rows.take_while(move |((t, _), _)| *t == table);
        let last: Option<Box<[u8]>> = last.map(Into::into);
        here.map(|((_, key), row)| (&**key, row))
            .take_while(move |(key, _)| last.as_deref().is_none_or(|last| *key <= last))
    }
}

/// What a change rests on, apart from the schema and the rows that it writes.
#[derive(Clone, Debug, Default)]
pub struct Reads {
    /// No event and no stream has changed.
    pub events: bool,
    /// No row of these tables has changed.
    pub tables: Vec<Reference>,
    /// None of these rows has changed.
    pub rows: Vec<(Reference, RowKey)>,
}

/// One change.
#[derive(Clone, Debug)]
pub enum Changing {
    /// A table is made.
    CreateTable(Table),
    /// A table is gone.
    DropTable(Reference),
    /// A row is written, or deleted where there is no `row`.
    Row {
        /// The table.
        table: Reference,
        /// Which row.
        key: RowKey,
        /// A JSON array with a value for each column.
        row: Option<Bytes>,
    },
}

/// Changes that are made together or not at all.
#[derive(Clone, Debug)]
pub struct Change {
    /// Who asks.
    pub actor: Actor,
    /// How many records the log had that they were worked out from.
    pub seen: u64,
    /// What else must still be as it was then.
    pub reads: Reads,
    /// At least one, in order.
    pub changes: Vec<Changing>,
}

/// What became of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// They are durable; so many records has the log with the last of them.
    Written(u64),
    /// What they rest on has changed: they are to be worked out again.
    Stale,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bytes(values: &Value) -> Vec<u8> {
        RowKey::new(values.as_array().unwrap().clone()).unwrap().bytes.to_vec()
    }

    #[test]
    fn no_key_begins_another_and_the_order_is_that_of_the_values() {
        let ordered = [
            json!([false]),
            json!([true]),
            json!([i64::MIN]),
            json!([-1]),
            json!([0]),
            json!([0, 0]),
            json!([1]),
            json!([i64::MAX]),
            json!([""]),
            json!(["", "a"]),
            json!(["\0"]),
            json!(["\0", ""]),
            json!(["\0\0"]),
            json!(["\u{1}"]),
            json!(["a"]),
            json!(["a", ""]),
            json!(["a\0"]),
            json!(["ab"]),
        ];
        let encoded: Vec<Vec<u8>> = ordered.iter().map(bytes).collect();
        for (i, key) in encoded.iter().enumerate() {
            for (j, other) in encoded.iter().enumerate() {
                let same_length =
                    ordered[i].as_array().unwrap().len() == ordered[j].as_array().unwrap().len();
                if same_length && i < j {
                    assert!(key < other, "{} {}", ordered[i], ordered[j]);
                    assert!(!other.starts_with(key), "{} {}", ordered[i], ordered[j]);
                }
            }
        }
        assert!(RowKey::new(vec![json!(1.5)]).is_err());
        assert!(RowKey::new(vec![Value::Null]).is_err());
        assert!(RowKey::new(vec![json!("x".repeat(ROW_KEY_BYTES_MAX))]).is_err());
    }

    #[test]
    fn types_are_written_as_they_are_read() {
        for (name, column_type) in PLAIN {
            assert_eq!(column_type.to_string(), name);
            assert_eq!(name.parse(), Ok(column_type));
        }
        assert_eq!("DECIMAL(10,2)".parse(), Ok(ColumnType::Decimal(10, 2)));
        for wrong in ["DECIMAL(39,0)", "DECIMAL(1,2)", "DECIMAL(0,0)", "DECIMAL", "INT", ""] {
            assert!(wrong.parse::<ColumnType>().is_err(), "{wrong}");
        }
    }
}
