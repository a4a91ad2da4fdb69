//! `config …`: the document as a whole.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `config …`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the document as it is, comments included
    Export,
    /// Say whether a document is right; needs no privileges and changes nothing
    Check {
        /// The document; - is standard input
        file: PathBuf,
    },
    /// Show what applying a document would change: exit code 0 for nothing, 1 for something, 2 for an
    /// error
    Diff {
        /// The document; - is standard input
        file: PathBuf,
    },
    /// Replace the document, and make the kernel equal to it: all of it or nothing
    Apply(ApplyArgs),
    /// Keep what `apply --confirm` applied
    Confirm,
    /// Apply a document that was kept before a change
    Rollback {
        /// Its id, as `config list` shows it [default: the last]
        id: Option<u32>,
    },
    /// List the documents that were kept, each before a change
    List,
}

/// `config apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// The document; - is standard input
    pub file: PathBuf,
    /// Take it back after so many seconds unless `config confirm` comes before; the daemon does it
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub confirm: Option<u32>,
}
