//! The TC filters of an interface's clsact or ingress qdisc, whoever made them.

use anyhow::{Context as _, Result};

use super::link::Links;
use super::netlink::{Message, attributes, text, u32_at};

// linux/pkt_sched.h, TC_H_CLSACT and its halves.
const TC_H_CLSACT: u32 = 0xffff_0000;
const TC_H_MIN_INGRESS: u32 = 0xfff2;
const TC_H_MIN_EGRESS: u32 = 0xfff3;

// linux/rtnetlink.h, TCA_*.
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
// linux/pkt_cls.h.
const TCA_BPF_NAME: u16 = 7;

/// Size of `struct tcmsg`.
const TCMSG: usize = 20;

/// A filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Its kind, by the kernel's name: `bpf`, `flower`, `u32`.
    pub kind: String,
    /// Its place: lower ones come first.
    pub priority: u16,
    /// Its number in its kind.
    pub handle: u32,
    /// The name of the program of a `bpf` filter.
    pub program: Option<String>,
}

impl Links {
    /// The filters of interface `index` at ingress or, of clsact alone, at egress, in the order in
    /// which they are asked; empty where it has no such qdisc.
    ///
    /// # Errors
    /// When there is no such interface, or the kernel refuses.
    pub fn filters(&self, index: u32, egress: bool) -> Result<Vec<Filter>> {
        let half = if egress {
            TC_H_MIN_EGRESS
        } else {
            TC_H_MIN_INGRESS
        };
        let message = Message::new(libc::RTM_GETTFILTER, &tcmsg(index, TC_H_CLSACT | half));
        self.socket()
            .dump(&message, parse)
            .with_context(|| format!("listing the TC filters of interface number {index}"))
    }
}

/// `struct tcmsg`.
fn tcmsg(index: u32, parent: u32) -> [u8; TCMSG] {
    let mut header = [0; TCMSG];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[12..16].copy_from_slice(&parent.to_ne_bytes());
    header
}

/// Parses the payload of an RTM_NEWTFILTER message. None for the message that stands for a whole
/// priority, which has no handle, and for what is too short to be one.
fn parse(payload: &[u8]) -> Option<Filter> {
    let handle = u32_at(payload, 8).filter(|handle| *handle != 0)?;
    // Priority above, protocol below (linux/pkt_cls.h, TC_H_MAKE).
    let priority = (u32_at(payload, 16)? >> 16) as u16;
    let mut filter = Filter {
        kind: String::new(),
        priority,
        handle,
        program: None,
    };
    for (kind, value) in attributes(payload.get(TCMSG..)?) {
        match kind {
            TCA_KIND => filter.kind = text(value),
            TCA_OPTIONS if filter.kind == "bpf" => {
                filter.program = attributes(value)
                    .find(|(kind, _)| *kind == TCA_BPF_NAME)
                    .map(|(_, name)| text(name));
            }
            _ => {}
        }
    }
    Some(filter)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use anyhow::ensure;

    use super::super::testing::{create_veth, in_new_netns};
    use super::*;

    #[test]
    fn a_filter_is_read() {
        let mut payload = tcmsg(7, TC_H_CLSACT).to_vec();
        payload[8..12].copy_from_slice(&9u32.to_ne_bytes());
        payload[16..20].copy_from_slice(&(5u32 << 16 | 3).to_ne_bytes());
        payload.extend_from_slice(&[8, 0, 1, 0]);
        payload.extend_from_slice(b"bpf\0");
        // Options with a name in them.
        payload.extend_from_slice(&[16, 0, 2, 0, 12, 0, 7, 0]);
        payload.extend_from_slice(b"tc_prog\0");
        let filter = parse(&payload).expect("a whole message");
        assert_eq!((filter.kind.as_str(), filter.priority), ("bpf", 5));
        assert_eq!(filter.handle, 9);
        assert_eq!(filter.program.as_deref(), Some("tc_prog"));
        payload[8..12].fill(0);
        assert_eq!(parse(&payload), None, "a priority, not a filter");
        assert_eq!(parse(&payload[..10]), None);
    }

    #[test]
    fn filters_of_others_are_found() {
        in_new_netns(|| {
            create_veth("v0", "v1")?;
            let links = Links::open()?;
            let index = links.by_name("v0")?.context("it was made")?.index;
            ensure!(links.filters(index, false)?.is_empty(), "no qdisc yet");
            for line in [
                "tc qdisc add dev v0 clsact",
                "tc filter add dev v0 ingress pref 7 u32 match u32 0 0 classid 1:1",
            ] {
                let mut words = line.split(' ');
                let program = words.next().context("a program")?;
                let status = Command::new(program).args(words).status()?;
                ensure!(status.success(), "{line}");
            }
            let found = links.filters(index, false)?;
            ensure!(
                found
                    .iter()
                    .any(|filter| filter.kind == "u32" && filter.priority == 7),
                "{found:?}"
            );
            ensure!(links.filters(index, true)?.is_empty(), "none at egress");
            Ok(())
        });
    }
}
