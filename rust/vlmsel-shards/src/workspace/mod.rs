//! What users name and what runs leave: inputs, and outputs that are committed whole, with their manifests.

pub mod fingerprint;
pub mod inputs;
pub mod lock;
pub mod manifest;
pub mod noted;
pub mod output;
pub mod quarantine;
pub mod verify;
