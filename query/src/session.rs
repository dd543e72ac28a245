//! What the engine knows beside a request's tables: functions, settings.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use datafusion::{
    catalog::{CatalogProvider, CatalogProviderList, MemoryCatalogProviderList},
    common::config::Dialect,
    error::DataFusionError,
    execution::{
        SessionState, SessionStateBuilder, SessionStateDefaults,
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        memory_pool::GreedyMemoryPool,
        runtime_env::{RuntimeEnv, RuntimeEnvBuilder},
    },
    prelude::SessionConfig,
};

use crate::{
    arithmetic, bounded,
    catalog::{CATALOG, Catalog, SCHEMA, Tables},
    limits::BATCH_ROWS,
    lists,
};

/// What all requests begin with: functions and rules, no tables, no files, no hosts.
pub(crate) fn base() -> Result<SessionState, DataFusionError> {
    let mut config = SessionConfig::new()
        .with_target_partitions(1)
        .with_batch_size(BATCH_ROWS)
        .with_create_default_catalog_and_schema(false)
        .with_default_catalog_and_schema(CATALOG, SCHEMA)
        .with_information_schema(true);
    let options = config.options_mut();
    options.sql_parser.dialect = Dialect::PostgreSQL;
    options.sql_parser.parse_float_as_decimal = true;
    options.optimizer.enable_dynamic_filter_pushdown = false;
    // The engine holds what it planned against what it made of it, and takes a column that can no longer be NULL for a mistake.
    options.execution.skip_physical_aggregate_schema_check = true;
    options.execution.time_zone = Some("UTC".to_owned());
    let mut state = SessionStateBuilder::new()
        .with_config(config)
        .with_expr_planners(SessionStateDefaults::default_expr_planners())
        .with_scalar_functions(SessionStateDefaults::default_scalar_functions())
        .with_higher_order_functions(SessionStateDefaults::default_higher_order_functions())
        .with_aggregate_functions(SessionStateDefaults::default_aggregate_functions())
        .with_window_functions(SessionStateDefaults::default_window_functions())
        .with_table_function_list(SessionStateDefaults::default_table_functions())
        .with_runtime_env(runtime(0)?)
        .build();
    datafusion_functions_json::register_all(&mut state)?;
    arithmetic::register(&mut state)?;
    bounded::register(&mut state)?;
    lists::register(&mut state)?;
    Ok(state)
}

/// One request's state.
pub(crate) fn of_request(
    base: &SessionState,
    tables: Tables,
    memory_bytes: usize,
    now: DateTime<Utc>,
) -> Result<SessionState, DataFusionError> {
    let catalogs = MemoryCatalogProviderList::new();
    let catalog: Arc<dyn CatalogProvider> = Arc::new(Catalog::new(tables));
    catalogs.register_catalog(CATALOG.to_owned(), catalog);
    let mut state = SessionStateBuilder::new_from_existing(base.clone())
        .with_catalog_list(Arc::new(catalogs))
        .with_runtime_env(runtime(memory_bytes)?)
        .build();
    state.execution_props_mut().query_execution_start_time = Some(now);
    Ok(state)
}

/// Memory up to a bound, and no files: what does not fit fails.
fn runtime(memory_bytes: usize) -> Result<Arc<RuntimeEnv>, DataFusionError> {
    let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
    RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(GreedyMemoryPool::new(memory_bytes)))
        .with_disk_manager_builder(disk)
        .build_arc()
}
