//! Every fixture, by theme.

mod bridging;
mod guard;
mod host;
mod limits;
mod mac;
mod nat;
mod policy;
mod storm;
mod uplink;
mod vlan;
mod xdp;

use crate::fixture::Fixture;

/// Every fixture, with its theme.
#[must_use]
pub fn all() -> Vec<(&'static str, Fixture)> {
    let themes = [
        ("bridging", bridging::fixtures()),
        ("vlan", vlan::fixtures()),
        ("mac", mac::fixtures()),
        ("guard", guard::fixtures()),
        ("uplink", uplink::fixtures()),
        ("host", host::fixtures()),
        ("xdp", xdp::fixtures()),
        ("storm", storm::fixtures()),
        ("limits", limits::fixtures()),
        ("nat", nat::fixtures()),
        ("policy", policy::fixtures()),
    ];
    themes
        .into_iter()
        .flat_map(|(theme, fixtures)| fixtures.into_iter().map(move |f| (theme, f)))
        .collect()
}
