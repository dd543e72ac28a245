//! `POST /v1/links`: signed addresses for callers that cannot send headers.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::Uri,
    response::Response,
};
use kimberlite_store::words::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    conditions::{self, Refused},
    receipt,
};
use crate::{
    app::App,
    body::{self, Content},
    json,
    limits::{LINK_PATH_BYTES_MAX, LINK_TTL_S, LINK_TTL_S_MAX},
    problem::{Code, Problem},
    query,
};

/// What the link is for.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schema(as = LinkRequest)]
struct LinkBody {
    /// A path of this API that GET reads, with its query.
    #[schema(example = "/v1/events?type=order-placed", max_length = 4096, pattern = "^/v1/")]
    path: String,
    /// Seconds that it lives: 1 to 3600, 300 where it is left out.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 3600)]
    ttl_s: Option<u64>,
}

json::only_from_objects!(LinkBody);

/// A link.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Link)]
struct LinkAnswer {
    /// Path and query, to be requested with GET as it stands.
    url: String,
    /// When it ends to hold (RFC 3339, UTC).
    #[schema(format = DateTime)]
    expires_at: String,
}

/// Make a signed link
///
/// An address for GET alone that needs no headers, as for a browser's `EventSource`. It may do what
/// its maker may, holds until it expires or the server is restarted, and breaks when a byte of it
/// is changed.
#[utoipa::path(
    post, path = "/v1/links", tag = "operations", operation_id = "create_link",
    request_body(content = LinkBody, example = json!({"path": "/v1/events?type=order-placed", "ttl_s": 60})),
    responses(
        (status = 201, description = "The link", body = LinkAnswer),
    )
)]
pub(crate) async fn create_link(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    query::none(parts.uri.query())?;
    conditions::refuse(&parts.headers, Refused::KeyAndConditions)?;
    Content::of(&parts.headers, &[Content::Json])?;
    let body = body::whole(&app, &parts.headers, body).await?;
    let asked: LinkBody = json::parse(&body)?;
    let ttl_s = asked.ttl_s.unwrap_or(LINK_TTL_S);
    if !(1..=LINK_TTL_S_MAX).contains(&ttl_s) {
        return Err(Problem::at(
            Code::LimitExceeded,
            "/ttl_s",
            format!("is not between 1 and {LINK_TTL_S_MAX}"),
        ));
    }
    let known = asked.path.starts_with("/v1/")
        && asked.path.len() <= LINK_PATH_BYTES_MAX
        && asked
            .path
            .parse::<Uri>()
            .is_ok_and(|uri| uri.to_string() == asked.path && is_read(&app.document, uri.path()));
    if !known {
        let detail = format!(
            "is no path of at most {LINK_PATH_BYTES_MAX} bytes below /v1/ that GET reads, with or without a query"
        );
        return Err(Problem::at(Code::InvalidBody, "/path", detail));
    }
    let ttl_us = i64::try_from(ttl_s * 1_000_000).expect("bounded above");
    let expires = Timestamp::from_micros(Timestamp::now().micros() + ttl_us)
        .expect("an hour from now is a time");
    let url = app.links.sign(app.tenant_name.as_str(), &asked.path, expires);
    Ok(receipt::answer(&LinkAnswer { url, expires_at: expires.to_string() }, None, false))
}

/// Whether the API describes a GET of this path.
fn is_read(document: &Value, path: &str) -> bool {
    let fits = |template: &str| {
        let mut parts = path.split('/');
        let fit =
            |part: &str, sent: &str| sent == part || (part.starts_with('{') && !sent.is_empty());
        template.split('/').all(|part| parts.next().is_some_and(|sent| fit(part, sent)))
            && parts.next().is_none()
    };
    let paths = document["paths"].as_object().expect("a document has paths");
    paths.iter().any(|(template, methods)| fits(template) && !methods["get"].is_null())
}
