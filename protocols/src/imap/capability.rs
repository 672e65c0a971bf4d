//! Capability pinning.

/// What clients are shown.
#[derive(Debug, Clone, Default)]
pub struct Pinned;
