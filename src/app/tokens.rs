//! Page tokens: each is good for one list with one filter.

use super::{App, Error};
use crate::{
    domain::{Order, Page, Pos, TenantKey},
    feed::Token,
};

/// Items in a page unless asked otherwise.
const PAGE_SIZE: u32 = 50;
/// Items in a page at most; more asked for is lowered, not refused.
const PAGE_SIZE_MAX: u32 = 1000;

/// The lists; the numbers are in tokens held by clients, so never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum List {
    /// Endpoints.
    Endpoints = 2,
    /// Events.
    Events = 3,
    /// Deliveries.
    Deliveries = 4,
    /// Dead letters.
    DeadLetters = 5,
    /// Operations.
    Operations = 6,
    /// Tenants.
    Tenants = 7,
    /// API keys.
    ApiKeys = 8,
    /// The audit log.
    Audit = 9,
}

/// Which page is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageQuery {
    /// Items at most; zero means the default.
    pub size: u32,
    /// Token of the page before; empty for the first one.
    pub token: String,
    /// Order.
    pub order: Order,
    /// Everything else of the request, as text: a token is bound to it.
    pub bound: String,
}

/// A page with what is needed to name the next one.
pub(super) struct Cut {
    pub page: Page,
    token: Token,
}

impl App {
    pub(super) fn cut(&self, tenant: TenantKey, list: List, query: &PageQuery) -> Result<Cut, Error> {
        let token = Token {
            purpose: list as u8,
            tenant,
            incarnation: self.store.incarnation(),
            binding: Token::bind(&query.bound),
            pos: Pos(0),
        };
        let after = match query.token.as_str() {
            "" => None,
            text => Some(token.decode(text).map_err(|_| Error::PageToken)?),
        };
        let size = if query.size == 0 { PAGE_SIZE } else { query.size.min(PAGE_SIZE_MAX) };
        Ok(Cut { page: Page { size, after, order: query.order }, token })
    }

    /// The token that resumes a watch after a position.
    pub(super) fn resume_token(&self, tenant: TenantKey, pos: Pos) -> Token {
        let incarnation = self.store.incarnation();
        Token { purpose: Token::WATCH, tenant, incarnation, binding: 0, pos }
    }
}

impl Cut {
    /// The first items of what follows, as many as the page may have, and the token of
    /// the next.
    pub fn first<T>(&self, mut found: Vec<T>, pos: impl Fn(&T) -> Pos) -> (Vec<T>, String) {
        let size = self.page.size as usize;
        let more = found.len() > size;
        found.truncate(size);
        let next = found.last().filter(|_| more).map(pos);
        (found, self.next(next))
    }

    /// The token of the page after a position; empty if there is none.
    pub fn next(&self, pos: Option<Pos>) -> String {
        pos.map(|pos| Token { pos, ..self.token }.encode()).unwrap_or_default()
    }
}
