//! A session whose stream cannot be followed: bytes pass, nothing else.
//!
//! Rule: alive, counted, unmovable; while the gate is shut nothing passes, and it ends without a word when it is told to
//! leave, since nobody knows what the client waits for (design §4.7).

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncBufRead, AsyncWrite};

use super::converse::cut;
use crate::{
    net::{outgoing::Outgoing, stream::Leg},
    session::{
        World,
        registry::{Handle, Order, Progress},
        stays,
    },
    topology::Epoch,
};

/// Both legs with what is pending towards each.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) client: Leg,
    pub(super) to_client: Outgoing,
    pub(super) backend: Leg,
    pub(super) to_backend: Outgoing,
}

impl Pipe {
    /// Runs until either side ends, the gate shuts, or the session is told to go.
    pub(super) async fn run(mut self, world: &World, handle: &Handle, epoch: Epoch) {
        world.metrics.pipes.inc();
        handle.describe(|info| {
            info.pipe = true;
            info.unmovable = Some("pipe".to_owned());
        });
        let mut seen = None;
        std::future::poll_fn(|cx| {
            handle.register(cx.waker());
            let (number, order) = handle.order();
            let open = world.gate.admits(epoch);
            if seen != Some(number) {
                seen = Some(number);
                let stays = order == Order::Flow || (order == Order::Attach && open);
                handle.report(number, if stays { Progress::Done } else { Progress::Refused });
            }
            let must_go = match order {
                Order::End => true,
                // An order of a hold that is over.
                Order::Leave | Order::Attach => !open,
                // Whether it is to go, or the hold ends where it began, is for the cutover to say.
                Order::Flow | Order::Prepare | Order::Prewarm | Order::Verify => world.gate.epoch() != epoch,
            };
            if must_go {
                return Poll::Ready(());
            }
            if !open {
                return Poll::Pending;
            }
            let up = forward(cx, &mut self.client, &mut self.backend, &mut self.to_backend);
            let down = forward(cx, &mut self.backend, &mut self.client, &mut self.to_client);
            if up.is_ready() || down.is_ready() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        world.metrics.pipes.dec();
        world.metrics.farewells.count("pipe");
        drop(self.client);
        if stays::matters(world) && !cut(self.backend).await {
            stays::until_open(world, handle).await;
        }
    }
}

/// Ready when the source has ended, or either side failed.
fn forward(cx: &mut Context<'_>, from: &mut Leg, to: &mut Leg, pending: &mut Outgoing) -> Poll<()> {
    loop {
        match pending.poll_flush(cx, to) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(()),
            Poll::Pending => return Poll::Pending,
        }
        let n = match Pin::new(&mut *from).poll_fill_buf(cx) {
            Poll::Ready(Ok(bytes)) if !bytes.is_empty() => {
                if pending.push(to, bytes).is_err() {
                    return Poll::Ready(());
                }
                bytes.len()
            }
            Poll::Ready(_) => {
                let _ = Pin::new(&mut *to).poll_shutdown(cx);
                return Poll::Ready(());
            }
            Poll::Pending => return Poll::Pending,
        };
        Pin::new(&mut *from).consume(n);
    }
}
