//! Multi-row statements: one call for many rows.
//!
//! sqlx hands each statement to its worker thread, so a statement a row costs a
//! round trip between threads a row; one statement for many rows cut the CPU five
//! times. Sizes are fixed, so that a handful of statements stays prepared.

use sqlx::{
    AssertSqlSafe, Sqlite, SqliteConnection,
    query::Query,
    sqlite::{SqliteArguments, SqliteRow},
};

/// Rows in one statement. A batch is cut greedily: 200 rows are 128 + 32 + 32 + 8.
const SIZES: [usize; 4] = [128, 32, 8, 1];

/// A statement being bound.
pub type Binding<'q> = Query<'q, Sqlite, SqliteArguments>;

/// A statement with a list of rows in it, in every size.
pub struct Rows([&'static str; SIZES.len()]);

impl Rows {
    /// Puts `(?,…),(?,…)` with `columns` places a row between the two texts.
    pub fn new(before: &str, columns: usize, after: &str) -> Self {
        Self::of(before, &vec!["?"; columns].join(","), after)
    }

    /// The same with the text of a row: what is known beforehand need not be bound.
    /// Places are `?` only: SQLite looks numbered ones up in a list, one by one.
    pub fn of(before: &str, row: &str, after: &str) -> Self {
        let row = format!("({row})");
        // Prepared statements are kept by text for as long as the process runs.
        Self(SIZES.map(|size| &*format!("{before} {} {after}", vec![row.as_str(); size].join(",")).leak()))
    }

    /// How many of so many items the first statement takes.
    pub fn first(items: usize) -> usize {
        SIZES.into_iter().find(|size| *size <= items).unwrap_or(0)
    }

    /// Runs it for all items; `bind` binds one row. Says how many rows it changed.
    pub async fn execute<T>(
        &self,
        conn: &mut SqliteConnection,
        items: &[T],
        bind: impl for<'q> Fn(Binding<'q>, &'q T) -> Binding<'q>,
    ) -> Result<u64, sqlx::Error> {
        let mut changed = 0;
        for (sql, chunk) in self.chunks(items) {
            let query = sqlx::query(AssertSqlSafe(sql));
            changed += chunk.iter().fold(query, &bind).execute(&mut *conn).await?.rows_affected();
        }
        Ok(changed)
    }

    /// Runs it for all items and gathers the rows that it returns.
    pub async fn fetch<T>(
        &self,
        conn: &mut SqliteConnection,
        items: &[T],
        bind: impl for<'q> Fn(Binding<'q>, &'q T) -> Binding<'q>,
    ) -> Result<Vec<SqliteRow>, sqlx::Error> {
        let mut rows = Vec::with_capacity(items.len());
        for (sql, chunk) in self.chunks(items) {
            let query = sqlx::query(AssertSqlSafe(sql));
            rows.extend(chunk.iter().fold(query, &bind).fetch_all(&mut *conn).await?);
        }
        Ok(rows)
    }

    /// The statement for one row, for checks of its plan.
    #[cfg(test)]
    pub fn single(&self) -> &'static str {
        self.0[SIZES.len() - 1]
    }

    fn chunks<'t, T>(&self, mut items: &'t [T]) -> impl Iterator<Item = (&'static str, &'t [T])> {
        let mut size = 0;
        std::iter::from_fn(move || {
            while items.len() < *SIZES.get(size)? {
                size += 1;
            }
            let (chunk, rest) = items.split_at(SIZES[size]);
            items = rest;
            Some((self.0[size], chunk))
        })
    }
}
