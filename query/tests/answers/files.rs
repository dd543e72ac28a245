//! The SQL files in `tests/sql`, each over the same small log.

use sqllogictest::{DBOutput, DefaultColumnType, Runner};

use crate::world::{World, answer};

struct Db(World);

#[derive(Debug)]
struct Refused(String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

#[async_trait::async_trait]
impl sqllogictest::AsyncDB for Db {
    type Error = Refused;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Refused> {
        let answer = answer(&self.0, sql).await.map_err(|e| Refused(format!("{e:?}")))?;
        let page = answer.pages.last().unwrap();
        assert!(!page.more, "tests have few rows");
        if page.columns.is_empty() {
            return Ok(DBOutput::StatementComplete(page.count as u64));
        }
        let rows: Vec<Vec<serde_json::Value>> =
            serde_json::from_str(&format!("[{}]", std::str::from_utf8(&page.rows).unwrap()))
                .unwrap();
        assert_eq!(rows.len(), page.count);
        let types = page.columns.iter().map(|c| match c.sql_type.as_str() {
            "BIGINT" | "INTEGER" | "SMALLINT" => DefaultColumnType::Integer,
            "DOUBLE" | "REAL" => DefaultColumnType::FloatingPoint,
            _ => DefaultColumnType::Text,
        });
        Ok(DBOutput::Rows {
            types: types.collect(),
            rows: rows.iter().map(|row| row.iter().map(shown).collect()).collect(),
        })
    }

    async fn shutdown(&mut self) {}
}

fn shown(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "NULL".to_owned(),
        serde_json::Value::String(text) if text.is_empty() => "(empty)".to_owned(),
        serde_json::Value::String(text) => text.replace('\n', "\\n"),
        other => other.to_string(),
    }
}

#[tokio::test]
async fn every_file_of_sql_is_answered_as_it_says() {
    let mut files: Vec<_> =
        std::fs::read_dir("tests/sql").unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let mut runner = Runner::new(|| async { Ok(Db(World::small().await)) });
        if let Err(error) = runner.run_file_async(&file).await {
            panic!("{}: {error}", file.display());
        }
    }
}
