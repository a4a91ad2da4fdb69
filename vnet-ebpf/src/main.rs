//! The eBPF programs: the pipeline of the library joined to the kernel's hooks, maps and helpers.
//!
//! | program | hook | what it sees |
//! |---|---|---|
//! | `tc_ingress` | TC ingress of every port | what VMs and the wire send |
//! | `tc_flow` | none; `tc_ingress` goes on in it | packets for the gateway that take more work |
//! | `tc_egress` | TC egress of the switch device and of uplinks outside it | what the host sends |
//! | `xdp_uplink` | native XDP of uplinks | the wire, before the kernel builds a socket buffer |
//! | `control` | none; BPF_PROG_TEST_RUN | requests of userspace |
#![no_std]
#![no_main]
#![allow(
    missing_docs,
    reason = "aya's macros make entry points of their own, without"
)]
#![expect(
    internal_features,
    reason = "the BPF target has atomic add but core's atomics lack fetch_add there"
)]
#![feature(core_intrinsics)]

mod kernel;

use aya_ebpf::{
    bindings::{TC_ACT_OK, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use vnet_ebpf::meta::Hook;

/// TC ingress of a port.
#[classifier]
pub fn tc_ingress(ctx: TcContext) -> i32 {
    kernel::tc::run(&ctx, Hook::TcIngress)
}

/// TC egress of the switch device or of an uplink.
#[classifier]
pub fn tc_egress(ctx: TcContext) -> i32 {
    kernel::tc::run(&ctx, Hook::TcEgress)
}

/// Routing and translation of packets that `tc_ingress` does not know at once.
#[classifier]
pub fn tc_flow(ctx: TcContext) -> i32 {
    kernel::flow::run(&ctx)
}

/// Native XDP of an uplink. Declared able to take frames in several buffers, so that jumbo frames
/// do not keep it from being attached; those go up to TC.
#[xdp(frags)]
pub fn xdp_uplink(ctx: XdpContext) -> u32 {
    kernel::xdp::run(&ctx).unwrap_or(xdp_action::XDP_PASS)
}

/// Requests of userspace; see `vnet_common::control`.
#[classifier]
pub fn control(ctx: TcContext) -> i32 {
    kernel::control::run(&ctx);
    TC_ACT_OK
}

/// As `tc_ingress`, for BPF_PROG_TEST_RUN: see `vnet_ebpf::testing`.
#[cfg(feature = "testing")]
#[classifier]
pub fn test_tc_ingress(ctx: TcContext) -> i32 {
    kernel::testing::run(&ctx, Hook::TcIngress)
}

/// As `tc_egress`, for BPF_PROG_TEST_RUN: see `vnet_ebpf::testing`.
#[cfg(feature = "testing")]
#[classifier]
pub fn test_tc_egress(ctx: TcContext) -> i32 {
    kernel::testing::run(&ctx, Hook::TcEgress)
}

/// As `tc_flow`, for what `test_tc_ingress` goes on in.
#[cfg(feature = "testing")]
#[classifier]
pub fn test_tc_flow(ctx: TcContext) -> i32 {
    kernel::testing::run_flow(&ctx)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// bpf_check_mtu and bpf_loop came with licences of their own: the object is loaded as GPL, which
/// "Dual MIT/GPL" is to the kernel (kernel/bpf/core.c, license_is_gpl_compatible).
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
