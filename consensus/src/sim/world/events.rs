//! To whom an event happens, and what is put off.

use super::{Checked, Event, Host, World};

impl<H: Host> World<H> {
    /// Puts off what is for a replica that is paused.
    fn paused(&mut self, replica: u8) -> Option<u64> {
        let until = self.nodes[usize::from(replica)].paused_until;
        (until > self.now_us).then(|| until - self.now_us)
    }

    pub(super) fn happen(&mut self, event: Event) -> Checked {
        let replica = match &event {
            Event::Tick { replica, .. }
            | Event::Scrub { replica, .. }
            | Event::Work { replica, .. }
            | Event::Seal { replica, .. }
            | Event::Asked { replica, .. } => Some(*replica),
            Event::Arrive(arrival) => Some(arrival.to),
            Event::Follow { .. }
            | Event::Fault(_)
            | Event::Operate(_)
            | Event::PowerOff { .. }
            | Event::PowerOn { .. }
            | Event::Replace { .. }
            | Event::Ask { .. }
            | Event::Answered { .. }
            | Event::Refused { .. }
            | Event::Impatient { .. }
            | Event::Heal => None,
        };
        if let Some(wait) = replica.and_then(|r| self.paused(r)) {
            self.at(wait, event);
            return Ok(());
        }
        match event {
            Event::Tick { replica, run } => self.tick(replica, run),
            Event::Scrub { replica, run } => {
                let due = self.nodes[usize::from(replica)].run == run;
                if due { self.scrub(replica) } else { Ok(()) }
            }
            Event::Follow { follower } => self.follow(follower),
            Event::Arrive(arrival) => self.arrive(&arrival),
            Event::Work { replica, run } => self.work(replica, run),
            Event::Seal { replica, run } => self.seal(replica, run),
            Event::Fault(fault) => {
                self.fault(fault);
                Ok(())
            }
            Event::Operate(change) => self.operate(change),
            Event::PowerOff { replica, run, down_ms } => {
                if self.nodes[usize::from(replica)].run == run {
                    self.power_off(replica, down_ms);
                }
                Ok(())
            }
            Event::PowerOn { replica } => self.power_on(replica),
            Event::Replace { replica } => {
                self.replace(replica);
                Ok(())
            }
            Event::Ask { client, number } => {
                self.ask(client, number);
                Ok(())
            }
            Event::Asked { replica, client, number } => self.asked(replica, client, number),
            Event::Answered { client, number, token } => {
                self.answer(client, number, token);
                Ok(())
            }
            Event::Refused { client, number } => {
                self.elsewhere(client, number);
                Ok(())
            }
            Event::Impatient { client, number, attempt } => {
                self.impatient(client, number, attempt);
                Ok(())
            }
            Event::Heal => self.heal(),
        }
    }
}
