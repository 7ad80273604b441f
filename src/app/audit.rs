//! The audit log.

use std::sync::PoisonError;

use super::{App, Error, List, PageQuery, Principal, denials::Denials};
use crate::{domain::AuditEntry, store::AuditFilter};

impl App {
    /// Adds an entry: durable once answered, unless it is of a denied call like another of
    /// the same minute. Those are entered together when the minute is over.
    pub async fn audit(&self, entry: AuditEntry) -> Result<(), Error> {
        if Denials::concern(&entry) {
            let now = self.with_denials(|denials| denials.note(entry));
            return self.enter(now).await;
        }
        Ok(self.store.audit(entry).await?)
    }

    /// Enters the denied calls of the minutes that are over.
    pub(super) async fn enter_denials(&self) -> Result<(), Error> {
        let now = self.now();
        let over = self.with_denials(|denials| denials.take_over(now));
        self.enter(over).await
    }

    /// Enters all denied calls. Call it when no more calls are let in.
    pub async fn enter_last_denials(&self) -> Result<(), Error> {
        let all = self.with_denials(Denials::take_all);
        self.enter(all).await
    }

    async fn enter(&self, entries: Vec<AuditEntry>) -> Result<(), Error> {
        for entry in entries {
            self.store.audit(entry).await?;
        }
        Ok(())
    }

    fn with_denials<T>(&self, act: impl FnOnce(&mut Denials) -> T) -> T {
        act(&mut self.denials.lock().unwrap_or_else(PoisonError::into_inner))
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
