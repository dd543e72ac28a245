//! What goes wrong in a world, when it is due.

use super::{Change, Failure, Fault, Harm, Host, Node, ReplicaId, World};

impl<H: Host> World<H> {
    pub(super) fn fault(&mut self, fault: Fault) {
        const KINDS: [&str; Fault::KINDS] = [
            "faults: crash",
            "faults: crash of all",
            "faults: partition",
            "faults: one-way link",
            "faults: pause",
            "faults: slow disk",
            "faults: clock",
            "faults: lost kind of message",
            "faults: damage",
            "faults: lost disk",
            "faults: timers that stand still",
            "faults: no way to or from clients",
            "faults: client away",
            "faults: disk failure",
            "operator: join",
            "operator: leave",
            "faults: failure while starting",
            "faults: harm",
        ];
        if self.healed_us.is_some() || self.waits(fault) {
            return;
        }
        self.tell(&format!("{fault:?}"));
        if !self.befall(fault) {
            return self.count("faults that did nothing");
        }
        self.count(KINDS[fault.kind()]);
        if !matches!(fault, Fault::Join { .. } | Fault::Leave { .. }) {
            self.count("faults");
        }
    }

    /// Something goes wrong; says whether it is felt: there may be nobody whom it could hit.
    fn befall(&mut self, fault: Fault) -> bool {
        let all = self.config.replicas;
        match fault {
            Fault::Crash { replica, after, down_ms } => {
                self.doom(replica, after, Failure::Power, down_ms)
            }
            Fault::DiskFails { replica, after, how, down_ms } => {
                let how = Failure::OTHERS[usize::from(how) % Failure::OTHERS.len()];
                self.doom(replica, after, how, down_ms)
            }
            Fault::CrashAll { down_ms } => {
                let up = |r: u8| self.doom(r, 0, Failure::Power, down_ms + u64::from(r));
                (0..all).map(up).fold(false, |any, up| any | up)
            }
            Fault::Partition { side, ms } => {
                self.block(ms, |from, to| side >> from & 1 != side >> to & 1)
            }
            Fault::OneWay { replica, hears, ms } => {
                self.block(ms, |from, to| replica == if hears { from } else { to })
            }
            Fault::Mute { kind, ms } => {
                self.network.mute(kind, self.now_us + ms * 1000);
                all > 1
            }
            Fault::Pause { replica, ms } => self.until(replica, ms, |n| &mut n.paused_until),
            Fault::SlowDisk { replica, ms } => self.until(replica, ms, |n| &mut n.slow_until),
            Fault::Stall { replica, ms } => self.until(replica, ms, |n| &mut n.stalled_until),
            Fault::Cut { replica, hears, ms } => self
                .until(replica, ms, |n| if hears { &mut n.mute_until } else { &mut n.deaf_until }),
            Fault::Clock { replica, by_us } => {
                self.set_clock(replica, by_us);
                true
            }
            Fault::Damage { replica, back, bit, down_ms } => {
                self.damage(replica, back, bit, down_ms)
            }
            Fault::BadStart { replica, after, how, down_ms } => {
                let others = Failure::OTHERS.get(usize::from(how));
                self.nodes[usize::from(replica)].starts_badly =
                    Some((after, others.copied().unwrap_or(Failure::Power), down_ms));
                self.power_off(replica, down_ms);
                true
            }
            Fault::Harm { replica, what, back, at, down_ms } => {
                let how = Harm::ALL[usize::from(what) % Harm::ALL.len()];
                self.harm(replica, how, (back, at), down_ms)
            }
            Fault::LoseDisk { replica, down_ms } => {
                self.lose_disk(replica, down_ms);
                true
            }
            Fault::Away { client, ms } => {
                let client = usize::from(client) % self.clients.len();
                self.clients[client].away_until = self.now_us + ms * 1000;
                true
            }
            Fault::Join { replica } => self.wants(Change::Add(ReplicaId(replica))),
            Fault::Leave { replica } => self.wants(Change::Remove(ReplicaId(replica))),
        }
    }

    /// Nothing gets from one replica to another for so long; says whether there are such two.
    fn block(&mut self, ms: u64, is: impl Fn(u8, u8) -> bool) -> bool {
        let (all, until) = (self.config.replicas, self.now_us + ms * 1000);
        let links = (0..all).flat_map(|a| (0..all).map(move |b| (a, b)));
        let links: Vec<_> = links.filter(|(a, b)| a != b && is(*a, *b)).collect();
        for (from, to) in &links {
            self.network.block(*from, *to, until);
        }
        !links.is_empty()
    }

    /// Something is wrong at a replica for so long; says whether it runs.
    fn until(&mut self, replica: u8, ms: u64, of: impl FnOnce(&mut Node<H>) -> &mut u64) -> bool {
        let node = &mut self.nodes[usize::from(replica)];
        *of(node) = self.now_us + ms * 1000;
        node.host.is_some()
    }
}
