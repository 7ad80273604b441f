//! The audit log: rows that are only added, and removed by age.

use super::{
    Error, Store,
    db::{Columns, Dialect, Query, params},
    scan::Scan,
    tx::Tx,
};
use crate::domain::{ApiKeyId, AuditEntry, Page, Pos, TimeRange, Uid};

/// Which entries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AuditFilter {
    /// Only of this tenant.
    pub tenant: Option<String>,
    /// Only of this key.
    pub key: Option<ApiKeyId>,
    /// Only of this method.
    pub method: Option<String>,
    /// Only about this.
    pub resource: Option<String>,
    /// Only in this interval.
    pub at: TimeRange,
}

/// Adds an entry; its number is given here.
pub(super) fn add(tx: &mut Tx<'_>, entry: &AuditEntry) -> Result<(), Error> {
    let sql = "INSERT INTO audit (at, key, tenant, method, resource, code, address, request_id, calls) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    let values = params![
        entry.at,
        entry.key.map(|id| id.0.to_bytes()),
        &entry.tenant,
        &entry.method,
        &entry.resource,
        entry.code,
        entry.address.map(|address| address.to_string()),
        &entry.request_id,
        entry.calls.cast_signed(),
    ];
    tx.conn.execute(sql, &values)?;
    Ok(())
}

impl Store {
    /// A page of the audit log and where the next one starts.
    pub async fn audit_entries(
        &self,
        filter: &AuditFilter,
        page: Page,
    ) -> Result<(Vec<AuditEntry>, Option<Pos>), Error> {
        let pos = |entry: &AuditEntry| Pos(entry.sequence);
        let select = || select(self.readers.dialect(), filter);
        let scan = Scan { select, column: "sequence", decode, fits: |_: &AuditEntry| true, pos, heavy: true };
        scan.page(&self.readers, page).await
    }
}

fn select(dialect: Dialect, filter: &AuditFilter) -> Query {
    let mut query = Query::new(
        dialect,
        "SELECT sequence, at, key, tenant, method, resource, code, address, request_id, calls FROM audit \
         WHERE true",
    );
    let texts = [("tenant", &filter.tenant), ("method", &filter.method), ("resource", &filter.resource)];
    for (column, text) in texts {
        if let Some(text) = text {
            query.push(" AND ").push(column).push(" = ").bind(text);
        }
    }
    if let Some(key) = filter.key {
        query.push(" AND key = ").bind(key.0.to_bytes());
    }
    super::lists::created(&mut query, "at", filter.at);
    query
}

fn decode(row: &dyn Columns) -> Result<AuditEntry, Error> {
    Ok(AuditEntry {
        sequence: row.count(0)?,
        at: row.time(1)?,
        key: row.bytes(2)?.and_then(Uid::from_bytes).map(ApiKeyId),
        tenant: row.word(3)?.into(),
        method: row.word(4)?.to_owned(),
        resource: row.word(5)?.to_owned(),
        code: row.number(6)? as i32,
        address: row.text(7)?.and_then(|text| text.parse().ok()),
        request_id: row.word(8)?.to_owned(),
        calls: row.count(9)?,
    })
}
