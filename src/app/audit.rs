//! The audit log.

use super::{App, Error, List, PageQuery, Principal};
use crate::{domain::AuditEntry, store::AuditFilter};

impl App {
    /// Adds an entry: durable once answered.
    pub async fn audit(&self, entry: AuditEntry) -> Result<(), Error> {
        Ok(self.store.audit(entry).await?)
    }

    /// A page of entries, newest first, and the token of the next.
    pub async fn audit_entries(
        &self,
        principal: &Principal,
        filter: &AuditFilter,
        query: &PageQuery,
    ) -> Result<(Vec<AuditEntry>, String), Error> {
        let cut = self.cut(principal.tenant(), List::Audit, query)?;
        let (entries, next) = self.store.audit_entries(filter, cut.page).await?;
        Ok((entries, cut.next(next)))
    }
}
