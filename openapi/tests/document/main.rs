//! The checked-in document is the one that the routes make, and what it says is what the router
//! does.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod replay;
mod schema;

use std::collections::BTreeSet;

use kimberlite_api::openapi;
use serde_json::Value;

const CHECKED_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");

#[test]
fn the_checked_in_document_is_the_generated_one() {
    let generated = serde_json::to_string_pretty(&openapi::document()).unwrap() + "\n";
    // UPDATE=1 writes it: the difference is to be reviewed as any other.
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(CHECKED_IN, &generated).unwrap();
    }
    let checked_in = std::fs::read_to_string(CHECKED_IN).unwrap();
    let differs = generated.lines().zip(checked_in.lines()).find(|(a, b)| a != b);
    assert_eq!(
        differs, None,
        "generated, then checked in; UPDATE=1 cargo test -p kimberlite-openapi writes it"
    );
    assert_eq!(generated.len(), checked_in.len());
}

#[test]
fn every_operation_is_described_whole() {
    let document = openapi::document();
    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations(&document) {
        let at = format!("{method} {path}");
        assert!(
            ids.insert(operation["operationId"].as_str().unwrap().to_owned()),
            "{at}: its id stands twice"
        );
        assert!(operation["summary"].as_str().is_some_and(|s| s.len() > 5), "{at}: no summary");
        for (kind, body) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
            assert!(!body["example"].is_null(), "{at}: no example of {kind}");
        }
        let names = path.split('{').skip(1).map(|rest| rest.split('}').next().unwrap());
        for name in names {
            let parameter = parameters(operation).find(|p| p["in"] == "path" && p["name"] == name);
            let parameter = parameter.unwrap_or_else(|| panic!("{at}: {name} is not described"));
            assert!(!parameter["example"].is_null(), "{at}: no example of {name}");
        }
        assert!(operation["responses"]["default"].is_object(), "{at}: no problem is described");
        for parameter in parameters(operation) {
            assert!(parameter["description"].is_string(), "{at}: {parameter}");
        }
    }
    assert!(ids.contains("head_stream"), "the one path whose HEAD is a door of its own");
}

#[test]
fn every_reference_leads_somewhere() {
    fn walk(document: &Value, value: &Value, found: &mut usize) {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(reference)) = members.get("$ref") {
                    assert!(!schema::resolve(document, reference).is_null(), "{reference}");
                    *found += 1;
                }
                members.values().for_each(|v| walk(document, v, found));
            }
            Value::Array(items) => items.iter().for_each(|v| walk(document, v, found)),
            _ => {}
        }
    }
    let document = openapi::document();
    let mut found = 0;
    walk(&document, &document, &mut found);
    assert!(found > 30, "{found} references");
}

/// Path, method and description of every operation.
fn operations(document: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths.iter().flat_map(|(path, methods)| {
        methods
            .as_object()
            .unwrap()
            .iter()
            .map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
    })
}

fn parameters(operation: &Value) -> impl Iterator<Item = &Value> {
    operation["parameters"].as_array().into_iter().flatten()
}
