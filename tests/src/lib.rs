//! Support for the tests of vnet.
