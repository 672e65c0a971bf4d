//! What a restored session is told.
