//! The gate compiled against loom; its models stand in `gate.rs`.
//!
//! Rule: the file under test is the one that is shipped, and nothing else of the appliance is needed for it.

#[path = "../../src/gate.rs"]
pub mod gate;

/// The two numbers that the gate's words carry.
pub mod topology {
    /// As in the appliance.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
    pub struct PoolId(pub u8);

    /// As in the appliance.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
    pub struct Epoch(pub u32);
}
