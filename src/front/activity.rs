//! What goes on on one connection.
//!
//! HTTP tells whoever drives a connection neither that nothing is asked on it nor that
//! nobody takes what is answered; both hold memory, and a stranger can do both for ever.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};

/// Counts of one connection, told by its calls and looked at by its keeper.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Calls begun whose answer was not handed over whole.
    calls: AtomicU32,
    /// Of those, the ones whose last piece the client has not made room for.
    untaken: AtomicU32,
    /// Calls begun and pieces handed over, in all.
    moves: AtomicU64,
}

/// What the keeper does after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Keep,
    /// Says that the connection ends, and lets what is on it end first.
    Close,
    /// Ends it as it is.
    Drop,
}

/// What the keeper has seen: decides from looks at equal intervals.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    moves: u64,
    quiet: u32,
}

impl Keeper {
    /// One more look. A connection that was `quiet_max` looks without a move is closed
    /// if nobody waits on it for the server, and dropped if the server waits for the
    /// client; one that was asked to close and does not is dropped one look later.
    pub fn look(&mut self, activity: &Activity, quiet_max: u32) -> Step {
        let moves = activity.moves.load(Relaxed);
        self.quiet = if moves == self.moves { self.quiet + 1 } else { 0 };
        self.moves = moves;
        let idle = activity.calls.load(Relaxed) == 0;
        let stuck = activity.untaken.load(Relaxed) > 0;
        match self.quiet {
            quiet if quiet < quiet_max => Step::Keep,
            _ if stuck => Step::Drop,
            quiet if idle && quiet > quiet_max => Step::Drop,
            _ if idle => Step::Close,
            _ => Step::Keep,
        }
    }
}

/// A call that counts until it is dropped.
#[derive(Debug)]
pub(super) struct Counted(Arc<Activity>);

impl Counted {
    /// Begins to count.
    pub fn begin(activity: &Arc<Activity>) -> Self {
        activity.calls.fetch_add(1, Relaxed);
        activity.moves.fetch_add(1, Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Relaxed);
    }
}

/// The body of an answer, which counts while it is sent. It is asked for the next piece
/// once the client has made room for some of the one before. What was handed over whole
/// and not taken counts no more: its connection is idle then.
#[derive(Debug)]
pub(super) struct Sent<B> {
    body: B,
    call: Counted,
    untaken: bool,
}

impl<B> Sent<B> {
    /// The body of that call.
    pub fn new(body: B, call: Counted) -> Self {
        Self { body, call, untaken: false }
    }

    fn set_untaken(&mut self, untaken: bool) {
        match (self.untaken, untaken) {
            (false, true) => _ = self.call.0.untaken.fetch_add(1, Relaxed),
            (true, false) => _ = self.call.0.untaken.fetch_sub(1, Relaxed),
            (true, true) | (false, false) => {}
        }
        self.untaken = untaken;
    }
}

impl<B: Body + Unpin> Body for Sent<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let handed_over = matches!(polled, Poll::Ready(Some(Ok(_))));
        if handed_over {
            self.call.0.moves.fetch_add(1, Relaxed);
        }
        let more = !self.body.is_end_stream();
        self.set_untaken(handed_over && more);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Sent<B> {
    fn drop(&mut self) {
        self.set_untaken(false);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::{StreamExt as _, stream};
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    fn looks(keeper: &mut Keeper, activity: &Activity, count: usize) -> Vec<Step> {
        (0..count).map(|_| keeper.look(activity, 2)).collect()
    }

    #[test]
    fn a_connection_without_calls_is_closed_and_then_dropped() {
        let (activity, mut keeper) = (Activity::default(), Keeper::default());
        assert_eq!(looks(&mut keeper, &activity, 3), [Step::Keep, Step::Close, Step::Drop]);
    }

    #[test]
    fn a_call_that_begins_starts_the_count_again_and_one_that_waits_for_us_holds_it_open() {
        let (activity, mut keeper) = (Arc::new(Activity::default()), Keeper::default());
        assert_eq!(keeper.look(&activity, 2), Step::Keep);
        let call = Counted::begin(&activity);
        assert_eq!(looks(&mut keeper, &activity, 4), [Step::Keep; 4]);
        drop(call);
        assert_eq!(keeper.look(&activity, 2), Step::Drop, "it was silent all the time");
        drop(Counted::begin(&activity));
        assert_eq!(looks(&mut keeper, &activity, 3), [Step::Keep, Step::Keep, Step::Close]);
    }

    #[tokio::test]
    async fn a_connection_is_dropped_whose_client_takes_nothing() {
        let (activity, mut keeper) = (Arc::new(Activity::default()), Keeper::default());
        let piece = || Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"x")));
        let pieces = stream::iter([piece(), piece()]).chain(stream::pending());
        let mut body = Sent::new(StreamBody::new(pieces.boxed()), Counted::begin(&activity));
        body.frame().await.unwrap().unwrap();
        assert_eq!(looks(&mut keeper, &activity, 3), [Step::Keep, Step::Keep, Step::Drop]);
        body.frame().await.unwrap().unwrap();
        assert_eq!(keeper.look(&activity, 2), Step::Keep, "it took the first");

        // It made room for the third, which is not there.
        assert!(futures_util::poll!(body.frame()).is_pending());
        assert_eq!(looks(&mut keeper, &activity, 4), [Step::Keep; 4]);
        drop(body);
        assert_eq!((activity.calls.load(Relaxed), activity.untaken.load(Relaxed)), (0, 0));
    }
}
