//! One binary per target, each two lines.
//!
//! Rule: what is tested stands in `bascule_protocols::fuzz`; here libFuzzer only gets its entry point.

pub use {bascule_protocols::fuzz, libfuzzer_sys};

/// The entry point of the target of this name.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        $crate::libfuzzer_sys::fuzz_target!(
            init: assert!($crate::fuzz::target($name).is_some(), "a target of this name"),
            |data: &[u8]| {
                if let Some(target) = $crate::fuzz::target($name) {
                    (target.run)(data);
                }
            }
        );
    };
}
