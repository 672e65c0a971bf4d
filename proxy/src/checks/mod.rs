//! Checks, fences, promotes and their proofs.
