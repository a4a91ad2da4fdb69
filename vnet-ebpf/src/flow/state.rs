//! How far a connection is, and how long it lives (RFC 5382, RFC 4787, RFC 5508, RFC 7857).

use core::ptr;

use vnet_common::{
    FlowEntry, FlowState, FlowTimeouts,
    flow::{FLOW_INSIDE, FLOW_REPLY, FLOW_WATCHED, MARK_FIN, MARK_MIDDLE, MARK_SEQ},
};

use crate::{
    ip::{Ip, Part, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, proto},
    meta::Meta,
};

const ONE_WAY: u8 = FlowState::OneWay as u8;
const TWO_WAY: u8 = FlowState::TwoWay as u8;
const SYN_SENT: u8 = FlowState::SynSent as u8;
const SYN_RECEIVED: u8 = FlowState::SynReceived as u8;
const ESTABLISHED: u8 = FlowState::Established as u8;
const CLOSING: u8 = FlowState::Closing as u8;
const TIME_WAIT: u8 = FlowState::TimeWait as u8;

/// The state that a connection begins with.
#[inline(always)]
#[must_use]
pub const fn first(ip: &Ip) -> u8 {
    if ip.key.proto == proto::TCP {
        SYN_SENT
    } else {
        ONE_WAY
    }
}

/// The marks that its first direction begins with.
#[inline(always)]
#[must_use]
pub const fn first_marks(ip: &Ip) -> u8 {
    if ip.key.proto == proto::TCP && ip.tcp_flags & TCP_SYN == 0 {
        MARK_MIDDLE
    } else {
        0
    }
}

/// Whether a packet is the beginning of a TCP connection, or not TCP.
#[inline(always)]
#[must_use]
pub const fn begins(ip: &Ip) -> bool {
    ip.key.proto != proto::TCP || ip.tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST) == TCP_SYN
}

/// Whether neither direction had a packet for the state's time.
#[inline(always)]
#[must_use]
pub fn is_expired(
    entry: &FlowEntry,
    peer_seen_s: u32,
    now_s: u32,
    timeouts: &FlowTimeouts,
) -> bool {
    let seen_s = if entry.seen_s > peer_seen_s {
        entry.seen_s
    } else {
        peer_seen_s
    };
    is_stale(seen_s, now_s, timeouts.of(entry.key.proto, entry.state))
}

/// Whether a time is longer ago than `timeout_s`.
#[inline(always)]
#[must_use]
pub const fn is_stale(seen_s: u32, now_s: u32, timeout_s: u32) -> bool {
    // `now` may be read just before another CPU stored a later second: that is fresh.
    now_s.saturating_sub(seen_s) > timeout_s
}

/// Whether a packet leaves its connection's state as it is, so that only its own direction's entry is
/// written.
#[inline(always)]
#[must_use]
pub const fn is_steady(entry_state: u8, ip: &Ip, reply: bool) -> bool {
    match ip.key.proto {
        proto::TCP => {
            entry_state == ESTABLISHED && ip.tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST) == 0
        }
        _ => entry_state == TWO_WAY || !reply,
    }
}

/// Books a packet in its direction's entry.
///
/// # Safety
/// `entry` is valid. Two CPUs may book packets of one direction at once: a count may be lost then.
#[inline(always)]
pub unsafe fn book(entry: *mut FlowEntry, ip: &Ip, now_s: u32, meta: &Meta) {
    // SAFETY: the caller's promise; volatile, since other CPUs write too.
    unsafe {
        let seen = &raw mut (*entry).seen_s;
        if ptr::read_volatile(seen) != now_s {
            ptr::write_volatile(seen, now_s);
        }
        let count = &raw mut (*entry).packets;
        ptr::write_volatile(count, ptr::read_volatile(count) + u64::from(meta.packets()));
        let count = &raw mut (*entry).bytes;
        ptr::write_volatile(count, ptr::read_volatile(count) + u64::from(meta.len));
        if ip.key.proto == proto::TCP && !matches!(ip.part, Part::Later) {
            // What the IP header of a GSO buffer says is not to be relied on.
            let data = if meta.gso_size != 0 {
                meta.len
                    .wrapping_sub(u32::from(ip.l4))
                    .wrapping_sub(u32::from(ip.tcp_words) * 4)
            } else {
                ip.payload
            };
            let control = u32::from(ip.tcp_flags & (TCP_SYN | TCP_FIN) != 0);
            let end = ip.seq.wrapping_add(data).wrapping_add(control);
            let seq_end = &raw mut (*entry).seq_end;
            let marks = ptr::read_volatile(&raw const (*entry).marks);
            let known = ptr::read_volatile(seq_end);
            // What the inside answers a beginning with is where it begins, wherever it was before.
            let answers = (*entry).flags & (FLOW_REPLY | FLOW_INSIDE) == FLOW_REPLY | FLOW_INSIDE
                && ip.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN | TCP_ACK;
            // A RST does not move the window that it is judged by.
            if ip.tcp_flags & TCP_RST == 0
                && (marks & MARK_SEQ == 0 || answers || is_after(end, known))
            {
                ptr::write_volatile(seq_end, end);
            }
            if ip.tcp_flags & TCP_ACK != 0 && ip.tcp_flags & TCP_RST == 0 {
                ptr::write_volatile(&raw mut (*entry).ack, ip.ack);
            }
            if marks & MARK_SEQ == 0 {
                ptr::write_volatile(&raw mut (*entry).marks, marks | MARK_SEQ);
            }
        }
    }
}

/// Whether a sequence number is behind another one (RFC 9293, 3.4).
#[inline(always)]
const fn is_after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

/// Bytes by which a FIN may be ahead of the data that was seen before it: it may have overtaken some.
const AHEAD: u32 = 1 << 16;

/// Whether a sequence number is one that its sender can have come to: not behind what was acknowledged,
/// and not far ahead of what was sent. A forged one that is guessed is so once in 10⁴ times
/// (RFC 5961, 1.2; RFC 7857, 2.2).
///
/// # Safety
/// `entry` and `peer` are valid.
#[inline(always)]
unsafe fn is_in_window(entry: *mut FlowEntry, peer: *mut FlowEntry, seq: u32) -> bool {
    // SAFETY: the caller's promise.
    let (end, acked) = unsafe {
        (
            ptr::read_volatile(&raw const (*entry).seq_end),
            ptr::read_volatile(&raw const (*peer).ack),
        )
    };
    !is_after(acked, seq) && !is_after(seq, end.wrapping_add(AHEAD))
}

/// The state after a packet that is not steady. Marks a FIN in the direction's entry.
///
/// # Safety
/// `entry` and `peer` are valid.
#[inline(always)]
pub unsafe fn advance(entry: *mut FlowEntry, peer: *mut FlowEntry, ip: &Ip) {
    // SAFETY: the caller's promise.
    unsafe {
        let state = ptr::read_volatile(&raw const (*entry).state);
        let flags = ptr::read_volatile(&raw const (*entry).flags);
        let next = if ip.key.proto == proto::TCP {
            let marks = ptr::read_volatile(&raw const (*peer).marks);
            advance_tcp(entry, peer, ip, state, flags, marks)
        } else if flags & FLOW_REPLY != 0 {
            TWO_WAY
        } else {
            state
        };
        if next != state {
            ptr::write_volatile(&raw mut (*entry).state, next);
            ptr::write_volatile(&raw mut (*peer).state, next);
        }
    }
}

/// # Safety
/// `entry` and `peer` are valid.
#[inline(always)]
unsafe fn advance_tcp(
    entry: *mut FlowEntry,
    peer: *mut FlowEntry,
    ip: &Ip,
    state: u8,
    flags: u16,
    peer_marks: u8,
) -> u8 {
    let reply = flags & FLOW_REPLY != 0;
    let peer_fin = peer_marks & MARK_FIN != 0;
    let tcp = ip.tcp_flags;
    if tcp & TCP_RST != 0 {
        // A RST ends a connection only when it comes from the inside, where nobody but the
        // connection's own end can send it, and bears the number that its receiver waits for
        // (RFC 5961, 3.2) or the next one that its sender would have sent. Forged ones from outside
        // are passed on, and shorten nothing (RFC 7857, 2.2).
        // SAFETY: the caller's promise.
        let (sent, awaited) = unsafe {
            (
                ptr::read_volatile(&raw const (*entry).seq_end),
                ptr::read_volatile(&raw const (*peer).ack),
            )
        };
        let genuine = flags & FLOW_INSIDE != 0 && (ip.seq == sent || ip.seq == awaited);
        return if genuine && state == ESTABLISHED {
            CLOSING
        } else {
            state
        };
    }
    if tcp & TCP_SYN != 0 {
        return match state {
            // The answer, or a SYN from both ends at once (RFC 9293, 3.5).
            SYN_SENT if reply => SYN_RECEIVED,
            // The same ports again, for a new connection.
            CLOSING | TIME_WAIT if !reply && tcp & TCP_ACK == 0 => {
                // SAFETY: the caller's promise.
                unsafe {
                    ptr::write_volatile(&raw mut (*entry).marks, 0);
                    ptr::write_volatile(&raw mut (*peer).marks, 0);
                }
                SYN_SENT
            }
            // The inside answers one: its end of the old connection is gone. Not when the answer is sent
            // again.
            ESTABLISHED | CLOSING | TIME_WAIT
                if reply && flags & FLOW_INSIDE != 0 && tcp & TCP_ACK != 0 =>
            {
                // SAFETY: the caller's promise.
                unsafe {
                    if ip.seq.wrapping_add(1) == ptr::read_volatile(&raw const (*entry).seq_end) {
                        return state;
                    }
                    ptr::write_volatile(&raw mut (*entry).marks, 0);
                    ptr::write_volatile(&raw mut (*peer).marks, 0);
                }
                SYN_RECEIVED
            }
            _ => state,
        };
    }
    if tcp & TCP_FIN != 0 {
        // SAFETY: the caller's promise.
        if flags & FLOW_INSIDE == 0 && !unsafe { is_in_window(entry, peer, ip.seq) } {
            return state;
        }
        // SAFETY: the caller's promise.
        unsafe {
            let marks = &raw mut (*entry).marks;
            ptr::write_volatile(marks, ptr::read_volatile(marks) | MARK_FIN);
        }
        return match state {
            ESTABLISHED | SYN_RECEIVED if peer_fin => CLOSING,
            _ => state,
        };
    }
    match state {
        // Where the connection is counted once it is, with the right number alone.
        SYN_RECEIVED
            if !reply
                && tcp & TCP_ACK != 0
                && (flags & FLOW_WATCHED == 0
                    // SAFETY: the caller's promise.
                    || ip.ack == unsafe { ptr::read_volatile(&raw const (*peer).seq_end) }) =>
        {
            ESTABLISHED
        }
        SYN_SENT if reply && tcp & TCP_ACK != 0 && peer_marks & MARK_MIDDLE != 0 => ESTABLISHED,
        // Both FINs were seen: an acknowledgement of the other's ends it.
        CLOSING if tcp & TCP_ACK != 0 && peer_fin => {
            // SAFETY: the caller's promise.
            let (marks, end) = unsafe {
                (
                    ptr::read_volatile(&raw const (*entry).marks),
                    ptr::read_volatile(&raw const (*peer).seq_end),
                )
            };
            if marks & MARK_FIN != 0 && ip.ack == end {
                TIME_WAIT
            } else {
                state
            }
        }
        _ => state,
    }
}
