//! Answers that are ready together leave together.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

/// Whenever `connection` has something to do, lets the tasks that are ready go first:
/// the answers of calls that end together, as those of one commit do, then leave in
/// one write. Left alone, the runtime would run it right after the first of them.
pub(super) async fn after_others<F: Future>(connection: F) -> F::Output {
    let mut connection = pin!(connection);
    let mut waits = false;
    poll_fn(|context| {
        waits = !waits;
        if waits {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        connection.as_mut().poll(context)
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test]
    async fn a_connection_goes_after_the_calls_that_are_ready() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let task = |name| {
            let order = Arc::clone(&order);
            async move { order.lock().unwrap().push(name) }
        };
        let connection = tokio::spawn(after_others(task("connection")));
        let call = tokio::spawn(task("call"));
        connection.await.unwrap();
        call.await.unwrap();
        assert_eq!(*order.lock().unwrap(), ["call", "connection"]);
    }
}
