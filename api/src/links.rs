//! Signed links: a short-lived address for one GET, for callers that cannot send headers.

use std::fmt::Write as _;

use axum::{
    extract::Request,
    http::{Method, Uri},
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use kimberlite_store::words::{Hex, Timestamp};
use sha2::Sha256;

use crate::{
    app::App,
    problem::{Code, Problem},
};

/// The query parameter that carries a link's expiry and signature.
const PARAMETER: &str = "link";

/// Signs links. Made anew at every start, so that a link never outlives its server.
pub(crate) struct LinkKey([u8; 32]);

impl LinkKey {
    pub(crate) fn random() -> Self {
        Self(rand::random())
    }

    /// `target`, a path with its query, made into a link that holds until `expires`.
    pub(crate) fn sign(&self, tenant: &str, target: &str, expires: Timestamp) -> String {
        let separator = if target.contains('?') { '&' } else { '?' };
        let code = self.code(tenant, target, expires.micros()).finalize().into_bytes();
        let mut link = format!("{target}{separator}{PARAMETER}={}.", expires.micros());
        write!(link, "{}", Hex(&code)).expect("strings take all");
        link
    }

    fn code(&self, tenant: &str, target: &str, expires_us: i64) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(tenant.as_bytes());
        mac.update(&[0]);
        mac.update(&expires_us.to_be_bytes());
        mac.update(target.as_bytes());
        mac
    }

    /// The target that `link` was made for, where it holds.
    fn verify<'a>(&self, tenant: &str, link: &'a str, now: Timestamp) -> Option<&'a str> {
        let at = link.rfind(PARAMETER)?;
        let target = link[..at].strip_suffix(['?', '&'])?;
        let (expires, code) = link[at + PARAMETER.len()..].strip_prefix('=')?.split_once('.')?;
        let expires_us: i64 = expires.parse().ok()?;
        let code = parse_hex(code)?;
        self.code(tenant, target, expires_us).verify_slice(&code).ok()?;
        (now.micros() < expires_us).then_some(target)
    }
}

/// Checks a request's link, where it has one, and takes it off the address.
pub(crate) fn admit(app: &App, request: &mut Request) -> Result<(), Problem> {
    let signed =
        |query: &str| query.split('&').any(|pair| pair.split('=').next() == Some(PARAMETER));
    if !request.uri().query().is_some_and(signed) {
        return Ok(());
    }
    let refused = || Problem::new(Code::LinkInvalid, "Make a new one with POST /v1/links.");
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Err(refused());
    }
    let link = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    let target =
        app.links.verify(app.tenant_name.as_str(), &link, Timestamp::now()).ok_or_else(refused)?;
    *request.uri_mut() = target.parse::<Uri>().map_err(|_| refused())?;
    Ok(())
}

fn parse_hex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_holds_for_its_target_tenant_and_time_only() {
        let key = LinkKey::random();
        let at = |us| Timestamp::from_micros(us).unwrap();
        for target in ["/v1/events", "/v1/events?type=a&tag=b"] {
            let link = key.sign("dev", target, at(1000));
            assert_eq!(key.verify("dev", &link, at(999)), Some(target));
            assert_eq!(key.verify("dev", &link, at(1000)), None);
            assert_eq!(key.verify("other", &link, at(0)), None);
            assert_eq!(key.verify("dev", &link.replace("events", "streams"), at(0)), None);
            assert_eq!(key.verify("dev", &link.replace("1000.", "2000."), at(0)), None);
            assert_eq!(key.verify("dev", &format!("{link}&x=y"), at(0)), None);
            assert_eq!(LinkKey::random().verify("dev", &link, at(0)), None);
        }
    }
}
