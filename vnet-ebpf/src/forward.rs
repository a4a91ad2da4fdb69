//! Carries a settled plan out: edits the tag and sends the frame, to one port or to many.

use vnet_common::{DropReason, Mac, PortConf, PortKind, StormKind};

use crate::{
    decide::{Fate, Origin, Path, Plan, guards, is_guarded, is_other_side, is_stack, pass},
    flow::translate::Change,
    frame::Frame,
    gateway::Gateway,
    gso,
    ip::Ip,
    meta::{Meta, Tag},
    policy::{flood::Question, is_policed},
    tables::Effects,
    window::Window,
};

/// A frame that can be edited and sent.
pub trait Packet {
    /// Replaces the outer tag `from` by `to`. False when the kernel refuses.
    fn retag(&mut self, from: Tag, to: Tag) -> bool;
    /// Gives the frame another destination. False when the kernel refuses.
    fn readdress(&mut self, to: Mac) -> bool;
    /// Changes addresses, ports and the Ethernet header, with the checksums. False when the kernel
    /// refuses.
    fn translate(&mut self, ip: &Ip, change: &Change) -> bool;
    /// Sends a copy and keeps the frame. False when the kernel refuses.
    fn send_copy(&mut self, to: Exit) -> bool;
}

/// Where a frame leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// The interface.
    pub ifindex: u32,
    /// Into the interface, as if it had arrived there, instead of out of it.
    pub to_stack: bool,
    /// The interface is an uplink whose program will see the frame again: mark it.
    pub mark: bool,
}

/// What remains to be done with the frame itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Hand it to whatever is behind the hook.
    Pass,
    /// Drop it.
    Drop,
    /// Send it.
    Redirect(Exit),
    /// Have the kernel find the next hop on the interface and send it there.
    Neighbour(Exit),
}

impl Exit {
    /// Out of a port, or to the host's stack behind it.
    #[inline(always)]
    #[must_use]
    pub const fn to(port: &PortConf) -> Self {
        Self {
            ifindex: port.ifindex,
            to_stack: is_stack(port.kind),
            mark: matches!(port.kind, PortKind::Uplink | PortKind::UplinkHost),
        }
    }
}

/// Carries out what is not a flood. `None` for a flood: see [`Flood`].
#[inline(always)]
pub fn forward<T: Effects + ?Sized, P: Packet>(
    plan: &Plan,
    meta: &Meta,
    tables: &T,
    packet: &mut P,
) -> Option<Action> {
    Some(match plan.verdict.fate {
        Fate::Redirected | Fate::PassUp | Fate::ToHost | Fate::ToWire => Action::Pass,
        Fate::Drop => Action::Drop,
        Fate::Flood => return None,
        Fate::Forward => {
            let slot = plan.verdict.slot;
            let packets = meta.packets();
            if !packet.retag(plan.frame.tag, plan.frame.tag.with_vid(plan.verdict.vid)) {
                tables.count_drop(slot, DropReason::KernelRefused, packets);
                return Some(Action::Drop);
            }
            if plan.readdress && !readdress(plan, tables, packet) {
                tables.count_drop(slot, DropReason::KernelRefused, packets);
                return Some(Action::Drop);
            }
            tables.count_tx(slot, packets, meta.len);
            Action::Redirect(plan.exit)
        }
    })
}

/// Gives a frame for one of the host's addresses the one of the stack behind the exit, which takes
/// no other: a member NIC's own address is not the switch device's. False when the kernel refuses.
#[inline(always)]
fn readdress<T: Effects + ?Sized, P: Packet>(plan: &Plan, tables: &T, packet: &mut P) -> bool {
    tables
        .port(plan.generation, plan.verdict.slot)
        .is_some_and(|port| packet.readdress(port.mac))
}

/// A port that is to get a flooded frame.
#[derive(Clone, Copy, Debug)]
struct Pending {
    /// Whether there is one.
    waiting: bool,
    slot: u16,
    tag: Tag,
    exit: Exit,
}

impl Pending {
    const NOBODY: Self = Self {
        waiting: false,
        slot: 0,
        tag: Tag::NONE,
        exit: Exit {
            ifindex: 0,
            to_stack: false,
            mark: false,
        },
    };
}

/// A flood under way. The kernel walks the members with `bpf_loop`, so the state lives between
/// steps; the length on the wire is worked out before the first copy, since copying takes the
/// window away.
#[derive(Clone, Copy, Debug)]
pub struct Flood {
    generation: u32,
    segment: u16,
    from: Origin,
    frame: Frame,
    unknown_unicast: bool,
    guarded: bool,
    l3_len: u32,
    /// Bytes of the frame as it came.
    pub len: u32,
    /// Frames that it stands for.
    pub packets: u32,
    /// The tag that the frame has at this moment.
    tag: Tag,
    /// An edit failed, and which tag the frame has is not known: it goes nowhere any more.
    broken: bool,
    /// What members in security groups are asked.
    pub question: Question,
    /// The last port that is to get it: sent when the next one is found, or as the frame itself.
    pending: Pending,
    /// The frame itself goes on to the host or the wire behind the hook.
    keep: bool,
    /// A port would have taken it, had it fitted. No count: the verifier walks the loop until the
    /// state repeats.
    refused: bool,
    /// First member's index.
    pub first_member: u32,
    /// Number of members.
    pub member_count: u32,
}

impl Flood {
    /// Begins a flood in `flood`'s place, whatever that held before.
    #[inline(always)]
    pub fn begin<W: Window + ?Sized, T: Gateway + ?Sized>(
        flood: &mut Self,
        plan: &Plan,
        meta: &Meta,
        window: &W,
        tables: &T,
    ) {
        let (first_member, member_count, policed) = tables
            .segment(plan.generation, plan.segment)
            .map_or((0, 0, 0), |s| (s.first_member, s.member_count, s.policed));
        let (generation, segment) = (plan.generation, plan.segment);
        let guarded = match tables.switch() {
            Some(conf) if guards(conf, generation) => {
                is_guarded(&plan.frame, window, tables, generation, segment)
            }
            _ => false,
        };
        *flood = Self {
            generation: plan.generation,
            segment: plan.segment,
            from: plan.port,
            frame: plan.frame,
            unknown_unicast: matches!(plan.verdict.storm, StormKind::UnknownUnicast),
            guarded,
            l3_len: gso::wire_l3_len(meta, &plan.frame, window),
            len: meta.len,
            packets: meta.packets(),
            tag: plan.frame.tag,
            broken: false,
            question: Question::NONE,
            pending: Pending::NOBODY,
            keep: false,
            refused: false,
            first_member,
            member_count,
        };
        if policed != 0 {
            tables.ask_members(flood, plan, window);
        }
    }

    /// Half of the tables that it looks at.
    #[inline(always)]
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// Serves the `index`th member.
    #[inline(always)]
    pub fn step<T: Gateway + ?Sized, P: Packet>(&mut self, index: u32, tables: &T, packet: &mut P) {
        let Some(member) = tables.member(self.generation, self.first_member.wrapping_add(index))
        else {
            return;
        };
        let Some(target) = tables.port(self.generation, member.slot) else {
            return;
        };
        if pass(&self.from, target) != Path::Open {
            return;
        }
        // The host's own addresses are never unknown.
        if self.unknown_unicast && is_stack(target.kind) {
            return;
        }
        if is_other_side(&self.from, target) {
            self.keep = true;
            return;
        }
        let refused = if member.vid == 0 && self.frame.inner_tag {
            Some(DropReason::DoubleTag)
        } else if self.guarded && matches!(target.kind, PortKind::Uplink) {
            Some(DropReason::NatUntranslated)
        } else if !crate::decide::fits(self.l3_len, tables, self.generation, self.segment, target) {
            Some(DropReason::MtuExceeded)
        } else if is_policed(target) && !tables.member_admits(self, target.slot) {
            Some(DropReason::PolicyDenied)
        } else {
            None
        };
        if let Some(reason) = refused {
            tables.count_drop(target.slot, reason, self.packets);
            self.refused = true;
            return;
        }
        self.send_pending(tables, packet);
        self.pending = Pending {
            waiting: true,
            slot: target.slot,
            tag: self.frame.tag.with_vid(member.vid),
            exit: Exit::to(target),
        };
    }

    /// Sends a copy to the port that is waiting for one.
    #[inline(always)]
    fn send_pending<T: Effects + ?Sized, P: Packet>(&mut self, tables: &T, packet: &mut P) {
        if !self.pending.waiting {
            return;
        }
        let Pending {
            slot, tag, exit, ..
        } = self.pending;
        if self.retag(packet, tag) && packet.send_copy(exit) {
            tables.count_tx(slot, self.packets, self.len);
        } else {
            tables.count_drop(slot, DropReason::KernelRefused, self.packets);
        }
    }

    #[inline(always)]
    fn retag<P: Packet>(&mut self, packet: &mut P, to: Tag) -> bool {
        if !self.broken && self.tag != to {
            self.broken = !packet.retag(self.tag, to);
            self.tag = to;
        }
        !self.broken
    }

    /// Ends the flood: what becomes of the frame itself.
    #[inline(always)]
    pub fn end<T: Effects + ?Sized, P: Packet>(&mut self, tables: &T, packet: &mut P) -> Action {
        if self.keep {
            self.send_pending(tables, packet);
            if !self.retag(packet, self.frame.tag) {
                tables.count_drop(self.from.slot, DropReason::KernelRefused, self.packets);
                return Action::Drop;
            }
            if matches!(self.from.kind, PortKind::Uplink) {
                tables.count_to_host(self.from.slot, self.packets);
            }
            tables.count_tx(self.from.peer_slot, self.packets, self.len);
            return Action::Pass;
        }
        if !self.pending.waiting {
            // What was refused at its ports has been counted there, each with its reason.
            if !self.refused {
                tables.count_drop(self.from.slot, DropReason::NoDestination, self.packets);
            }
            return Action::Drop;
        }
        let Pending {
            slot, tag, exit, ..
        } = self.pending;
        if !self.retag(packet, tag) {
            tables.count_drop(slot, DropReason::KernelRefused, self.packets);
            return Action::Drop;
        }
        tables.count_tx(slot, self.packets, self.len);
        Action::Redirect(exit)
    }
}
