//! The servers themselves.

use super::{App, Error};
use crate::domain::Instance;

/// An instance, as the one that answers sees it.
#[derive(Clone, Debug)]
pub struct InstanceView {
    /// The instance.
    pub instance: Instance,
    /// It is the one that answers.
    pub answers: bool,
}

impl App {
    /// The instances that share the store, by name.
    pub async fn instances(&self) -> Result<Vec<InstanceView>, Error> {
        // Any of them is asked, and all know the same of who owns what.
        self.store.refresh().await?;
        let me = self.store.shards().me();
        let views = self.store.instances(self.now()).await?.into_iter().map(|mut instance| {
            let answers = instance.id == me;
            // It knows of itself before the others hear of it.
            instance.draining |= answers && self.draining.is_cancelled();
            InstanceView { instance, answers }
        });
        Ok(views.collect())
    }
}
