//! The client's view of the selected mailbox.
