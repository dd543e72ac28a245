//! Where the server is, and how paths and queries are written.

use std::{fmt, net::IpAddr, str::FromStr};

use hyper::http::uri::{Authority, Scheme, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Everything but the unreserved characters of RFC 3986, so `/` in a stream name stays inside its segment.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The server's `http://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target(Authority);

/// Why a URL does not name a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TargetError {
    /// TLS is not built in.
    #[error("this command line has no TLS: use an http:// URL, through a tunnel if need be")]
    Https,
    /// Not `http://host[:port]`.
    #[error("expected http://host:port, without a path")]
    Form,
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let uri: Uri = text.parse().map_err(|_| TargetError::Form)?;
        match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => return Err(TargetError::Https),
            Some(scheme) if *scheme == Scheme::HTTP => {}
            _ => return Err(TargetError::Form),
        }
        // Pages name their successor by path, so a server under a path prefix could not be paged through.
        let bare = uri.path() == "/" && uri.query().is_none();
        match uri.authority() {
            Some(authority) if bare && !authority.as_str().contains('@') => {
                Ok(Self(authority.clone()))
            }
            _ => Err(TargetError::Form),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.0)
    }
}

impl Target {
    /// `host:port` as the URL has it, for the `Host` header.
    pub(super) fn authority(&self) -> &str {
        self.0.as_str()
    }

    /// Host (without the brackets of IPv6) and port to connect to.
    pub(super) fn address(&self) -> (&str, u16) {
        (self.0.host().trim_matches(['[', ']']), self.0.port_u16().unwrap_or(80))
    }

    /// The URL of a path with query.
    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.0)
    }

    /// Whether the server is on this machine.
    pub(super) fn is_loopback(&self) -> bool {
        let (host, _) = self.address();
        host.eq_ignore_ascii_case("localhost")
            || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

/// A path and the query that is being added to it.
#[derive(Clone, Debug)]
pub(super) struct Path {
    text: String,
    has_query: bool,
}

impl Path {
    /// `/v1/events`, or the events of one stream.
    pub(super) fn events(stream: Option<&str>) -> Self {
        let text = match stream {
            Some(stream) => {
                format!("/v1/streams/{}/events", utf8_percent_encode(stream, RESERVED))
            }
            None => "/v1/events".to_owned(),
        };
        Self { text, has_query: false }
    }

    /// Adds a query parameter.
    pub(super) fn push(&mut self, name: &str, value: &str) {
        self.text.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        self.text.push_str(name);
        self.text.push('=');
        self.text.extend(utf8_percent_encode(value, RESERVED));
    }

    /// Adds a query parameter if there is a value.
    pub(super) fn push_some(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.push(name, value);
        }
    }

    /// The path with its query.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_urls_name_a_server() {
        let check = |text: &str, expected: Result<&str, TargetError>| {
            let target = text.parse::<Target>();
            assert_eq!(
                target.as_ref().map(Target::authority),
                expected.as_ref().copied(),
                "{text}"
            );
        };
        check("http://127.0.0.1:7070", Ok("127.0.0.1:7070"));
        check("http://db.internal/", Ok("db.internal"));
        check("https://127.0.0.1:7070", Err(TargetError::Https));
        check("127.0.0.1:7070", Err(TargetError::Form));
        check("http://h/prefix", Err(TargetError::Form));
        check("http://h/?a=1", Err(TargetError::Form));
        check("http://user@h/", Err(TargetError::Form));
        check("ftp://h", Err(TargetError::Form));
        check("", Err(TargetError::Form));
    }

    #[test]
    fn loopback_is_told_by_host_alone() {
        let check = |text: &str, expected: bool| {
            assert_eq!(text.parse::<Target>().unwrap().is_loopback(), expected, "{text}");
        };
        check("http://127.8.0.1", true);
        check("http://[::1]:7070", true);
        check("http://LOCALHOST:7070", true);
        check("http://localhost.attacker.test", false);
        check("http://192.168.1.7:7070", false);
    }

    #[test]
    fn names_and_values_are_escaped() {
        let mut path = Path::events(Some("site/a:7@x~"));
        path.push("type", "a b&c=é");
        path.push_some("limit", None);
        path.push_some("from", Some("3"));
        assert_eq!(
            path.as_str(),
            "/v1/streams/site%2Fa%3A7%40x~/events?type=a%20b%26c%3D%C3%A9&from=3"
        );
        assert_eq!(Path::events(None).as_str(), "/v1/events");
    }
}
