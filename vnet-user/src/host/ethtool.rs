//! Drivers, offloads and queues of an interface, by the SIOCETHTOOL ioctl (linux/ethtool.h).
//!
//! Offloads are read and set by the names that the kernel gives them (GFEATURES, SFEATURES and the
//! string set ETH_SS_FEATURES, 2.6.39), not by the older GFLAGS and per-offload commands: only the
//! former say whether a feature is fixed.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context as _, Result, bail, ensure};

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETH_SS_FEATURES: u32 = 4;
const ETH_GSTRING_BYTES: usize = 32;

/// An offload, or several that matter as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Received checksums are checked by the device.
    RxChecksum,
    /// TCP and UDP checksums are left to the device: frames before it carry unfinished ones.
    TxChecksum,
    /// Frames in several pieces of memory.
    ScatterGather,
    /// TCP segmentation by the device.
    Tso,
    /// Segmentation by the stack, as late as possible.
    Gso,
    /// Received segments are joined by the stack, reversibly.
    Gro,
    /// Received segments are joined by the device, reversibly.
    GroHardware,
    /// Received segments are joined by the driver, irreversibly: not for frames that are forwarded.
    Lro,
    /// VLAN tags are taken out of received frames.
    RxVlan,
    /// VLAN tags of sent frames stay beside them.
    TxVlan,
    /// Frames of VLANs that nobody registered are dropped by the device.
    RxVlanFilter,
}

impl Feature {
    /// The kernel's names for it (net/ethtool/common.c, netdev_features_strings).
    fn kernel_names(self) -> &'static [&'static str] {
        match self {
            Self::RxChecksum => &["rx-checksum"],
            Self::TxChecksum => &[
                "tx-checksum-ipv4",
                "tx-checksum-ip-generic",
                "tx-checksum-ipv6",
            ],
            Self::ScatterGather => &["tx-scatter-gather"],
            Self::Tso => &["tx-tcp-segmentation", "tx-tcp6-segmentation"],
            Self::Gso => &["tx-generic-segmentation"],
            Self::Gro => &["rx-gro"],
            Self::GroHardware => &["rx-gro-hw"],
            Self::Lro => &["rx-lro"],
            Self::RxVlan => &["rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"],
            Self::TxVlan => &["tx-vlan-hw-insert", "tx-vlan-stag-hw-insert"],
            Self::RxVlanFilter => &["rx-vlan-filter", "rx-vlan-stag-filter"],
        }
    }
}

impl fmt::Display for Feature {
    /// The short name that `ethtool -K` takes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RxChecksum => "rx",
            Self::TxChecksum => "tx",
            Self::ScatterGather => "sg",
            Self::Tso => "tso",
            Self::Gso => "gso",
            Self::Gro => "gro",
            Self::GroHardware => "rx-gro-hw",
            Self::Lro => "lro",
            Self::RxVlan => "rxvlan",
            Self::TxVlan => "txvlan",
            Self::RxVlanFilter => "rx-vlan-filter",
        })
    }
}

/// Which offloads are in effect. Where a [`Feature`] stands for several, any of them counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// [`Feature::RxChecksum`].
    pub rx_checksum: bool,
    /// [`Feature::TxChecksum`].
    pub tx_checksum: bool,
    /// [`Feature::ScatterGather`].
    pub scatter_gather: bool,
    /// [`Feature::Tso`].
    pub tso: bool,
    /// [`Feature::Gso`].
    pub gso: bool,
    /// [`Feature::Gro`].
    pub gro: bool,
    /// [`Feature::GroHardware`].
    pub gro_hardware: bool,
    /// [`Feature::Lro`].
    pub lro: bool,
    /// [`Feature::RxVlan`].
    pub rx_vlan: bool,
    /// [`Feature::TxVlan`].
    pub tx_vlan: bool,
    /// [`Feature::RxVlanFilter`].
    pub rx_vlan_filter: bool,
}

/// Queues in use. A driver counts a queue pair as combined, or its halves apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channels {
    /// Receive queues in use.
    pub rx: u32,
    /// Transmit queues in use.
    pub tx: u32,
}

/// The driver of `interface`, such as `virtio_net`, `veth` or `tun`; None where it has no name.
///
/// # Errors
/// When there is no such interface.
pub fn driver(interface: &str) -> Result<Option<String>> {
    // struct ethtool_drvinfo, 196 bytes: the driver's name is the 32 after the command.
    let mut data = [0u32; 49];
    data[0] = ETHTOOL_GDRVINFO;
    match Device::open(interface)?.ioctl(&mut data) {
        Ok(_) => {
            let bytes: Vec<u8> = data[1..9]
                .iter()
                .flat_map(|word| word.to_ne_bytes())
                .collect();
            let end = bytes
                .iter()
                .position(|&byte| byte == 0)
                .unwrap_or(bytes.len());
            let name = String::from_utf8_lossy(&bytes[..end]).into_owned();
            Ok(Some(name).filter(|name| !name.is_empty()))
        }
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("asking for the driver of {interface}")),
    }
}

/// The offloads of `interface` that are in effect.
///
/// # Errors
/// When there is no such interface.
pub fn get(interface: &str) -> Result<Features> {
    let state = FeatureState::read(&Device::open(interface)?)
        .with_context(|| format!("reading the offloads of {interface}"))?;
    let on = |feature| state.is_on(feature);
    Ok(Features {
        rx_checksum: on(Feature::RxChecksum),
        tx_checksum: on(Feature::TxChecksum),
        scatter_gather: on(Feature::ScatterGather),
        tso: on(Feature::Tso),
        gso: on(Feature::Gso),
        gro: on(Feature::Gro),
        gro_hardware: on(Feature::GroHardware),
        lro: on(Feature::Lro),
        rx_vlan: on(Feature::RxVlan),
        tx_vlan: on(Feature::TxVlan),
        rx_vlan_filter: on(Feature::RxVlanFilter),
    })
}

/// Switches an offload of `interface` and returns whether it was on before.
///
/// # Errors
/// When there is no such interface; when the offload is fixed in its driver and is not as wanted;
/// when the driver took the wish but other offloads, or an attached program, forbid it. In the last
/// case the wish stays recorded, as with `ethtool -K`.
pub fn set(interface: &str, feature: Feature, on: bool) -> Result<bool> {
    let word = if on { "on" } else { "off" };
    let doing = || format!("switching {feature} {word} on {interface}");
    let device = Device::open(interface)?;
    let before = FeatureState::read(&device).with_context(doing)?;
    let was_on = before.is_on(feature);
    if was_on == on {
        return Ok(was_on);
    }
    let bits = before.bits(feature);
    let change: Vec<usize> = bits
        .iter()
        .copied()
        .filter(|&bit| before.available(bit) && before.active(bit) != on)
        .collect();
    let fixed = bits
        .iter()
        .any(|&bit| before.active(bit) && !before.available(bit));
    if change.is_empty() || (!on && fixed) {
        let driver = driver(interface)?.unwrap_or_else(|| "unknown".to_owned());
        bail!(
            "{}: the driver ({driver}) has it fixed {}",
            doing(),
            if on { "off" } else { "on" }
        );
    }
    before.request(&device, &change, on).with_context(doing)?;
    let after = FeatureState::read(&device).with_context(doing)?;
    ensure!(
        after.is_on(feature) == on,
        "{}: the driver took the wish, but another offload or an attached program forbids it; \
         `ethtool -k {interface}` shows it as requested",
        doing()
    );
    Ok(was_on)
}

/// Switches large receive offload and returns whether it was on before. See [`set`].
///
/// # Errors
/// As [`set`].
pub fn set_lro(interface: &str, on: bool) -> Result<bool> {
    set(interface, Feature::Lro, on)
}

/// Switches the stripping of VLAN tags from received frames and returns whether it was on before.
/// Native XDP sees a tag only while it is off. See [`set`].
///
/// # Errors
/// As [`set`].
pub fn set_rx_vlan(interface: &str, on: bool) -> Result<bool> {
    set(interface, Feature::RxVlan, on)
}

/// The queues of `interface` in use; None where the driver does not say (bridges).
///
/// # Errors
/// When there is no such interface.
pub fn channels(interface: &str) -> Result<Option<Channels>> {
    // struct ethtool_channels: command, four maxima, then rx, tx, other, combined.
    let mut data = [0u32; 9];
    data[0] = ETHTOOL_GCHANNELS;
    match Device::open(interface)?.ioctl(&mut data) {
        Ok(_) => Ok(Some(Channels {
            rx: data[5] + data[8],
            tx: data[6] + data[8],
        })),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("asking for the queues of {interface}")),
    }
}

/// The kernel's feature names and one interface's state, a bit each.
struct FeatureState {
    /// In the order of the bits. The same for every interface of a running kernel.
    names: Vec<String>,
    /// `struct ethtool_get_features_block`s: available, requested, active, never changed.
    blocks: Vec<[u32; 4]>,
}

impl FeatureState {
    fn read(device: &Device) -> io::Result<Self> {
        let names = feature_names(device)?;
        let blocks = names.len().div_ceil(32);
        let mut data = vec![0u32; 2 + 4 * blocks];
        data[0] = ETHTOOL_GFEATURES;
        data[1] = blocks as u32;
        device.ioctl(&mut data)?;
        let blocks = data[2..].as_chunks().0.to_vec();
        Ok(Self { names, blocks })
    }

    fn bits(&self, feature: Feature) -> Vec<usize> {
        let wanted = feature.kernel_names();
        let bits = self.names.iter().enumerate();
        bits.filter(|(_, name)| wanted.contains(&name.as_str()))
            .map(|(bit, _)| bit)
            .collect()
    }

    fn available(&self, bit: usize) -> bool {
        self.blocks[bit / 32][0] & (1 << (bit % 32)) != 0
    }

    fn active(&self, bit: usize) -> bool {
        self.blocks[bit / 32][2] & (1 << (bit % 32)) != 0
    }

    fn is_on(&self, feature: Feature) -> bool {
        self.bits(feature).into_iter().any(|bit| self.active(bit))
    }

    /// Asks for `bits` to be switched. Success says that the wish was recorded, no more.
    fn request(&self, device: &Device, bits: &[usize], on: bool) -> io::Result<()> {
        let blocks = self.blocks.len();
        let mut data = vec![0u32; 2 + 2 * blocks];
        data[0] = ETHTOOL_SFEATURES;
        data[1] = blocks as u32;
        for bit in bits {
            // struct ethtool_set_features_block: valid, requested.
            let block = 2 + 2 * (bit / 32);
            data[block] |= 1 << (bit % 32);
            if on {
                data[block + 1] |= 1 << (bit % 32);
            }
        }
        device.ioctl(&mut data).map(|_| ())
    }
}

fn feature_names(device: &Device) -> io::Result<Vec<String>> {
    // struct ethtool_sset_info: command, reserved, a 64-bit mask, then a count a bit of the mask.
    let mask = (1u64 << ETH_SS_FEATURES).to_ne_bytes();
    let [a, b, c, d, e, f, g, h] = mask;
    let mut data = [
        ETHTOOL_GSSET_INFO,
        0,
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        0,
    ];
    device.ioctl(&mut data)?;
    let count = data[4] as usize;

    // struct ethtool_gstrings: command, set, count, strings. The kernel writes as many as there
    // are, whatever was asked for, so the buffer has to follow what it said just now; the set is
    // built into the kernel and cannot grow between the two calls.
    let mut data = vec![0u32; 3 + count * ETH_GSTRING_BYTES / 4];
    data[0] = ETHTOOL_GSTRINGS;
    data[1] = ETH_SS_FEATURES;
    data[2] = count as u32;
    device.ioctl(&mut data)?;
    let bytes: Vec<u8> = data[3..]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    let strings = bytes.as_chunks::<ETH_GSTRING_BYTES>().0;
    Ok(strings
        .iter()
        .map(|string| {
            let end = string
                .iter()
                .position(|&byte| byte == 0)
                .unwrap_or(string.len());
            String::from_utf8_lossy(&string[..end]).into_owned()
        })
        .collect())
}

/// An interface, and a socket in its namespace to reach it by.
struct Device {
    socket: OwnedFd,
    request: libc::ifreq,
}

impl Device {
    fn open(interface: &str) -> Result<Self> {
        // SAFETY: ifreq is a name and a union of plain integers and pointers; zeros are a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        ensure!(
            !interface.is_empty()
                && interface.len() < request.ifr_name.len()
                && !interface.contains('\0'),
            "{interface:?} is not an interface name: it has 1 to 15 bytes"
        );
        for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
            *to = from as libc::c_char;
        }
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
        // A netlink socket takes device ioctls like any other, and exists without IPv4 too.
        // SAFETY: takes no pointers; the result is checked below.
        let raw = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_GENERIC) };
        if raw < 0 {
            return Err(io::Error::last_os_error()).context("opening a socket for ethtool");
        }
        // SAFETY: `raw` was just opened and belongs to nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        Ok(Self { socket, request })
    }

    /// Runs the ethtool command in `data[0]`. `data` must hold the whole structure of that command,
    /// with the room for what the kernel appends.
    fn ioctl(&self, data: &mut [u32]) -> io::Result<libc::c_int> {
        let mut request = self.request;
        request.ifr_ifru.ifru_data = data.as_mut_ptr().cast();
        // SAFETY: the request is a live ifreq; its data pointer is to `data`, which outlives the
        // call and, by the callers' contract, is as large as the command needs.
        let result = unsafe {
            libc::ioctl(
                self.socket.as_raw_fd(),
                libc::SIOCETHTOOL as _,
                &raw mut request,
            )
        };
        if result < 0 {
            let error = io::Error::last_os_error();
            return Err(match error.raw_os_error() {
                Some(libc::EPERM) => io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "needs CAP_NET_ADMIN in this network namespace; run it with sudo",
                ),
                _ => error,
            });
        }
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::super::link::Links;
    use super::super::testing::{Tap, create_veth, in_new_netns, without_capabilities};
    use super::*;

    #[test]
    fn drivers() {
        in_new_netns(|| {
            create_veth("v0", "v1")?;
            Links::open()?.create_bridge("br0", [2, 0, 0, 0, 0, 1])?;
            let _tap = Tap::new("t0")?;
            assert_eq!(driver("v0")?.as_deref(), Some("veth"));
            assert_eq!(driver("br0")?.as_deref(), Some("bridge"));
            assert_eq!(driver("t0")?.as_deref(), Some("tun"));
            let error = format!("{:#}", driver("none").expect_err("there is none"));
            assert!(
                error.contains("none") && error.contains("No such device"),
                "{error}"
            );
            assert!(driver("").is_err());
            assert!(driver("a-name-too-long-to-be").is_err());
            Ok(())
        });
    }

    #[test]
    fn offloads_of_a_veth() {
        in_new_netns(|| {
            create_veth("v0", "v1")?;
            let fresh = get("v0")?;
            assert!(
                fresh.tx_checksum && fresh.tx_vlan && fresh.gso && fresh.tso,
                "{fresh:?}"
            );
            assert!(
                !fresh.gro && !fresh.lro,
                "off by default since 5.13: {fresh:?}"
            );

            assert!(!set("v0", Feature::Gro, true)?);
            assert!(get("v0")?.gro);
            assert!(set("v0", Feature::Gro, true)?, "on already");
            assert!(set("v0", Feature::TxVlan, false)?);
            assert!(set("v0", Feature::TxChecksum, false)?);
            let changed = get("v0")?;
            assert!(!changed.tx_vlan && !changed.tx_checksum, "{changed:?}");
            assert!(get("v1")?.tx_checksum, "the other end has its own");

            assert!(set_rx_vlan("v0", false)?);
            assert!(!get("v0")?.rx_vlan);
            assert!(!set_rx_vlan("v0", true)?);
            assert!(get("v0")?.rx_vlan);
            Ok(())
        });
    }

    #[test]
    fn a_fixed_offload_says_so() {
        in_new_netns(|| {
            create_veth("v0", "v1")?;
            assert!(!set_lro("v0", false)?, "fixed, but as wanted");
            let error = format!("{:#}", set_lro("v0", true).expect_err("veth has no LRO"));
            assert_eq!(
                error,
                "switching lro on on v0: the driver (veth) has it fixed off"
            );
            Ok(())
        });
    }

    #[test]
    fn a_change_without_privilege_names_the_mend() {
        in_new_netns(|| {
            create_veth("v0", "v1")?;
            without_capabilities(|| {
                let error = set("v0", Feature::Gro, true).expect_err("not permitted");
                assert!(format!("{error:#}").contains("sudo"), "{error:#}");
                assert!(!get("v0")?.gro, "looking needs none");
                Ok(())
            })
        });
    }

    #[test]
    fn a_wish_that_another_offload_forbids_says_so() {
        in_new_netns(|| {
            create_veth("v0", "v1")?;
            set("v0", Feature::TxChecksum, false)?;
            // Segmentation needs checksums (net/core/dev.c, netdev_fix_features).
            assert!(!get("v0")?.tso);
            let error = set("v0", Feature::Tso, true).expect_err("checksums are off");
            assert!(format!("{error:#}").contains("forbids"), "{error:#}");
            Ok(())
        });
    }

    #[test]
    fn queues() {
        in_new_netns(|| {
            create_veth("v0", "v1")?;
            Links::open()?.create_bridge("br0", [2, 0, 0, 0, 0, 1])?;
            let _tap = Tap::new("t0")?;
            assert_eq!(channels("v0")?, Some(Channels { rx: 1, tx: 1 }));
            assert_eq!(channels("t0")?, Some(Channels { rx: 1, tx: 1 }));
            assert_eq!(channels("br0")?, None);
            assert!(channels("none").is_err());
            Ok(())
        });
    }
}
