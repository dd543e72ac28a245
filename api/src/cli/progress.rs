//! How far long work has come, on standard error: a bar on a terminal, now and then a line elsewhere.

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Bar {
    bar: ProgressBar,
    last_line: Instant,
}

impl Bar {
    pub(super) fn new() -> Self {
        let bar = if io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("{bar:40} {percent}% {msg} {eta}");
            ProgressBar::new(0).with_style(style.expect("the template is well-formed"))
        } else {
            ProgressBar::hidden()
        };
        Self { bar, last_line: Instant::now() }
    }

    pub(super) fn went_on(&mut self, done: u64, all: u64, what: &str) {
        self.bar.set_length(all);
        self.bar.set_position(done);
        if self.bar.message() != what {
            self.bar.set_message(what.to_owned());
        }
        if self.bar.is_hidden() && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            eprintln!("{}% {what}", (done * 100).checked_div(all).unwrap_or(100));
        }
    }

    /// Prints something beside it.
    pub(super) fn suspend(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }

    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
