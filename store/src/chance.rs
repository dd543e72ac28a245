//! What the store takes from chance and from the clock: salts, references, ids. One place, so that a simulation can
//! have the same ones each time.

use rand::distr::{Distribution, StandardUniform};

#[cfg(feature = "sim")]
thread_local! {
    /// Of the simulation that runs on this thread: its generator, and its time in microseconds.
    static SIMULATED: std::cell::RefCell<Option<(rand::rngs::StdRng, i64)>> =
        const { std::cell::RefCell::new(None) };
}

/// From here on this thread draws what follows from `seed`.
#[cfg(feature = "sim")]
pub(crate) fn simulate(seed: u64) {
    use rand::SeedableRng;
    SIMULATED.with_borrow_mut(|s| *s = Some((rand::rngs::StdRng::seed_from_u64(seed), 0)));
}

/// The simulation's time.
#[cfg(feature = "sim")]
pub(crate) fn set_now(now_us: i64) {
    SIMULATED.with_borrow_mut(|s| {
        if let Some((_, now)) = s {
            *now = now_us;
        }
    });
}

/// A random value.
pub(crate) fn random<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    #[cfg(feature = "sim")]
    if let Some(drawn) = SIMULATED.with_borrow_mut(|s| {
        use rand::RngExt;
        s.as_mut().map(|(generator, _)| generator.random())
    }) {
        return drawn;
    }
    rand::random()
}

/// Microseconds since 1970-01-01 UTC.
pub(crate) fn now_us() -> i64 {
    #[cfg(feature = "sim")]
    if let Some(now) = SIMULATED.with_borrow(|s| s.as_ref().map(|(_, now)| *now)) {
        return now;
    }
    jiff::Timestamp::now().as_microsecond()
}
