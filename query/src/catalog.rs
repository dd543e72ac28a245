//! The tables of one request, and nothing else.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use datafusion::{
    catalog::{CatalogProvider, SchemaProvider, TableProvider},
    error::DataFusionError,
};
use kimberlite_store::scan::Snapshot;

use crate::{events::Events, streams::Streams};

/// The one catalogue.
pub(crate) const CATALOG: &str = "kimberlite";
/// The schema of a tenant's tables.
pub(crate) const SCHEMA: &str = "public";

const TABLES: [&str; 2] = ["events", "streams"];

/// Whether a tenant has a table of this name.
pub(crate) fn is_table(name: &str) -> bool {
    TABLES.contains(&name)
}

/// A table as of a moment. This is where what a caller may see will be decided: no other way leads to the log.
fn table(name: &str, snapshot: &Snapshot) -> Option<Arc<dyn TableProvider>> {
    match name {
        "events" => Some(Arc::new(Events::new(snapshot.clone()))),
        "streams" => Some(Arc::new(Streams::new(snapshot.clone()))),
        _ => None,
    }
}

/// One tenant's tables as of the request's moment, and those that are of other moments under names of their own.
#[derive(Debug)]
pub(crate) struct Tables {
    tables: HashMap<String, Arc<dyn TableProvider>>,
}

impl Tables {
    pub(crate) fn new(now: &Snapshot) -> Self {
        let tables = TABLES.iter().filter_map(|n| Some(((*n).to_owned(), table(n, now)?)));
        Self { tables: tables.collect() }
    }

    /// Adds a table as of another moment.
    pub(crate) fn add(&mut self, name: String, of: &str, snapshot: &Snapshot) {
        self.tables.extend(table(of, snapshot).map(|table| (name, table)));
    }
}

#[async_trait]
impl SchemaProvider for Tables {
    fn table_names(&self) -> Vec<String> {
        TABLES.map(str::to_owned).to_vec()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        Ok(self.tables.get(name).cloned())
    }

    fn table_exist(&self, name: &str) -> bool {
        self.tables.contains_key(name)
    }
}

/// The catalogue of one request.
#[derive(Debug)]
pub(crate) struct Catalog {
    tables: Arc<Tables>,
}

impl Catalog {
    pub(crate) fn new(tables: Tables) -> Self {
        Self { tables: Arc::new(tables) }
    }
}

impl CatalogProvider for Catalog {
    fn schema_names(&self) -> Vec<String> {
        vec![SCHEMA.to_owned()]
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        (name == SCHEMA).then(|| Arc::clone(&self.tables) as Arc<dyn SchemaProvider>)
    }
}
