//! What becomes of packets that are routed, of questions for external addresses, and of the host's own
//! connections out of those: as the programs `tc_ingress`, `tc_flow` and `tc_egress` do it, with what
//! is between them and the pure steps.

use vnet_common::{
    Addr, DropReason, FlowKey, Mac, NO_SLOT, PortConf, PortKind, nat::NatMatch, port,
    switch::SWITCH_ANSWERS,
};
use vnet_ebpf::{
    answer::{ADVERTISEMENT_LEN, ARP, ARP_LEN, advertisement, arp_reply, asks_for},
    decide::{Fate, Plan},
    flow::{
        icmp::{EMBEDDED, Store as _, error_v4, error_v6, is_one_host, translate_error},
        mss,
        reset::{may_reset, reset_v4, reset_v6},
        table::{FlowTable, NO_FLOW},
        translate::{Change, diff2, fold32, updated},
    },
    forward::{Action, Exit, forward},
    frame::{ETH_LEN, is_group},
    gateway::{AnswerKind, Gateway, Route, Work},
    ip::{IPV4, IPV4_LEN, IPV6, IPV6_LEN, Icmp, Ip, Part, TCP_SYN, proto},
    meta::Meta,
    nat::{Outcome, Step, Tell, arrive::arrive, host, rules::look_up},
    policy, route,
    settle::{settle_source, settle_verdict},
    tables::{Effects, Tables},
    window::Window as _,
};

use super::{
    Machine,
    packet::{Buffer, Skb},
};

/// Bytes that the kernel side pulls into the linear head of packets that may have to be routed
/// (`ROUTED` in vnet-ebpf/src/kernel/tc.rs).
pub(super) const ROUTED: usize = 98;
/// As [`ROUTED`], of packets that take more work (`WANTED` in vnet-ebpf/src/kernel/flow.rs).
const FLOW_PULLED: usize = 256;
/// As [`ROUTED`], of questions (vnet-ebpf/src/kernel/answer.rs).
const ASKED: usize = 90;

impl Machine {
    /// As `route_on` in vnet-ebpf/src/kernel/tc.rs.
    pub(super) fn route_on(&self, plan: &mut Plan, meta: &Meta, skb: &mut Skb<'_>) -> Action {
        skb.pull(ROUTED);
        let mut ip = Ip::EMPTY;
        let index = route::look(plan, meta, skb, self, &mut ip);
        settle_source(plan, meta, self);
        if index == NO_FLOW {
            return match self.answer(plan, meta, skb) {
                Some(action) => action,
                None => self.go_on(plan, meta, skb),
            };
        }
        let mut change = Change {
            index,
            ..Change::NONE
        };
        route::send(&ip, &mut change, plan, meta, self, skb)
    }

    /// As `route_on` in vnet-ebpf/src/kernel/xdp.rs.
    pub(super) fn route_at_xdp(&self, plan: &Plan, meta: &Meta, buffer: &mut Buffer) -> Action {
        let mut ip = Ip::EMPTY;
        let index = route::look(plan, meta, buffer, self, &mut ip);
        if index == NO_FLOW || !route::xdp_may_send(&ip, index, plan, self) {
            return Action::Pass;
        }
        settle_source(plan, meta, self);
        let mut change = Change {
            index,
            ..Change::NONE
        };
        match route::send(&ip, &mut change, plan, meta, self, buffer) {
            Action::Redirect(exit) => Action::Redirect(exit),
            _ => Action::Drop,
        }
    }

    /// As `run` in vnet-ebpf/src/kernel/flow.rs.
    pub(super) fn go_on(&self, plan: &mut Plan, meta: &Meta, skb: &mut Skb<'_>) -> Action {
        skb.pull(FLOW_PULLED);
        let mut work = self.gateway.work.borrow_mut();
        let mut outcome = if plan.stack_slot == NO_SLOT {
            Outcome::STACK
        } else {
            arrive(&mut work, plan, meta, skb, self)
        };
        if outcome == Outcome::STACK && plan.policed {
            outcome = policy::arrive::arrive(&mut work, plan, meta, skb, self);
            plan.related = work.related;
        }
        if outcome == Outcome::SEND || outcome == Outcome::FRAGMENT {
            work.change.index = work.index;
            if work.ip.tcp_flags & TCP_SYN != 0 {
                self.clamp_mss(&work, skb);
            }
            let Work { ip, change, .. } = &mut **work;
            route::send(ip, change, plan, meta, self, skb)
        } else if outcome == Outcome::STACK {
            settle_verdict(plan, meta, self);
            forward(plan, meta, self, skb).unwrap_or_else(|| self.flood(plan, meta, skb))
        } else if outcome == Outcome::RELATED {
            self.related(&mut work, plan, meta, skb)
        } else {
            let reason = DropReason::ALL[outcome.reason() as usize];
            self.count_drop(work.drop_slot, reason, meta.packets());
            let tell = match outcome.tell() {
                1 => Tell::Prohibited,
                2 => Tell::TooBig,
                3 => Tell::TimeExceeded,
                4 => Tell::Refused,
                _ => return Action::Drop,
            };
            self.tell(&mut work, plan, skb, tell)
                .unwrap_or(Action::Drop)
        }
    }

    /// As `clamp_mss` in vnet-ebpf/src/kernel/flow.rs.
    fn clamp_mss(&self, work: &Work, skb: &mut Skb<'_>) {
        let clamp = self.switch().map_or(0, |conf| conf.mss_clamp);
        let Some(entry) = self.flow(work.index).filter(|_| clamp != 0) else {
            return;
        };
        // SAFETY: the table's own entries.
        let mtu = unsafe {
            let own = (*entry).mtu;
            let peer = self.flow((*entry).peer);
            peer.map_or(own, |peer| (*peer).mtu.min(own))
        };
        let ip = &work.ip;
        let limit = mss::limit(clamp, mtu, ip.v6);
        let byte = |at: usize| skb.head(at + 1)?.last().copied();
        let Some((at, value)) = mss::find(ip, byte).filter(|(_, value)| *value > limit) else {
            return;
        };
        let (old, new) = (value.to_be_bytes(), limit.to_be_bytes());
        let checksum = usize::from(ip.l4) + 16;
        let Some(sum) = skb.at::<2>(checksum).copied() else {
            return;
        };
        let half = |mut bytes: [u8; 2]| {
            if (at - usize::from(ip.l4)) % 2 != 0 {
                bytes.reverse();
            }
            bytes
        };
        skb.store(checksum, &updated(sum, diff2(0, half(old), half(new))));
        skb.store(at, &new);
    }

    /// As `icmp_related` in vnet-ebpf/src/kernel/icmp.rs.
    fn related(&self, work: &mut Work, plan: &Plan, meta: &Meta, skb: &mut Skb<'_>) -> Action {
        let refused = |reason| {
            self.count_drop(plan.port.slot, reason, 1);
            Action::Drop
        };
        let Some(way) = route::begin_related(work, self) else {
            return refused(DropReason::NatIcmpUnrelated);
        };
        let Work {
            ip,
            inner,
            change,
            key,
            ..
        } = work;
        if !translate_error(skb, ip, inner, key, change) {
            return refused(DropReason::KernelRefused);
        }
        route::leave(ip, change, way, plan, meta, self, skb)
    }

    /// As `icmp_tell` there. `None` when nothing is told.
    fn tell(&self, work: &mut Work, plan: &Plan, skb: &mut Skb<'_>, tell: Tell) -> Option<Action> {
        let kind = if tell == Tell::Refused {
            AnswerKind::Reject
        } else {
            AnswerKind::Error
        };
        let ip = work.ip;
        let header = if ip.v6 { IPV6_LEN } else { IPV4_LEN };
        if ip.icmp == Icmp::Error
            || ip.part == Part::Later
            || usize::from(ip.l4) != usize::from(ip.l3) + header
            || usize::from(ip.l3) != ETH_LEN
            || !is_one_host(&ip.key.src)
            || !self.answer_take(kind)
        {
            return None;
        }
        if is_group(plan.frame.dst) || (tell == Tell::Refused && !is_one_host(&ip.key.dst)) {
            return None;
        }
        let back = self.port(plan.generation, plan.port.slot)?;
        let refused = tell == Tell::Refused;
        if refused && ip.key.proto == proto::TCP {
            return self.reset(&ip, plan, skb, back);
        }
        if refused || plan.stack_slot == NO_SLOT {
            let from = (ip.key.dst, plan.frame.dst);
            return self.embed(&ip, plan, skb, (Tell::Prohibited, 0), from, back);
        }
        let at = self.port(plan.generation, plan.stack_slot)?;
        let key = FlowKey {
            src: ip.key.dst,
            dst: ip.key.src,
            ..FlowKey::default()
        };
        let mut route = Route::NONE;
        self.route(at.ifindex, &key, &mut route);
        let from = if route.src == [0; 16] {
            ip.key.dst
        } else {
            route.src
        };
        self.embed(&ip, plan, skb, (tell, work.mtu), (from, at.mac), back)
    }

    /// The end of `icmp_tell` for what a rule rejects, with `reset` in vnet-ebpf/src/kernel/reset.rs.
    fn reset(&self, ip: &Ip, plan: &Plan, skb: &mut Skb<'_>, back: &PortConf) -> Option<Action> {
        if !may_reset(ip) {
            return None;
        }
        let mut bytes = [plan.frame.src, plan.frame.dst].concat();
        bytes.extend(plan.frame.ether_type.to_be_bytes());
        if ip.v6 {
            bytes.extend(reset_v6(ip));
        } else {
            bytes.extend(reset_v4(ip));
        }
        skb.become_bytes(bytes);
        Some(Action::Redirect(Exit::to(back)))
    }

    /// As `build` in vnet-ebpf/src/kernel/icmp.rs: an error that says `tell` about a packet with the MTU,
    /// from an IP and a MAC address.
    fn embed(
        &self,
        ip: &Ip,
        plan: &Plan,
        skb: &mut Skb<'_>,
        (tell, mtu): (Tell, u32),
        (from, mac): (Addr, Mac),
        back: &PortConf,
    ) -> Option<Action> {
        let header = if ip.v6 { IPV6_LEN } else { IPV4_LEN };
        let embedded = skb.head(ETH_LEN + header + EMBEDDED)?[ETH_LEN..].to_vec();
        let checksum = match ip.key.proto {
            proto::TCP => 16,
            proto::UDP => 6,
            _ => 0,
        };
        if checksum != 0 {
            skb.head(ETH_LEN + header + checksum + 2)?;
        }
        let words = embedded.chunks_exact(2);
        let sum: u64 = words
            .map(|pair| u64::from(u16::from_ne_bytes([pair[0], pair[1]])))
            .sum();
        let (sum, len) = (u64::from(fold32(sum)), embedded.len() as u16);
        let mut error = [plan.frame.src, mac].concat();
        error.extend(plan.frame.ether_type.to_be_bytes());
        if ip.v6 {
            error.extend(error_v6(tell, mtu, &from, &ip.key.src, sum, len));
        } else {
            error.extend(error_v4(tell, mtu, &from, &ip.key.src, sum, len));
        }
        error.extend(embedded);
        skb.become_bytes(error);
        Some(Action::Redirect(Exit::to(back)))
    }

    /// As `may_ask` and `answer` in vnet-ebpf/src/kernel/answer.rs. `None` leaves the frame as it was.
    pub(super) fn answer(&self, plan: &Plan, meta: &Meta, skb: &mut Skb<'_>) -> Option<Action> {
        let conf = self.switch()?;
        let answers = conf.flags[(conf.generation & 1) as usize] & SWITCH_ANSWERS != 0;
        let asks = is_group(plan.frame.dst)
            || plan.frame.ether_type == ARP
            || (plan.frame.ether_type == IPV6 && plan.stack_slot != NO_SLOT);
        let drops = plan.verdict.fate == Fate::Drop;
        if plan.port.kind != PortKind::Uplink || !asks || !answers || drops {
            return None;
        }
        skb.pull(ASKED);
        let mut work = self.gateway.work.borrow_mut();
        if !asks_for(plan, skb, &mut work.target) {
            return None;
        }
        let scope = plan.port.peer_slot;
        let generation = plan.generation;
        look_up(self, generation, NatMatch::Answer, scope, &work.target, 0)?;
        let stack = self.port(generation, scope)?;
        let back = self.port(generation, plan.port.slot)?;
        let l3 = plan.frame.payload_offset();
        let message = if plan.frame.ether_type == ARP {
            let request = skb.at::<ARP_LEN>(l3)?;
            let mut bytes = skb.head(skb.len())?.to_vec();
            bytes[l3..l3 + ARP_LEN].copy_from_slice(&arp_reply(request, &stack.mac));
            bytes
        } else {
            let source = *skb.at::<16>(l3 + 8)?;
            let mut reply = [0; ADVERTISEMENT_LEN];
            advertisement(&source, &work.target, &stack.mac, &mut reply);
            [skb.head(l3)?, &reply].concat()
        };
        let addresses = [plan.frame.src, stack.mac].concat();
        skb.become_bytes([&addresses, &message[12..]].concat());
        self.count_tx(plan.port.slot, 1, meta.len);
        Some(Action::Redirect(Exit::to(back)))
    }

    /// As `may_claim` and `host_claim` in vnet-ebpf/src/kernel/tc.rs.
    pub(super) fn claim_for_host(&self, plan: &Plan, meta: &Meta, skb: &mut Skb<'_>) {
        let leads_out = port::PORT_ROUTED | port::PORT_GATEWAY;
        let shares = self
            .port(plan.generation, plan.port.slot)
            .is_some_and(|at| at.flags & leads_out == port::PORT_ROUTED);
        if meta.redirected || !matches!(plan.frame.ether_type, IPV4 | IPV6) || !shares {
            return;
        }
        skb.pull(ROUTED);
        let mut work = self.gateway.work.borrow_mut();
        let read = self.step(Step::Read, &mut work, plan, skb);
        if read == Outcome::GO_ON && host::may_begin(&work.ip) {
            host::claim(&mut work, self);
        }
    }
}
