//! As much of JSON Schema as the document uses, read strictly: an undescribed member is an error.

use serde_json::Value;

/// What `#/a/b` points at.
pub(crate) fn resolve<'a>(document: &'a Value, reference: &str) -> &'a Value {
    document.pointer(reference.strip_prefix('#').unwrap()).unwrap_or(&Value::Null)
}

/// Says where `value` is not what `schema` describes.
pub(crate) fn check(
    document: &Value,
    schema: &Value,
    value: &Value,
    at: &str,
) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        return check(document, resolve(document, reference), value, at);
    }
    for (word, wanted) in [("oneOf", 1), ("anyOf", 0)] {
        if let Some(choices) = schema[word].as_array() {
            let errors: Vec<_> =
                choices.iter().filter_map(|c| check(document, c, value, at).err()).collect();
            let fitting = choices.len() - errors.len();
            if fitting == 0 || (wanted == 1 && fitting != 1) {
                return Err(format!("{at}: {fitting} of {word} fit {value}: {errors:?}"));
            }
        }
    }
    if let Some(parts) = schema["allOf"].as_array() {
        return check_all(document, parts, value, at);
    }
    check_type(schema, value, at)?;
    if let Some(choices) = schema["enum"].as_array()
        && !choices.contains(value)
    {
        return Err(format!("{at}: {value} is none of {choices:?}"));
    }
    if let (Some(items), false) = (value.as_array(), schema["items"].is_null()) {
        for (n, item) in items.iter().enumerate() {
            check(document, &schema["items"], item, &format!("{at}/{n}"))?;
        }
    }
    check_members(document, schema, value, at)
}

/// Parts of one object: each describes some of its members.
fn check_all(document: &Value, parts: &[Value], value: &Value, at: &str) -> Result<(), String> {
    let mut whole = serde_json::json!({"type": "object", "properties": {}, "required": []});
    for part in parts {
        let part = part["$ref"].as_str().map_or(part, |r| resolve(document, r));
        for (name, schema) in part["properties"].as_object().into_iter().flatten() {
            whole["properties"][name] = schema.clone();
        }
        let required = part["required"].as_array().cloned().unwrap_or_default();
        whole["required"].as_array_mut().unwrap().extend(required);
    }
    check(document, &whole, value, at)
}

fn check_type(schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let allowed: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => return Ok(()),
    };
    let is = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let fits = allowed.contains(&is) || (is == "integer" && allowed.contains(&"number"));
    if fits { Ok(()) } else { Err(format!("{at}: {value} is {is}, not {allowed:?}")) }
}

fn check_members(document: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let (Some(properties), Some(members)) = (schema["properties"].as_object(), value.as_object())
    else {
        return Ok(());
    };
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !members.contains_key(name) {
            return Err(format!("{at}: {name} is missing"));
        }
    }
    for (name, member) in members {
        match properties.get(name) {
            Some(schema) => check(document, schema, member, &format!("{at}/{name}"))?,
            None if schema["additionalProperties"] == true => {}
            None => return Err(format!("{at}: {name} is not described")),
        }
    }
    Ok(())
}

#[test]
fn the_checker_finds_what_is_wrong() {
    use serde_json::json;
    let document = json!({"components": {"schemas": {"A": {
        "type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}, "s": {"type": ["string", "null"]}}}}}});
    let schema = json!({"type": "array", "items": {"$ref": "#/components/schemas/A"}});
    let fits = |value: Value| check(&document, &schema, &value, "").is_ok();
    assert!(fits(json!([{"n": 1}, {"n": 2, "s": null}])));
    for wrong in [
        json!({}),
        json!([{}]),
        json!([{"n": "1"}]),
        json!([{"n": 1, "x": 1}]),
        json!([{"n": 1, "s": 2}]),
    ] {
        assert!(!fits(wrong.clone()), "{wrong}");
    }
}
