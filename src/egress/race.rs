//! The first of several addresses that takes a connection (RFC 8305, section 5).

use std::time::Duration;

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::sleep;

/// How long an address is tried alone before the next one joins in.
const HEAD_START: Duration = Duration::from_millis(250);

/// Tries addresses in their order. The next one is tried as soon as one fails, or when the
/// newest attempt has had its head start; earlier attempts go on beside it. The first connection
/// wins, and the other attempts are dropped. If all fail, the last error is the answer; `None`
/// if there is no address.
pub(super) async fn race<A, T, E, F>(addresses: &[A], connect: impl Fn(&A) -> F) -> Result<T, Option<E>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut attempts = FuturesUnordered::new();
    let mut last = None;
    for address in addresses {
        attempts.push(connect(address));
        tokio::select! {
            biased;
            Some(ended) = attempts.next() => match ended {
                Ok(connection) => return Ok(connection),
                Err(error) => last = Some(error),
            },
            () = sleep(HEAD_START) => {}
        }
    }
    while let Some(ended) = attempts.next().await {
        match ended {
            Ok(connection) => return Ok(connection),
            Err(error) => last = Some(error),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::{super::tests::peer::virtual_now, *};

    /// Each address is when it answers and what.
    type Address = (u64, Result<char, char>);

    /// Addresses, which one wins or the last error, and after how many milliseconds.
    type Case<'a> = (&'a [Address], Result<char, Option<char>>, u64);

    async fn connect(address: Address) -> Result<char, char> {
        sleep(Duration::from_millis(address.0)).await;
        address.1
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_address_has_its_turn_after_a_failure_or_250_ms() {
        const NEVER: u64 = 1_000_000;
        let cases: [Case<'_>; 8] = [
            (&[], Err(None), 0),
            (&[(10, Ok('a')), (0, Ok('b'))], Ok('a'), 10),
            (&[(0, Err('a')), (0, Ok('b'))], Ok('b'), 0),
            (&[(NEVER, Ok('a')), (5, Ok('b'))], Ok('b'), 255),
            (&[(NEVER, Ok('a')), (NEVER, Ok('b')), (5, Ok('c'))], Ok('c'), 505),
            // An earlier attempt goes on beside later ones.
            (&[(300, Ok('a')), (100, Ok('b'))], Ok('a'), 300),
            (&[(400, Err('a')), (100, Err('b')), (100, Ok('c'))], Ok('c'), 450),
            (&[(400, Err('a')), (100, Err('b'))], Err(Some('a')), 400),
        ];
        for (addresses, expected, waited) in cases {
            let begun = virtual_now();
            assert_eq!(race(addresses, |address| connect(*address)).await, expected);
            assert_eq!(begun.elapsed(), Duration::from_millis(waited), "{addresses:?}");
        }
    }
}
