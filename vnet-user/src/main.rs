//! `vnet-user`.

use std::process::ExitCode;

fn main() -> ExitCode {
    vnet_user::main()
}
