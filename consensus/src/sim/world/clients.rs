//! Clients: each asks one thing at a time, again and elsewhere until it is answered.

use super::{Checked, Event, Host, PATIENCE_US, Reply, Workload, World};

impl<H: Host> World<H> {
    pub(super) fn ask(&mut self, client: usize, number: u64) {
        let all = u64::from(self.config.replicas);
        let wait = self.config.delay_us + self.random.below(self.config.spread_us);
        let c = &mut self.clients[client];
        if c.number != number {
            return;
        }
        c.attempt += 1;
        let (replica, attempt) = ((u64::from(c.target) % all) as u8, c.attempt);
        self.at(wait, Event::Asked { replica, client, number });
        self.at(PATIENCE_US, Event::Impatient { client, number, attempt });
    }

    pub(super) fn asked(&mut self, replica: u8, client: usize, number: u64) -> Checked {
        let now_us = self.wall_us(replica);
        let Some(host) = &mut self.nodes[usize::from(replica)].host else { return Ok(()) };
        if self.clients[client].number != number {
            return Ok(());
        }
        let id = (client as u64) << 40 | number;
        let command = self.clients[client].command.clone();
        match host.submit(now_us, id, &command) {
            Ok(true) => self.after(replica, Ok(())),
            Ok(false) => {
                let wait = self.config.delay_us + self.random.below(self.config.spread_us);
                self.at(wait + 5_000, Event::Refused { client, number });
                Ok(())
            }
            Err(stopped) => self.after(replica, Err(stopped)),
        }
    }

    pub(super) fn reply(&mut self, id: u64, reply: Reply<<H::Load as Workload>::Answer>) {
        let (client, number) = ((id >> 40) as usize, id & ((1 << 40) - 1));
        let wait = self.config.delay_us + self.random.below(self.config.spread_us);
        self.sequence += 1;
        let token = self.sequence;
        self.replies.insert(token, reply);
        self.at(wait, Event::Answered { client, number, token });
    }

    pub(super) fn answer(&mut self, client: usize, number: u64, token: u64) {
        let Some(reply) = self.replies.remove(&token) else { return };
        if self.clients[client].number != number {
            return;
        }
        match reply {
            Reply::Answer(answer) => {
                let asked = self.clients[client].asked_us;
                let command = self.clients[client].command.clone();
                self.load.answered(&command, asked, self.now_us, answer);
                self.answered += 1;
                self.count("commands answered");
                self.note(8, &[client as u64, number]);
                if self.clients[client].attempt > 1 {
                    self.count("commands asked again");
                }
                let (next, now) = (self.asked, self.now_us);
                self.asked += 1;
                let command = self.load.next(next);
                let c = &mut self.clients[client];
                (c.number, c.command, c.asked_us, c.attempt) = (next, command, now, 0);
                if self.answered + (self.config.clients) <= self.config.commands
                    || self.healed_us.is_none()
                {
                    self.at(1, Event::Ask { client, number: next });
                }
            }
            Reply::Again => self.at(2_000, Event::Ask { client, number }),
            Reply::Lost => self.elsewhere(client, number),
        }
    }

    /// Asks another replica.
    pub(super) fn elsewhere(&mut self, client: usize, number: u64) {
        let all = self.config.replicas;
        let c = &mut self.clients[client];
        if c.number == number {
            c.target = (c.target + 1) % all;
            self.at(1_000, Event::Ask { client, number });
        }
    }
}
