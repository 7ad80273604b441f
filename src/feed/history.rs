//! Limits how many watches read the store at the same moment.
//!
//! A watch that is behind reads pages of up to hundreds of rows. Such reads get a small
//! number of permits, so most of the store's connections stay free for short reads. A
//! permit that is returned goes to the next tenant in turn, and within a tenant to the
//! next API key in turn.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::{
    domain::{ApiKeyId, TenantKey},
    machine::turns::Turns,
};

/// Who reads: its tenant, and its API key if it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    /// The tenant that it acts for.
    pub tenant: TenantKey,
    /// The API key that it was let in by.
    pub key: Option<ApiKeyId>,
}

/// The permits of all watches of this process.
#[derive(Debug)]
pub struct History(Mutex<State>);

#[derive(Debug)]
struct State {
    free: usize,
    waiting: Turns<TenantKey, Option<ApiKeyId>, oneshot::Sender<Permit>>,
}

/// Lets its holder read one page. Returned when dropped.
#[derive(Debug)]
pub struct Permit(Option<Arc<History>>);

impl History {
    /// `permits` reads at the same moment.
    pub fn new(permits: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { free: permits, waiting: Turns::default() })))
    }

    /// Waits for a permit. Dropping the future gives up the place in the queue.
    pub async fn permit(self: &Arc<Self>, reader: Reader) -> Permit {
        let granted = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if state.free > 0 {
                state.free -= 1;
                return Permit(Some(Arc::clone(self)));
            }
            let (grant, granted) = oneshot::channel();
            state.waiting.push(reader.tenant, reader.key, grant);
            granted
        };
        granted.await.expect("the queue drops no sender that still waits")
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(history) = self.0.take() else { return };
        loop {
            let next = {
                let mut state = history.0.lock().unwrap_or_else(PoisonError::into_inner);
                let next = state.waiting.pop();
                if next.is_none() {
                    state.free += 1;
                }
                next
            };
            let Some(next) = next else { return };
            match next.send(Self(Some(Arc::clone(&history)))) {
                Ok(()) => return,
                // This waiter has gone away: the next one gets the permit.
                Err(mut unused) => unused.0 = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, poll};
    use std::pin::pin;

    use super::*;

    fn reader(tenant: i64) -> Reader {
        Reader { tenant: TenantKey(tenant), key: None }
    }

    #[tokio::test]
    async fn a_permit_goes_to_the_next_tenant_in_turn() {
        let history = History::new(1);
        let held = history.permit(reader(1)).now_or_never().unwrap();
        let mut many: Vec<_> = (0..3).map(|_| Box::pin(history.permit(reader(1)))).collect();
        for waiting in &mut many {
            assert!(poll!(waiting).is_pending());
        }
        let mut other = pin!(history.permit(reader(2)));
        assert!(poll!(other.as_mut()).is_pending());
        drop(held);
        let first = many.remove(0).now_or_never().expect("it was there first");
        assert!(poll!(other.as_mut()).is_pending());
        drop(first);
        other.now_or_never().expect("one read of the other tenant was before it, not three");
    }

    #[tokio::test]
    async fn waiters_that_go_away_lose_no_permit() {
        let history = History::new(1);
        let held = history.permit(reader(1)).now_or_never().unwrap();
        let (mut gone, mut granted) =
            (Box::pin(history.permit(reader(1))), Box::pin(history.permit(reader(1))));
        assert!(poll!(&mut gone).is_pending() && poll!(&mut granted).is_pending());
        drop(gone);
        drop(held);
        // Granted, and dropped before it was looked at.
        drop(granted);
        history.permit(reader(2)).now_or_never().expect("the permit came back");
    }
}
