//! From a host name to its addresses, by a resolver of our own: with limits, with an
//! end, and without a thread for each lookup.
//!
//! Addresses of both families are asked for at once. Some name servers never answer one of the
//! two questions, usually that for IPv6, so the family that has answered waits only briefly for
//! the other ([`FAMILY_DELAY`], as RFC 8305 has it). A question that nobody answered is
//! remembered for [`SILENCE`], and until then it is asked only if the other family has no address.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Either, Shared, select},
};
use hickory_resolver::{
    TokioResolver,
    config::{
        ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
    },
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::Name,
    system_conf::read_system_conf,
};
use tokio::time::timeout;

use super::fault::fault;
use crate::{
    clock::Clock,
    domain::{Cause, Fault, Micros, Timestamp},
};

/// How long a name may take. Common resolvers answer within 100 ms or not at all.
const LIMIT: Duration = Duration::from_secs(5);
/// After this a question is asked again, once: a datagram may be lost.
const PATIENCE: Duration = Duration::from_secs(2);
/// Addresses of a name at most, without repeats. A name with more is a mistake or an attempt to
/// keep us busy.
const ADDRESSES_MAX: usize = 16;
/// How long an answer is believed at most, whatever its time to live. With the greatest age of a
/// connection this bounds how long a name that moved is looked for at its old address: 90 s.
const ANSWER_AGE_MAX: Duration = Duration::from_secs(20);
/// The same for the answer that there is no such name, which somebody may be mending.
const NO_ANSWER_AGE_MAX: Duration = Duration::from_secs(10);
/// How long the addresses of one family wait for those of the other (RFC 8305, section 3).
const FAMILY_DELAY: Duration = Duration::from_millis(50);
/// How long it is remembered that a question got no answer.
const SILENCE: Micros = Micros::from_secs(60);
/// Unanswered questions that are remembered at most.
const SILENCES_MAX: usize = 4096;

/// What is said of a name that leads nowhere. It is the same for a name that is unknown and
/// for one whose addresses are forbidden, so that nobody learns which internal names exist.
pub(super) const NOWHERE: &str = "the host name did not resolve to an address that requests may go to: there is no such \
     name, it has no address, or its network is not allowed";

/// Finds addresses. What they are is for others to judge.
pub(super) struct Resolver {
    ipv4: TokioResolver,
    ipv6: TokioResolver,
    clock: Clock,
    questions: Arc<Mutex<Questions>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Family {
    Ipv4,
    Ipv6,
}

/// A name and the kind of its addresses.
type Question = (Arc<str>, Family);

/// The addresses of one family, or why there are none.
type Answer = Result<Arc<[IpAddr]>, NoAnswer>;

/// Why a question has no addresses for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoAnswer {
    /// There is no such name.
    NoName,
    /// The name has no address of this family.
    NoAddress,
    /// No name server answered.
    Silence,
}

#[derive(Default)]
struct Questions {
    /// Those that are being asked: all who want the same answer wait for one lookup.
    open: HashMap<Question, Shared<BoxFuture<'static, Answer>>>,
    /// Those that got no answer, and until when that is remembered.
    unanswered: HashMap<Question, Timestamp>,
}

impl Resolver {
    /// Asks these name servers; the system's, as `/etc/resolv.conf` has them, if there are
    /// none. With `local_names` the names of `/etc/hosts` come first, as they stood at the
    /// start, and the system's search domains complete a name; without, a name means the
    /// same as everywhere else.
    pub(super) fn new(servers: &[SocketAddr], local_names: bool, clock: Clock) -> Result<Self, NetError> {
        let (mut config, mut options) = match servers {
            [] => system(),
            servers => (ask(servers), ResolverOpts::default()),
        };
        if !local_names {
            config = ResolverConfig::from_name_servers(config.name_servers().to_vec());
            options.use_hosts_file = ResolveHosts::Never;
        }
        options.timeout = PATIENCE;
        options.attempts = 1;
        options.positive_max_ttl = Some(ANSWER_AGE_MAX);
        options.negative_max_ttl = Some(NO_ANSWER_AGE_MAX);
        let build = |strategy| {
            let provider = TokioRuntimeProvider::default();
            let mut builder = TokioResolver::builder_with_config(config.clone(), provider);
            *builder.options_mut() = options.clone();
            builder.options_mut().ip_strategy = strategy;
            builder.build()
        };
        Ok(Self {
            ipv4: build(LookupIpStrategy::Ipv4Only)?,
            ipv6: build(LookupIpStrategy::Ipv6Only)?,
            clock,
            questions: Arc::default(),
        })
    }

    /// The addresses of a name, each once, those of the two families by turns.
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, Fault> {
        // By the letters that may stand in a name server's zone, an underscore among them, and not
        // by those of a host name in the strict sense.
        let parsed = Name::from_ascii(name).map_err(|_| unresolved("it is not a valid name"))?;
        let addresses = self.both(&name.into(), &parsed).await.map_err(NoAnswer::fault)?;
        if addresses.len() > ADDRESSES_MAX {
            return Err(unresolved(&format!("it has more than {ADDRESSES_MAX} addresses")));
        }
        Ok(addresses)
    }

    async fn both(&self, name: &Arc<str>, parsed: &Name) -> Result<Vec<IpAddr>, NoAnswer> {
        let ask = |family| self.ask((Arc::clone(name), family), parsed);
        let is_silent = |family| self.is_unanswered(&(Arc::clone(name), family));
        let alone = match (is_silent(Family::Ipv4), is_silent(Family::Ipv6)) {
            (false, true) => Some(Family::Ipv4),
            (true, false) => Some(Family::Ipv6),
            (true, true) | (false, false) => None,
        };
        if let Some(family) = alone
            && let Ok(found) = ask(family).await
        {
            return Ok(merged(&found, &[]));
        }
        soonest(ask(Family::Ipv4), ask(Family::Ipv6)).await
    }

    fn is_unanswered(&self, question: &Question) -> bool {
        let now = self.clock.now();
        lock(&self.questions).unanswered.get(question).is_some_and(|until| now < *until)
    }

    /// Asks a question, or joins those who are asking it. The lookup goes on if nobody waits for it
    /// any more, so that its answer is there for the next connection, or its silence is known.
    fn ask(&self, question: Question, parsed: &Name) -> Shared<BoxFuture<'static, Answer>> {
        let mut questions = lock(&self.questions);
        if let Some(open) = questions.open.get(&question) {
            return open.clone();
        }
        let resolver = match question.1 {
            Family::Ipv4 => self.ipv4.clone(),
            Family::Ipv6 => self.ipv6.clone(),
        };
        let (asked, parsed) = (question.clone(), parsed.clone());
        let (known, clock) = (Arc::clone(&self.questions), self.clock.clone());
        let lookup = async move {
            let found = timeout(LIMIT, resolver.lookup_ip(parsed)).await;
            let answer = match found {
                Ok(Ok(found)) => Ok(found.iter().collect::<Arc<[IpAddr]>>()),
                Ok(Err(error)) => Err(NoAnswer::of(&error)),
                Err(_) => Err(NoAnswer::Silence),
            };
            let answer = answer.and_then(|it| if it.is_empty() { Err(NoAnswer::NoAddress) } else { Ok(it) });
            lock(&known).close(asked, &answer, clock.now());
            answer
        };
        let lookup = lookup.boxed().shared();
        questions.open.insert(question, lookup.clone());
        tokio::spawn(lookup.clone());
        lookup
    }
}

impl Questions {
    fn close(&mut self, question: Question, answer: &Answer, now: Timestamp) {
        self.open.remove(&question);
        self.unanswered.remove(&question);
        if *answer != Err(NoAnswer::Silence) {
            return;
        }
        if self.unanswered.len() >= SILENCES_MAX {
            self.unanswered.retain(|_, until| now < *until);
        }
        if self.unanswered.len() < SILENCES_MAX {
            self.unanswered.insert(question, now.plus(SILENCE));
        }
    }
}

fn lock(questions: &Mutex<Questions>) -> MutexGuard<'_, Questions> {
    questions.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The addresses of both families, or of the one that answered if the other is late.
async fn soonest(
    ipv4: impl Future<Output = Answer> + Unpin,
    ipv6: impl Future<Output = Answer> + Unpin,
) -> Result<Vec<IpAddr>, NoAnswer> {
    let (ipv4, ipv6) = match select(ipv4, ipv6).await {
        Either::Left((ipv4, ipv6)) => {
            let ipv6 = other(&ipv4, ipv6).await;
            (ipv4, ipv6)
        }
        Either::Right((ipv6, ipv4)) => (other(&ipv6, ipv4).await, ipv6),
    };
    match (ipv4, ipv6) {
        (Ok(ipv4), Ok(ipv6)) => Ok(merged(&ipv4, &ipv6)),
        (Ok(found), Err(_)) | (Err(_), Ok(found)) => Ok(merged(&found, &[])),
        (Err(NoAnswer::NoName), Err(_)) | (Err(_), Err(NoAnswer::NoName)) => Err(NoAnswer::NoName),
        (Err(NoAnswer::Silence), Err(_)) | (Err(_), Err(NoAnswer::Silence)) => Err(NoAnswer::Silence),
        (Err(NoAnswer::NoAddress), Err(NoAnswer::NoAddress)) => Err(NoAnswer::NoAddress),
    }
}

/// The second answer. It has to come soon only if the first one has addresses.
async fn other(first: &Answer, second: impl Future<Output = Answer>) -> Answer {
    match first {
        Ok(_) => timeout(FAMILY_DELAY, second).await.unwrap_or(Err(NoAnswer::Silence)),
        Err(_) => second.await,
    }
}

/// Both lists by turns, without repeats. IPv4 begins: more machines and containers have a way out
/// by it.
fn merged(ipv4: &[IpAddr], ipv6: &[IpAddr]) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = Vec::with_capacity(ipv4.len() + ipv6.len());
    for at in 0..ipv4.len().max(ipv6.len()) {
        for ip in [ipv4.get(at), ipv6.get(at)].into_iter().flatten() {
            // At most one more than may be: a long list is refused, not sorted out.
            if all.len() <= ADDRESSES_MAX && !all.contains(ip) {
                all.push(*ip);
            }
        }
    }
    all
}

fn unresolved(why: &str) -> Fault {
    fault(Cause::Dns, format!("the host name did not resolve: {why}"))
}

impl NoAnswer {
    fn of(error: &NetError) -> Self {
        if error.is_nx_domain() {
            Self::NoName
        } else if error.is_no_records_found() {
            Self::NoAddress
        } else {
            Self::Silence
        }
    }

    /// In words that name no server of ours.
    fn fault(self) -> Fault {
        match self {
            Self::NoName | Self::NoAddress => fault(Cause::Dns, NOWHERE),
            Self::Silence => unresolved("no name server gave an answer"),
        }
    }
}

/// What the system is set up with. Without a usable configuration the name server of this
/// machine is asked, as the C library does.
fn system() -> (ResolverConfig, ResolverOpts) {
    read_system_conf().unwrap_or_else(|error| {
        tracing::warn!(%error, "/etc/resolv.conf names no name server; asking 127.0.0.1");
        (ask(&[SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53)]), ResolverOpts::default())
    })
}

/// These servers, by UDP and, for long answers, by TCP.
fn ask(servers: &[SocketAddr]) -> ResolverConfig {
    let server = |address: &SocketAddr| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = address.port();
            connection
        });
        NameServerConfig::new(address.ip(), true, connections.into())
    };
    ResolverConfig::from_name_servers(servers.iter().map(server).collect())
}

#[cfg(test)]
mod tests;
