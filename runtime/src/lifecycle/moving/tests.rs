//! Single steps: the answers of a machine that the search does not tell apart, because the link would fail instead.

use super::{Giver, GiverAction as GA, GiverEvent as GE, Taker, TakerAction as TA, TakerEvent as TE};

#[test]
fn a_giver_offers_nothing_after_its_deadline() {
    let mut giver = Giver::new();
    assert!(giver.is_settled());
    assert_eq!(giver.step(GE::Offer(1)), [GA::SendOffer(1)]);
    assert!(!giver.is_settled());
    assert_eq!(giver.step(GE::Deadline), [GA::ShutDown]);
    assert_eq!(giver.step(GE::Deadline), []);
    assert_eq!(giver.step(GE::Offer(2)), [GA::Keep(2)]);
    assert_eq!(giver.step(GE::Taken(2)), []);
    assert!(!giver.is_settled());
    assert_eq!(giver.step(GE::End), [GA::SendWithdrawn(vec![1]), GA::Keep(1)]);
    assert!(giver.is_settled());
    assert_eq!(giver.step(GE::End), []);
}

#[test]
fn a_giver_without_an_end_offers_nothing() {
    for event in [GE::End, GE::Closed] {
        let mut giver = Giver::new();
        assert_eq!(giver.step(event), []);
        assert_eq!(giver.step(GE::Offer(1)), [GA::Keep(1)]);
        assert_eq!(giver.step(GE::Deadline), []);
    }
}

#[test]
fn a_taker_answers_once() {
    let mut taker = Taker::new();
    assert_eq!(taker.step(TE::Take(1)), []);
    assert_eq!(taker.step(TE::Refuse(1)), []);
    assert_eq!(taker.step(TE::Arrived(1)), []);
    assert!(!taker.is_settled());
    assert_eq!(taker.step(TE::Take(1)), [TA::SendTaken(1)]);
    assert_eq!(taker.step(TE::Take(1)), []);
    assert_eq!(taker.step(TE::Refuse(1)), []);
    assert_eq!(taker.step(TE::Sent(1)), [TA::Own(1)]);
    assert!(taker.is_settled());
    assert_eq!(taker.step(TE::Sent(1)), []);
    assert_eq!(taker.step(TE::Arrived(2)), []);
    assert_eq!(taker.step(TE::Refuse(2)), [TA::SendRefused(2), TA::Drop(2)]);
    assert_eq!(taker.step(TE::Withdrawn(vec![1, 2])), []);
}

#[test]
fn a_taker_that_cannot_answer_sends_nothing_more() {
    let mut taker = Taker::new();
    for id in 1..=4 {
        assert_eq!(taker.step(TE::Arrived(id)), []);
    }
    assert_eq!(taker.step(TE::Take(1)), [TA::SendTaken(1)]);
    assert_eq!(taker.step(TE::NotSent(1)), []);
    assert_eq!(taker.step(TE::Take(2)), []);
    assert_eq!(taker.step(TE::Refuse(3)), [TA::Drop(3)]);
    assert_eq!(taker.step(TE::Withdrawn(vec![2, 3])), [TA::Drop(2)]);
    assert_eq!(taker.step(TE::End), [TA::Own(1), TA::Own(4)]);
    assert!(taker.is_settled());
}

#[test]
fn a_taker_without_an_end_drops_what_arrives() {
    let mut taker = Taker::new();
    assert_eq!(taker.step(TE::Arrived(1)), []);
    assert_eq!(taker.step(TE::Closed), [TA::Drop(1)]);
    assert_eq!(taker.step(TE::NotSent(1)), []);
    assert_eq!(taker.step(TE::Arrived(2)), [TA::Drop(2)]);
    assert!(taker.is_settled());
}
