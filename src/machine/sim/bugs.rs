//! The zoo: ways to get the engine or the store wrong, each of which the checks
//! must notice. None needs a hook in the machine; the driver around it errs.

/// A mistake made on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A publish is acknowledged when the writer takes it.
    AckBeforeCommit,
    /// Results are written without looking at what was stored meanwhile.
    NoRevisionGuard,
    /// Cancelling does not look whether the delivery has ended.
    TerminalOverwritten,
    /// What is published while a page is read never reaches the lane.
    NewcomersForgotten,
    /// A page holds what the page before it held.
    StalePage,
    /// The breaker forgets that its probe is out.
    TwoProbes,
    /// No token is taken.
    BucketNotTaken,
    /// `retry-after` is not read.
    RetryAfterIgnored,
    /// After a start only deliveries never tried are read from the store.
    CrashLosesRetrying,
    /// After a start only the older half of what waits is read from the store.
    StoredTooLittle,
    /// What expired is not recorded.
    ExpiredNeverFires,
    /// The result of a cancelled delivery does not give back its slot.
    SlotLeaks,
    /// A started engine reads the feed from where it is when first woken.
    FeedFromTooLate,
    /// Lanes do not hear that their endpoint has changed.
    EndpointNotTold,
    /// A failed commit is not tried again.
    BatchDropped,
    /// The wall clock is read at the start and never again.
    WallReadOnce,
    /// What a wall time meant before the wall clock stepped is forgotten.
    StepForgotten,
    /// Lanes are not asked again after the wall clock stepped.
    StepNotNoticed,
    /// The start of a long request is not written.
    StartNotWritten,
    /// After a crash the starts that are stored are forgotten.
    StartLost,
    /// A start is counted again after the next crash.
    StartCountedTwice,
    /// A result leaves the start of its attempt, which counts, too.
    ResultAndStart,
    /// A delivery that is cut off again and again keeps no distance.
    NoDistance,
}

impl Bug {
    /// Every mistake.
    pub const ALL: [Self; 23] = [
        Self::AckBeforeCommit,
        Self::NoRevisionGuard,
        Self::TerminalOverwritten,
        Self::NewcomersForgotten,
        Self::StalePage,
        Self::TwoProbes,
        Self::BucketNotTaken,
        Self::RetryAfterIgnored,
        Self::CrashLosesRetrying,
        Self::StoredTooLittle,
        Self::ExpiredNeverFires,
        Self::SlotLeaks,
        Self::FeedFromTooLate,
        Self::EndpointNotTold,
        Self::BatchDropped,
        Self::WallReadOnce,
        Self::StepForgotten,
        Self::StepNotNoticed,
        Self::StartNotWritten,
        Self::StartLost,
        Self::StartCountedTwice,
        Self::ResultAndStart,
        Self::NoDistance,
    ];

    /// The mistake of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| format!("{bug:?}") == name)
    }
}
