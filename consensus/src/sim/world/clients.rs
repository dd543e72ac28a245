//! Clients: each asks one thing at a time, again and elsewhere until it is answered. What they ask and are answered may be
//! lost on the way; what they ask may come twice, also long after they were answered.

use super::{Checked, Event, Host, PATIENCE_US, Reply, Workload, World};

impl<H: Host> World<H> {
    /// What is asked next; its number.
    pub(super) fn command(&mut self) -> u64 {
        let number = self.commands.len() as u64;
        let command = self.load.next(number);
        self.commands.push((command, self.now_us));
        number
    }

    /// How long something takes between a client and a replica; `None` where it is lost.
    fn way(&mut self) -> Option<u64> {
        let wait = self.config.delay_us + self.random.below(self.config.spread_us);
        let lost = self.healed_us.is_none() && self.random.per_mille(self.config.unheard);
        (!lost).then_some(wait)
    }

    pub(super) fn ask(&mut self, client: usize, number: u64) {
        let all = u64::from(self.config.replicas);
        let c = &mut self.clients[client];
        if c.number != number {
            return;
        }
        c.attempt += 1;
        let (replica, attempt) = ((u64::from(c.target) % all) as u8, c.attempt);
        self.at(PATIENCE_US, Event::Impatient { client, number, attempt });
        match self.way() {
            Some(wait) => self.at(wait, Event::Asked { replica, client, number }),
            None => self.count("requests lost"),
        }
        if self.healed_us.is_none() && self.random.per_mille(self.config.asked_twice) {
            let wait = self.random.between(1_000, 2_000_000);
            let replica = self.random.below(all) as u8;
            self.at(wait, Event::Asked { replica, client, number });
            self.count("requests repeated");
        }
    }

    pub(super) fn asked(&mut self, replica: u8, client: usize, number: u64) -> Checked {
        let now_us = self.wall_us(replica);
        let node = &mut self.nodes[usize::from(replica)];
        if node.deaf_until > self.now_us {
            self.count("requests lost");
            return Ok(());
        }
        let Some(host) = &mut node.host else { return Ok(()) };
        let id = (client as u64) << 40 | number;
        let (command, _) = &self.commands[number as usize];
        match host.submit(now_us, id, command) {
            Ok(true) => self.after(replica, Ok(())),
            Ok(false) => {
                if let Some(wait) = self.way() {
                    self.at(wait + 5_000, Event::Refused { client, number });
                }
                Ok(())
            }
            Err(stopped) => self.after(replica, Err(stopped)),
        }
    }

    pub(super) fn reply(
        &mut self,
        replica: u8,
        id: u64,
        reply: Reply<<H::Load as Workload>::Answer>,
    ) {
        let (client, number) = ((id >> 40) as usize, id & ((1 << 40) - 1));
        let mute = self.nodes[usize::from(replica)].mute_until > self.now_us;
        let Some(wait) = self.way().filter(|_| !mute) else {
            return self.count("replies lost");
        };
        self.sequence += 1;
        let token = self.sequence;
        self.replies.insert(token, reply);
        self.at(wait, Event::Answered { client, number, token });
    }

    pub(super) fn answer(&mut self, client: usize, number: u64, token: u64) {
        let Some(reply) = self.replies.remove(&token) else { return };
        let waits = self.clients[client].number == number;
        if self.clients[client].away_until > self.now_us {
            return self.count("replies missed");
        }
        match reply {
            Reply::Answer(answer) => {
                // An answer that nobody waits for any more has to be true all the same.
                let (command, asked_us) = &self.commands[number as usize];
                let asked = (number, command);
                if self.load.answered(asked, *asked_us, self.now_us, answer) {
                    self.count("retries answered from the log");
                }
                if waits {
                    self.next(client, number);
                } else {
                    self.count("answers to what was answered before");
                }
            }
            Reply::Again if waits => self.at(2_000, Event::Ask { client, number }),
            Reply::Lost if waits => self.elsewhere(client, number),
            Reply::Again | Reply::Lost => {}
        }
    }

    /// A client was answered, and asks something else.
    fn next(&mut self, client: usize, number: u64) {
        self.answered += 1;
        self.count("commands answered");
        self.note(8, &[client as u64, number]);
        if self.clients[client].attempt > 1 {
            self.count("commands asked again");
        }
        let number = self.command();
        let c = &mut self.clients[client];
        (c.number, c.attempt) = (number, 0);
        // What models look at is little, and spread over all that happens.
        let (traced, safe) = (self.told.is_some(), self.healed_us.is_none());
        let more = self.answered + self.config.clients <= self.config.commands;
        if more || (safe && !traced) {
            let wait = if traced { 300_000 } else { 1 + self.quiet() };
            self.at(wait, Event::Ask { client, number });
        }
    }

    /// How long clients still ask nothing new.
    fn quiet(&self) -> u64 {
        const EVERY_US: u64 = 3_000_000;
        let since = self.now_us % EVERY_US;
        let quiet = self.healed_us.is_none() && since >= EVERY_US - self.config.quiet_us;
        if quiet { EVERY_US - since } else { 0 }
    }

    pub(super) fn impatient(&mut self, client: usize, number: u64, attempt: u64) {
        let c = &self.clients[client];
        if c.away_until > self.now_us {
            let back = c.away_until - self.now_us;
            self.at(back, Event::Impatient { client, number, attempt });
        } else if c.attempt == attempt {
            self.elsewhere(client, number);
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
