//! state_dir
//!
//! Rule: x
