//! `nat add static`: an address or a prefix stands for another one, with all its ports and protocols.
