//! What is installed: archives, packages and images of one version. The same commit gives the same bytes.
//!
//! It owns the formats and what is in them. Which packages are released, their own manifests say
//! (`[package.metadata.release]`); under which name images are found, the workspace's does (`[workspace.metadata.release]`). It
//! deliberately lacks a clock: every time that is written is the commit's.

pub mod archive;
pub mod claims;
pub mod commit;
pub mod compile;
pub mod deb;
pub mod licences;
pub mod manifests;
pub mod oci;
pub mod par;
pub mod release;
pub mod sbom;
pub mod sums;
pub mod tree;
pub mod wit;
pub mod workspace;
