//! `DeadLetterService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{
    convert::{self, Checks, Shown},
    deliveries::out_attempts,
    pb::{self, dead_letter_service_server::DeadLetterService},
    status::Caller,
};
use crate::app::{App, Error, Principal, Show};

type Answer<T> = Result<Response<T>, Status>;

/// `DeadLetterService` over the use cases.
#[derive(Clone, Debug)]
pub(super) struct DeadLetters(pub Arc<App>);

impl DeadLetters {
    async fn get(
        &self,
        who: &Principal,
        request: pb::GetDeadLetterRequest,
    ) -> Result<pb::GetDeadLetterResponse, Error> {
        let pb::GetDeadLetterRequest { id, view, payload_format, include_attempts } = request;
        let mut checks = Checks::new();
        let show = convert::show(&mut checks, view, Show::Full);
        let shown = Shown::asked(&mut checks, payload_format);
        checks.finish()?;
        let found = self.0.letter(who.tenant(), convert::parse("id", &id)?, show).await?;
        let attempts = if include_attempts {
            let attempts = self.0.letter_attempts(&found.letter).await?;
            out_attempts(&found.letter.delivery, &attempts, show)
        } else {
            Vec::new()
        };
        let letter = convert::dead_letters::letter(found, who.tenant_id().to_string(), shown);
        Ok(pb::GetDeadLetterResponse { dead_letter: Some(letter), attempts })
    }

    async fn list(
        &self,
        who: &Principal,
        request: pb::ListDeadLettersRequest,
    ) -> Result<pb::ListDeadLettersResponse, Error> {
        let bound = pb::ListDeadLettersRequest { page_size: 0, page_token: String::new(), ..request.clone() };
        let pb::ListDeadLettersRequest { page_size, page_token, filter, view, payload_format, order } =
            request;
        let mut checks = Checks::new();
        let page = convert::page(&mut checks, page_size, page_token, order, &bound);
        let query = convert::dead_letters::filter(&mut checks, filter);
        let show = convert::show(&mut checks, view, Show::Basic);
        let shown = Shown::asked(&mut checks, payload_format);
        checks.finish()?;
        let (found, next_page_token) = self.0.letters(who.tenant(), &query, show, &page).await?;
        let tenant_id = who.tenant_id().to_string();
        let letter = |found| convert::dead_letters::letter(found, tenant_id.clone(), shown);
        let dead_letters = found.into_iter().map(letter).collect();
        Ok(pb::ListDeadLettersResponse { dead_letters, next_page_token })
    }

    async fn replay(
        &self,
        who: &Principal,
        request: pb::ReplayDeadLetterRequest,
    ) -> Result<pb::ReplayDeadLetterResponse, Error> {
        let pb::ReplayDeadLetterRequest { id } = request;
        let (found, seen) = self.0.replay_letter(who.tenant(), convert::parse("id", &id)?).await?;
        let tenant_id = who.tenant_id().to_string();
        let letter = convert::dead_letters::letter(found, tenant_id.clone(), Shown::default());
        let delivery = convert::deliveries::seen(seen, tenant_id);
        Ok(pb::ReplayDeadLetterResponse { dead_letter: Some(letter), delivery: Some(delivery) })
    }

    async fn replay_all(
        &self,
        who: &Principal,
        request: pb::BatchReplayDeadLettersRequest,
    ) -> Result<pb::BatchReplayDeadLettersResponse, Error> {
        let pb::BatchReplayDeadLettersRequest { filter, all, max_per_second } = request;
        let mut checks = Checks::new();
        let per_second = convert::dead_letters::per_second(&mut checks, max_per_second);
        let query = convert::dead_letters::selection(&mut checks, filter, all);
        checks.finish()?;
        let operation = self.0.replay_letters(who.tenant(), &query, per_second).await?;
        let operation = Some(convert::operations::operation(operation));
        Ok(pb::BatchReplayDeadLettersResponse { operation })
    }

    async fn purge(
        &self,
        who: &Principal,
        request: pb::PurgeDeadLettersRequest,
    ) -> Result<pb::PurgeDeadLettersResponse, Error> {
        let pb::PurgeDeadLettersRequest { filter, all } = request;
        let mut checks = Checks::new();
        let query = convert::dead_letters::selection(&mut checks, filter, all);
        checks.finish()?;
        let operation = self.0.purge_letters(who.tenant(), &query).await?;
        Ok(pb::PurgeDeadLettersResponse { operation: Some(convert::operations::operation(operation)) })
    }

    async fn discard(
        &self,
        who: &Principal,
        request: pb::DiscardDeadLetterRequest,
    ) -> Result<pb::DiscardDeadLetterResponse, Error> {
        let pb::DiscardDeadLetterRequest { id, allow_missing } = request;
        match self.0.discard_letter(who.tenant(), convert::parse("id", &id)?).await {
            Err(Error::NotFound { .. }) if allow_missing => Ok(pb::DiscardDeadLetterResponse {}),
            discarded => discarded.map(|()| pb::DiscardDeadLetterResponse {}),
        }
    }
}

#[tonic::async_trait]
impl DeadLetterService for DeadLetters {
    async fn get_dead_letter(
        &self,
        request: Request<pb::GetDeadLetterRequest>,
    ) -> Answer<pb::GetDeadLetterResponse> {
        let (caller, who) = Caller::of(&request)?;
        caller.answer(self.get(&who, request.into_inner()).await)
    }

    async fn list_dead_letters(
        &self,
        request: Request<pb::ListDeadLettersRequest>,
    ) -> Answer<pb::ListDeadLettersResponse> {
        let (caller, who) = Caller::of(&request)?;
        caller.answer(self.list(&who, request.into_inner()).await)
    }

    async fn replay_dead_letter(
        &self,
        request: Request<pb::ReplayDeadLetterRequest>,
    ) -> Answer<pb::ReplayDeadLetterResponse> {
        let (caller, who) = Caller::of(&request)?;
        caller.answer(self.replay(&who, request.into_inner()).await)
    }

    async fn batch_replay_dead_letters(
        &self,
        request: Request<pb::BatchReplayDeadLettersRequest>,
    ) -> Answer<pb::BatchReplayDeadLettersResponse> {
        let (caller, who) = Caller::of(&request)?;
        caller.answer(self.replay_all(&who, request.into_inner()).await)
    }

    async fn discard_dead_letter(
        &self,
        request: Request<pb::DiscardDeadLetterRequest>,
    ) -> Answer<pb::DiscardDeadLetterResponse> {
        let (caller, who) = Caller::of(&request)?;
        caller.answer(self.discard(&who, request.into_inner()).await)
    }

    async fn purge_dead_letters(
        &self,
        request: Request<pb::PurgeDeadLettersRequest>,
    ) -> Answer<pb::PurgeDeadLettersResponse> {
        let (caller, who) = Caller::of(&request)?;
        caller.answer(self.purge(&who, request.into_inner()).await)
    }
}
