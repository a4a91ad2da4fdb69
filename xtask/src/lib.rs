//! What the development commands (`cargo xtask …`) and the tests share: where things lie, how the
//! machine is made ready, network namespaces and real virtual machines.

pub mod guest;
pub mod netns;
pub mod package;
pub mod paths;
pub mod process;
pub mod setup;
