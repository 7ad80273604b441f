//! Two answers into one, and what is remembered of those that did not come.

use std::future::{pending, ready};

use tokio::time::sleep;

use super::{
    super::tests::{
        names::{NameServer, SILENT},
        peer::{step, virtual_now},
    },
    *,
};

fn found(text: &str) -> Answer {
    Ok(text.split_whitespace().map(|ip| ip.parse().unwrap()).collect())
}

async fn after(millis: u64, answer: Answer) -> Answer {
    sleep(Duration::from_millis(millis)).await;
    answer
}

#[tokio::test(start_paused = true)]
async fn a_family_that_answers_waits_50_ms_for_the_other() {
    let (four, six) = ("10.0.0.1 10.0.0.2", "fd00::1");
    let both = "10.0.0.1 fd00::1 10.0.0.2";
    let none = || Err(NoAnswer::NoAddress);
    let cases = [
        ((10, found(four)), (40, found(six)), 40, both),
        ((40, found(four)), (10, found(six)), 40, both),
        ((10, found(four)), (61, found(six)), 60, four),
        ((61, found(four)), (10, found(six)), 60, six),
        ((10, found(four)), (4_000, Err(NoAnswer::Silence)), 60, four),
        ((10, found(four)), (20, none()), 20, four),
        // Without an address nobody is in a hurry.
        ((10, none()), (4_000, found(six)), 4_000, six),
        ((4_000, found(four)), (10, none()), 4_000, four),
    ];
    for (ipv4, ipv6, waited, expected) in cases {
        let begun = virtual_now();
        let (ipv4, ipv6) = (after(ipv4.0, ipv4.1).boxed(), after(ipv6.0, ipv6.1).boxed());
        let expected: Vec<IpAddr> = expected.split_whitespace().map(|ip| ip.parse().unwrap()).collect();
        assert_eq!(soonest(ipv4, ipv6).await, Ok(expected));
        assert_eq!(begun.elapsed(), Duration::from_millis(waited));
    }
    let begun = virtual_now();
    let ipv4 = ready(found(four));
    assert!(soonest(ipv4, pending::<Answer>().boxed()).await.is_ok());
    assert_eq!(begun.elapsed(), FAMILY_DELAY);
}

#[tokio::test]
async fn why_a_name_has_no_address_is_told_by_both_answers() {
    use NoAnswer::{NoAddress, NoName, Silence};
    let cases = [
        (NoName, NoName, NoName),
        (NoName, NoAddress, NoName),
        (Silence, NoName, NoName),
        (Silence, NoAddress, Silence),
        (NoAddress, Silence, Silence),
        (Silence, Silence, Silence),
        (NoAddress, NoAddress, NoAddress),
    ];
    for (ipv4, ipv6, told) in cases {
        assert_eq!(soonest(ready(Err(ipv4)), ready(Err(ipv6))).await, Err(told), "{ipv4:?} {ipv6:?}");
    }
}

#[test]
fn repeats_are_removed_before_addresses_are_counted() {
    let repeated: Vec<IpAddr> = (0..100).map(|at| IpAddr::from([127, 0, 0, at % 16])).collect();
    assert_eq!(merged(&repeated, &repeated).len(), ADDRESSES_MAX);
    let many: Vec<IpAddr> = (0..100).map(|at| IpAddr::from([127, 0, 0, at])).collect();
    assert!(merged(&many, &[]).len() > ADDRESSES_MAX);
}

#[test]
fn unanswered_questions_are_forgotten_and_limited() {
    let mut questions = Questions::default();
    let question = |name: &str| (Arc::from(name), Family::Ipv6);
    for at in 0..SILENCES_MAX + 10 {
        questions.close(question(&at.to_string()), &Err(NoAnswer::Silence), Timestamp(0));
    }
    assert_eq!(questions.unanswered.len(), SILENCES_MAX);
    questions.close(question("0"), &Err(NoAnswer::NoAddress), Timestamp(0));
    assert_eq!(questions.unanswered.len(), SILENCES_MAX - 1);
    let late = Timestamp(0).plus(SILENCE);
    questions.close(question("a"), &Err(NoAnswer::Silence), late);
    questions.close(question("b"), &Err(NoAnswer::Silence), late);
    assert_eq!(questions.unanswered.len(), 2);
}

#[tokio::test]
async fn a_question_without_an_answer_is_remembered() {
    let server = NameServer::start(|_, _| vec!["127.0.0.1", SILENT]).await;
    let clock = Clock::manual(Timestamp(0));
    let resolver = Resolver::new(&[server.address], false, clock.clone()).unwrap();
    let addresses = async || resolver.addresses("half.example").await.unwrap();
    let found = addresses().await;
    assert_eq!(found, [IpAddr::from([127, 0, 0, 1])]);
    // The lookup goes on by itself, asks again, and is given up.
    while !resolver.is_unanswered(&("half.example".into(), Family::Ipv6)) {
        step(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
    }
    let before = server.asked_ipv6();
    for _ in 0..3 {
        assert_eq!(addresses().await, found);
    }
    assert_eq!((server.asked_ipv6(), server.asked()), (before, 4));
    // After a minute it is asked once more.
    clock.advance(SILENCE);
    assert_eq!(addresses().await, found);
    assert_eq!((server.asked_ipv6(), server.asked()), (before + 1, 5));
}

/// A question that is not asked because it got no answer is asked if the other family has none.
#[tokio::test]
async fn a_name_with_ipv6_alone_is_found_although_ipv6_was_silent() {
    let server = NameServer::start(|label, _| if label == "six" { vec!["::1"] } else { vec![] }).await;
    let resolver = Resolver::new(&[server.address], false, Clock::manual(Timestamp(0))).unwrap();
    let question = (Arc::from("six.example"), Family::Ipv6);
    lock(&resolver.questions).close(question, &Err(NoAnswer::Silence), Timestamp(0));
    assert_eq!(resolver.addresses("six.example").await, Ok(vec!["::1".parse().unwrap()]));
}
