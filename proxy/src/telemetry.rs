//! Logs and metrics.

/// Counters and histograms.
#[derive(Debug, Default)]
pub struct Metrics;
