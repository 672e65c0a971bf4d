//! What the operator touches.
