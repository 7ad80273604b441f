//! The servers themselves.

use super::{App, Error, Invalid};
use crate::{
    domain::{Instance, Rule, Violations},
    telemetry,
};

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

    /// Changes what this process logs until it restarts; empty directives mean those it was
    /// started with. Those now in force.
    pub fn set_log_filter(&self, directives: &str) -> Result<String, Error> {
        match self.log_filter.set(directives) {
            Ok(directives) => {
                tracing::warn!(directives, "the log filter was changed");
                Ok(directives)
            }
            Err(error @ telemetry::Error::LogLevel(_)) => {
                let mut violations = Violations::default();
                violations.add("directives", Rule::BadFormat, error.to_string());
                Err(Error::Invalid { violations, reason: Invalid::Field })
            }
            Err(error @ (telemetry::Error::Reload(_) | telemetry::Error::Metrics(_))) => {
                Err(Error::Internal(error.into()))
            }
        }
    }
}
