//! The one table of routes, and the OpenAPI document that is made from it.

use std::sync::Arc;

use kimberlite_store::limits::NAME_BYTES_MAX;
use serde_json::{Value, json};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{app::App, metrics, v1};

const ABOUT: &str = "An event store over HTTP and JSON: append events, read and follow them.\n\n\
    Problems are RFC 9457 `application/problem+json`, each explained under `/docs/problems/{code}`. Unknown fields and query \
    parameters are refused. Times are RFC 3339 in UTC; positions and versions are whole numbers below 2^53. `next` is a path \
    with query, to be requested as it stands. In a body an optional field that is `null` counts as left out. Bodies may be compressed with gzip or zstd. Objects with a key twice and \\u \
    escapes of half a surrogate pair are refused.";

/// What the document says beside its operations.
#[derive(OpenApi)]
#[openapi(
    info(title = "Kimberlite", description = ABOUT, license(name = "Apache-2.0", identifier = "Apache-2.0")),
    tags(
        (name = "append", description = "Append events"),
        (name = "read", description = "Read and follow events"),
        (name = "query", description = "SQL over the log, as of any moment"),
        (name = "streams", description = "Streams"),
        (name = "records", description = "Records, and what proves them"),
        (name = "operations", description = "Backups, links, health, metrics"),
    ),
    components(schemas(v1::follow::StateBody)),
)]
struct Document;

/// Every operation of the API.
pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(v1::append::append_to_stream, v1::read::read_stream))
        .routes(routes!(v1::bulk::append_lines, v1::read::read_events))
        .routes(routes!(v1::transactions::append_transaction))
        .routes(routes!(v1::events::read_event))
        .routes(routes!(v1::records::read_event_proof))
        .routes(routes!(v1::records::read_event_leaf))
        .routes(routes!(v1::records::read_event_opening))
        .routes(routes!(v1::streams::list_streams))
        .routes(routes!(
            v1::streams::describe_stream,
            v1::streams::head_stream,
            v1::streams::delete_stream
        ))
        .routes(routes!(v1::records::read_record))
        .routes(routes!(v1::records::read_record_leaf))
        .routes(routes!(v1::records::read_record_opening))
        .routes(routes!(v1::records::read_record_proof))
        .routes(routes!(v1::query::query, v1::query::continue_query))
        .routes(routes!(v1::log::read_checkpoint))
        .routes(routes!(v1::log::read_stamp))
        .routes(routes!(v1::log::read_tile))
        .routes(routes!(v1::log::read_consistency))
        .routes(routes!(v1::log::list_log_keys, v1::log::rotate_log_key))
        .routes(routes!(v1::backups::create_backup, v1::backups::list_backups))
        .routes(routes!(v1::backups::describe_backup, v1::backups::cancel_backup))
        .routes(routes!(v1::links::create_link))
        .routes(routes!(v1::health::health_live))
        .routes(routes!(v1::health::health_ready))
        .routes(routes!(metrics::metrics))
}

/// The document of all [`routes`].
pub fn document() -> Value {
    let (_, document) = routes().split_for_parts();
    let mut document = serde_json::to_value(document).expect("documents serialise");
    // utoipa has no word for the schema inside a string of JSON, for members beyond those of a
    // type, and for extensions of a media type.
    document["components"]["schemas"]["EventFrame"]["properties"]["data"]["contentSchema"] =
        json!({"$ref": "#/components/schemas/Event"});
    document["components"]["schemas"]["Expected"]["oneOf"][3]["additionalProperties"] =
        json!(false);
    document["components"]["schemas"]["CloudEvent"]["additionalProperties"] = json!(true);
    for path in ["/v1/events", "/v1/streams/{stream}/events"] {
        document["paths"][path]["get"]["responses"]["200"]["content"]["text/event-stream"]["x-stream"] =
            json!("sse");
    }
    let problem = json!({"description": "A problem", "content": {"application/problem+json": {
        "schema": {"$ref": "#/components/schemas/Problem"}}}});
    let paths = document["paths"].as_object_mut().expect("a document has paths");
    // The router says so that a path goes over several segments; OpenAPI has no word for it.
    let tile = paths.remove("/v1/log/tile/{*path}").expect("a route of the table");
    paths.insert("/v1/log/tile/{path}".to_owned(), tile);
    let head_problem = json!({"description": "A problem, of which HEAD shows the status alone"});
    for methods in paths.values_mut() {
        for (method, operation) in methods.as_object_mut().into_iter().flatten() {
            let default = if method == "head" { &head_problem } else { &problem };
            operation["responses"]["default"] = default.clone();
            let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
            for parameter in parameters.into_iter().flatten().filter(|p| p["in"] == "path") {
                bound(parameter);
            }
        }
    }
    document
}

/// Says what a path may hold.
fn bound(parameter: &mut Value) {
    let is_tile = parameter["name"] == "path";
    let schema = &mut parameter["schema"];
    if is_tile {
        schema["pattern"] = json!("^([0-9]+|entries)/(x[0-9]{3}/)*[0-9]{3}(\\.p/[0-9]{1,3})?$");
    } else if schema["type"] == "string" {
        schema["minLength"] = json!(1);
        schema["maxLength"] = json!(NAME_BYTES_MAX);
        // Neither `.` nor `..`, said without looking ahead: not every reader of patterns can.
        schema["pattern"] =
            json!("^([A-Za-z0-9_~@:/-]|\\.+[A-Za-z0-9_~@:/-]|\\.{3})[A-Za-z0-9._~@:/-]*$");
    } else {
        schema["maximum"] = json!((1_u64 << 53) - 1);
    }
}
