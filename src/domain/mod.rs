//! Plain data and its rules. Nothing here does I/O, reads the clock or draws
//! chance; everything else may use it.

mod api_key;
mod attempt;
mod audit;
mod authentication;
mod change;
mod dead_letter;
mod delivery;
mod endpoint;
mod event;
mod id;
mod instance;
mod now;
mod operation;
mod outcome;
mod page;
mod pattern;
mod policy;
mod scope;
mod secret_text;
mod shard;
mod span;
mod start;
mod stored_secret;
mod tenant;
mod time;
mod violation;

pub use api_key::{ApiKey, TokenHash};
pub use attempt::{Attempt, Cause, ErrorKind, Failure, Response, Timings};
pub use audit::AuditEntry;
pub use authentication::{Authentication, OAuth2, TlsIdentity, TlsOptions};
pub use change::{Change, ChangeKind};
pub use dead_letter::{DeadLetter, LetterReason, LetterState};
pub use delivery::{Delivery, Hold, Last, Live, State, Trigger};
pub use endpoint::{Endpoint, EndpointState, Envelope, Header, Secret};
pub use event::{Event, EventSummary, NewEvent, Payload};
pub use id::{
    ApiKeyId, AttemptId, DeadLetterId, DeliveryId, EndpointKey, EventId, IdError, OperationId, Pos, SecretId,
    TenantKey, Uid, kind_of,
};
pub use instance::Instance;
pub use now::{Now, Steps};
pub use operation::{ItemFailure, Operation, OperationKind, OperationState};
pub use outcome::{Answer, Fault, Outcome};
pub use page::{Order, Page, TimeRange};
pub use pattern::Pattern;
pub use policy::{
    BreakerPolicy, Content, DeadLetterPolicy, HttpOptions, RateLimit, RetryPolicy, Scheme, Signature, Signing,
};
pub use scope::{Scope, ScopeError};
pub use secret_text::SecretText;
pub use shard::{InstanceId, Shard, Tenure};
pub use span::NotASpan;
pub use start::Start;
pub use stored_secret::{Destinations, Relocation, StoredSecret};
pub use tenant::{Quota, Tenant, Usage};
pub use time::{Micros, Timestamp};
pub use violation::{Rule, Violation, Violations};
