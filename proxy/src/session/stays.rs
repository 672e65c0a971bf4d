//! A connection to a pool that nobody has seen end.
//!
//! Rule: on shared storage its session's word goes on saying that it is there for as long as a hold could take the user for
//! gone (D7). Where two stores are two, nobody needs to know.

use std::{future::poll_fn, task::Poll};

use super::{
    World,
    registry::{Handle, Order},
};
use crate::{config::Storage, gate::Standing};

/// Whether the end of a connection has to be seen: a hold on shared storage waits for it.
pub(super) fn matters(world: &World) -> bool {
    let topology = world.topology.load();
    topology.active().contract.storage == Storage::Shared && !world.gate.admits(topology.epoch)
}

/// Keeps the word as it is until the hold is over. Whoever is told to end gives up: that is the cutover's last resort,
/// and it proves the fence of what is left.
pub(super) async fn until_open(world: &World, handle: &Handle) {
    if !matters(world) {
        return;
    }
    tracing::warn!(session = handle.id.0, "a connection that does not end");
    handle.word.wait(Standing { waits: true, ..handle.word.read() });
    handle.word_changed();
    poll_fn(|cx| {
        handle.register(cx.waker());
        if matters(world) && handle.order().1 != Order::End { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
}
