//! Pages of lists: the one loop behind them, and what their queries share.

use super::{
    Error,
    db::{Columns, Query, Readers},
};
use crate::domain::{Order, Page, Pos};

/// Rows looked through for one page at most, so that a filter that fits little
/// cannot hold a connection for long; the page is then short and has a token.
const SCAN_MAX: usize = 10_000;
/// Rows read at once at least, where a filter may pass over many.
const CHUNK_MIN: usize = 200;

/// One list: how its rows are found, read, kept and numbered.
pub(super) struct Scan<'s, Q, D, F, P> {
    /// The query up to its order.
    pub select: Q,
    /// The column that numbers the rows.
    pub column: &'s str,
    /// A row's value.
    pub decode: D,
    /// Whether a value belongs to the list, beyond what the query says.
    pub fits: F,
    /// A value's number.
    pub pos: P,
    /// Rows are heavy: read no more than a page needs.
    pub heavy: bool,
}

impl<Q, D, F, P> Scan<'_, Q, D, F, P> {
    /// A page, and where the next one starts.
    pub async fn page<T>(&self, readers: &Readers, page: Page) -> Result<(Vec<T>, Option<Pos>), Error>
    where
        Q: Fn() -> Query,
        D: Fn(&dyn Columns) -> Result<T, Error>,
        F: Fn(&T) -> bool,
        P: Fn(&T) -> Pos,
    {
        let size = page.size as usize;
        let chunk = if self.heavy { size + 1 } else { size.max(CHUNK_MIN) };
        let (mut found, mut after, mut scanned) = (Vec::new(), page.after, 0);
        loop {
            let mut query = (self.select)();
            order(&mut query, self.column, after, page.order, chunk);
            let rows = readers.all(&query).await?;
            for row in &rows {
                let value = (self.decode)(row)?;
                let fits = (self.fits)(&value);
                if fits && found.len() == size {
                    return Ok((found, after));
                }
                after = Some((self.pos)(&value));
                if fits {
                    found.push(value);
                }
            }
            scanned += rows.len();
            if rows.len() < chunk {
                return Ok((found, None));
            }
            if scanned >= SCAN_MAX {
                return Ok((found, after));
            }
        }
    }
}

/// Adds `AND column IN (…)`.
pub(super) fn any_of(query: &mut Query, column: &str, values: &[i64]) {
    query.push(" AND ").push(column).push(" IN (").bind_all(values).push(")");
}

/// Adds the start, the order and the end of a page.
pub(super) fn order(query: &mut Query, column: &str, after: Option<Pos>, order: Order, limit: usize) {
    let (sign, direction) = match order {
        Order::NewestFirst => (" < ", " DESC"),
        Order::OldestFirst => (" > ", " ASC"),
    };
    let start = match (after, order) {
        (Some(after), _) => after.0.cast_signed(),
        (None, Order::NewestFirst) => i64::MAX,
        (None, Order::OldestFirst) => 0,
    };
    query.push(" AND ").push(column).push(sign).bind(start);
    query.push(" ORDER BY ").push(column).push(direction).push(" LIMIT ").bind(limit as i64);
}
