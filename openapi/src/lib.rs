//! The OpenAPI document lies beside this crate as `openapi.json`; the tests here hold it to the running router.
