//! The store through its public face, on real files.

mod basics;
mod damage;
mod support;
