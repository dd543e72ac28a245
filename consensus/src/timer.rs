//! When something is due. Time is an argument: milliseconds that never go back, from wherever they count.

/// Something that is due from time to time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timer {
    due_ms: u64,
}

impl Timer {
    /// Due so much later than now.
    pub(crate) const fn after(now_ms: u64, wait_ms: u64) -> Self {
        Self { due_ms: now_ms + wait_ms }
    }

    /// Whether it is due; if so, it is due again after `wait_ms`.
    pub(crate) const fn fires(&mut self, now_ms: u64, wait_ms: u64) -> bool {
        let due = self.is_due(now_ms);
        if due {
            self.due_ms = now_ms + wait_ms;
        }
        due
    }

    /// Whether it is due.
    pub(crate) const fn is_due(self, now_ms: u64) -> bool {
        now_ms >= self.due_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_fires_once_each_time_it_is_due() {
        let mut timer = Timer::after(10, 5);
        assert!(!timer.fires(14, 5));
        assert!(timer.fires(15, 5));
        assert!(!timer.fires(19, 5));
        assert!(timer.fires(40, 5), "late is due too");
        assert!(!timer.is_due(44) && timer.is_due(45));
    }
}
