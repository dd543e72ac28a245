//! The tables of one request, and nothing else.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use datafusion::{
    catalog::{CatalogProvider, SchemaProvider, TableProvider},
    error::DataFusionError,
};
use kimberlite_store::{
    scan::Snapshot,
    tables::{Overlay, Table},
};

use crate::{
    error::QueryError,
    events::Events,
    streams::Streams,
    tables::{SharedReads, UserTable},
};

/// The one catalogue.
pub(crate) const CATALOG: &str = "kimberlite";
/// The schema of a tenant's tables.
pub(crate) const SCHEMA: &str = "public";

const TABLES: [&str; 2] = ["events", "streams"];

/// Whether this is the name of a table that every tenant has.
pub(crate) fn is_ours(name: &str) -> bool {
    TABLES.contains(&name)
}

/// A tenant's tables as of the request's moment, and those that are of other moments under names of their own.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    snapshot: Snapshot,
    /// Those that users made.
    made: BTreeMap<String, Arc<Table>>,
    /// What the request has changed so far.
    overlay: Arc<Overlay>,
    /// Where it is noted what was read, if the request changes anything.
    reads: Option<SharedReads>,
    named: HashMap<String, Arc<dyn TableProvider>>,
}

impl Tables {
    pub(crate) fn new(now: &Snapshot) -> Self {
        let (overlay, reads) = (Arc::default(), None);
        Self::changed(now, now.tables(), overlay, reads)
    }

    /// With what a request has changed so far.
    pub(crate) fn changed(
        now: &Snapshot,
        made: BTreeMap<String, Arc<Table>>,
        overlay: Arc<Overlay>,
        reads: Option<SharedReads>,
    ) -> Self {
        Self { snapshot: now.clone(), made, overlay, reads, named: HashMap::new() }
    }

    /// Adds a table as of another moment.
    ///
    /// # Errors
    /// There was no such table then.
    pub(crate) fn add(
        &mut self,
        name: String,
        of: &str,
        snapshot: &Snapshot,
    ) -> Result<(), QueryError> {
        let then = Self::new(snapshot);
        let table = then.find(of).ok_or_else(|| {
            let behind = snapshot.records().saturating_sub(1);
            QueryError::Meaning(format!("there is no table \"{of}\" as of position {behind}"))
        })?;
        self.named.insert(name, table);
        Ok(())
    }

    /// Has a name stand for something else.
    pub(crate) fn put(&mut self, name: &str, table: Arc<dyn TableProvider>) {
        self.named.insert(name.to_owned(), table);
    }

    /// A table by its name. This is where what a caller may see will be decided: no other way leads to the log.
    fn find(&self, name: &str) -> Option<Arc<dyn TableProvider>> {
        if let Some(table) = self.named.get(name) {
            return Some(Arc::clone(table));
        }
        let snapshot = self.snapshot.clone();
        if let Some(reads) = self.reads.as_ref().filter(|_| is_ours(name)) {
            reads.lock().events = true;
        }
        match name {
            "events" => Some(Arc::new(Events::new(snapshot))),
            "streams" => Some(Arc::new(Streams::new(snapshot))),
            _ => {
                let table = Arc::clone(self.made.get(name)?);
                let (overlay, reads) = (Arc::clone(&self.overlay), self.reads.clone());
                Some(Arc::new(UserTable::new(snapshot, table, overlay, reads)))
            }
        }
    }
}

#[async_trait]
impl SchemaProvider for Tables {
    fn table_names(&self) -> Vec<String> {
        TABLES.iter().map(|name| (*name).to_owned()).chain(self.made.keys().cloned()).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        Ok(self.find(name))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.named.contains_key(name) || is_ours(name) || self.made.contains_key(name)
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
