//! Builds the eBPF object with the wrapper programs that tests need (feature `testing`). The shipped
//! object comes with `vnet-user`.

include!("../vnet-ebpf/build_object.rs");

fn main() {
    build_object("testing", "VNET_TESTING_OBJECT");
}
