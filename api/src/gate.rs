//! Who may call at all: Host, Origin, credentials, tenant, signed links. The browser is not our
//! friend.

use std::net::Ipv4Addr;

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::Response,
};

use crate::{
    app::{App, empty},
    links,
    problem::{Code, Problem},
};

/// What a request that passed is.
pub(crate) enum Passed {
    /// On to its route.
    Through(Cors),
    /// A browser asks what it may do.
    Preflight(Cors),
}

/// What a browser is told about the answer.
pub(crate) enum Cors {
    /// Nothing: no other origin is involved.
    None,
    /// This configured origin may read it.
    Allowed(HeaderValue),
}

/// Checks what all requests have in common.
pub(crate) fn check(app: &App, request: &mut Request) -> Result<Passed, Problem> {
    let host = host(request)?;
    let name = host_name(host).ok_or_else(foreign_host)?;
    let known = |name: &str| {
        is_loopback(name) || app.config.http_hosts.iter().any(|h| h.eq_ignore_ascii_case(name))
    };
    if !known(name) {
        return Err(foreign_host());
    }
    let cors = origin(app, host, request.headers())?;
    if matches!(cors, Cors::Allowed(_))
        && request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
    {
        return Ok(Passed::Preflight(cors));
    }
    let headers = request.headers();
    if headers.contains_key(header::AUTHORIZATION) {
        let detail = "This server has issued no credentials: leave the Authorization header out.";
        return Err(Problem::new(Code::CredentialsUnknown, detail));
    }
    if let Some(tenant) = headers.get("kimberlite-tenant")
        && tenant.as_bytes() != app.tenant_name.as_str().as_bytes()
    {
        let detail = format!("This server has one tenant, {}.", app.tenant_name);
        return Err(Problem::new(Code::TenantUnknown, detail));
    }
    links::admit(app, request)?;
    Ok(Passed::Through(cors))
}

/// The authority that the request is for. Where the target has one, it counts and Host must not say
/// otherwise.
fn host(request: &Request) -> Result<&str, Problem> {
    let malformed = |detail: &'static str| Problem::new(Code::MalformedRequest, detail);
    let mut sent = request.headers().get_all(header::HOST).iter();
    let header = sent
        .next()
        .map(|h| h.to_str().map_err(|_| malformed("The Host header is not text.")))
        .transpose()?;
    if sent.next().is_some() {
        return Err(malformed("There are two Host headers."));
    }
    match (request.uri().authority(), header) {
        (Some(target), Some(header)) if !target.as_str().eq_ignore_ascii_case(header) => {
            Err(malformed("The Host header and the request's target name different hosts."))
        }
        (Some(target), _) => Ok(target.as_str()),
        (None, Some(header)) => Ok(header),
        (None, None) => Err(malformed("The Host header is missing.")),
    }
}

/// The name in `name[:port]`; a literal IPv6 address keeps its brackets. `None` where it is
/// neither.
fn host_name(host: &str) -> Option<&str> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let end = rest.find(']')? + 2;
            (&host[..end], &host[end..])
        }
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let port_fits = match port.strip_prefix(':') {
        Some(digits) => digits.is_empty() || digits.parse::<u16>().is_ok(),
        None => port.is_empty(),
    };
    (port_fits && !name.is_empty()).then_some(name)
}

fn is_loopback(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost")
        || name == "[::1]"
        || name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

fn foreign_host() -> Problem {
    let detail = "Call the server by a loopback name or address, or add the name to http.hosts.";
    Problem::new(Code::HostForeign, detail)
}

fn origin(app: &App, host: &str, headers: &HeaderMap) -> Result<Cors, Problem> {
    let mut sent = headers.get_all(header::ORIGIN).iter();
    let Some(origin) = sent.next() else { return Ok(Cors::None) };
    let text = origin.to_str().unwrap_or("null");
    let same = |scheme: &str| {
        text.strip_prefix(scheme).is_some_and(|rest| rest.eq_ignore_ascii_case(host))
    };
    if sent.next().is_none() {
        // Behind a proxy that ends TLS the page's scheme is https though ours is http.
        if same("http://") || same("https://") {
            return Ok(Cors::None);
        }
        if app.config.cors_origins.iter().any(|o| o.eq_ignore_ascii_case(text)) {
            return Ok(Cors::Allowed(origin.clone()));
        }
    }
    Err(Problem::new(
        Code::OriginForeign,
        "Add the origin to cors.origins if its pages may call this server.",
    ))
}

impl Cors {
    /// Adds what the browser is told.
    pub(crate) fn finish(self, headers: &mut HeaderMap) {
        let Self::Allowed(origin) = self else { return };
        let exposed = "location, etag, link, retry-after, idempotent-replay";
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(exposed));
    }
}

/// What an allowed origin may send.
pub(crate) fn preflight() -> Response {
    let mut response = empty(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    let allowed = "content-type, content-encoding, idempotency-key, if-match, if-none-match, last-event-id, \
                   kimberlite-tenant, traceparent";
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, HEAD, POST, DELETE"),
    );
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(allowed));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_names_with_any_port_or_none_are_ours() {
        for host in [
            "localhost",
            "LocalHost:7070",
            "127.0.0.1",
            "127.8.9.1:1",
            "[::1]",
            "[::1]:7070",
            "localhost:",
        ] {
            assert!(host_name(host).is_some_and(is_loopback), "{host}");
        }
        for host in [
            "",
            ":7070",
            "example.com",
            "localhost.example.com",
            "127.0.0.1.example.com",
            "127.1",
            "0.0.0.0",
            "[::2]",
            "localhost:x",
            "a@localhost",
            "localhost@b",
            "[::1",
            "localhost:1:2",
            "128.0.0.1",
            "localhost:70700",
        ] {
            assert!(!host_name(host).is_some_and(is_loopback), "{host}");
        }
    }
}
