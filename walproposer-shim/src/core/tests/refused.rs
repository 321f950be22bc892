//! A proposer that safekeepers refuse, and one that has lost its quorum.

use super::*;

fn fence(rig: &mut Rig, peer: usize) -> Vec<Effect> {
    rig.step(Input::Fenced { peer: PeerId(peer), said: "primary_epoch 1 is older than 2".to_owned() })
}

#[test]
fn a_newer_epoch_at_so_many_that_no_quorum_is_left_ends_it_with_6() {
    let mut rig = Rig::elected();
    assert!(fence(&mut rig, 0).is_empty(), "two of three still follow");
    assert_eq!(rig.proposer.phase(), Phase::Elected);
    let out = fence(&mut rig, 2);
    let [Effect::Fatal(reason @ Fatal::Fenced { refused: 2, said })] = &out[..] else { panic!("{out:?}") };
    assert!(reason.exit_code() == Some(6) && said.contains("older than 2"));
    assert_eq!(rig.proposer.phase(), Phase::Over);
}

#[test]
fn one_that_takes_it_again_no_longer_counts_as_refusing() {
    let mut rig = Rig::elected();
    fence(&mut rig, 0);
    rig.now = ProposerConfig::RECONNECT_MS;
    rig.step(Input::Tick);
    rig.greet(0, 1, 1);
    assert!(fence(&mut rig, 1).is_empty());
    assert!(matches!(&fence(&mut rig, 0)[..], [Effect::Fatal(Fatal::Fenced { refused: 2, .. })]));
}

#[test]
fn refusals_before_any_greeting_count_by_address() {
    let mut rig = Rig::three();
    assert!(fence(&mut rig, 0).is_empty());
    assert!(fence(&mut rig, 1).is_empty(), "nobody knows yet which members those two are");
    assert!(matches!(&fence(&mut rig, 2)[..], [Effect::Fatal(Fatal::Fenced { refused: 3, .. })]));
}

#[test]
fn in_a_joint_set_the_smaller_half_is_enough() {
    let mut rig = Rig::new(conf(&[1, 2, 3], &[3, 4, 5]), 5);
    for (peer, node) in [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)] {
        rig.greet(peer, node, 0);
    }
    assert!(fence(&mut rig, 0).is_empty());
    assert!(fence(&mut rig, 4).is_empty(), "one of each set");
    assert!(matches!(&fence(&mut rig, 1)[..], [Effect::Fatal(Fatal::Fenced { refused: 3, .. })]), "two of the old set");
}

#[test]
fn a_quorum_that_is_gone_or_silent_does_not_follow() {
    let mut rig = Rig::elected();
    assert!(rig.proposer.has_quorum(rig.now));
    rig.step(Input::Disconnected { peer: PeerId(1) });
    assert!(rig.proposer.has_quorum(rig.now), "two of three");
    rig.step(Input::Disconnected { peer: PeerId(2) });
    assert!(!rig.proposer.has_quorum(rig.now));
    let mut rig = Rig::elected();
    rig.now = 2 * ProposerConfig::HEARTBEAT_MS;
    rig.ack(0, 0);
    assert!(rig.proposer.has_quorum(rig.now));
    rig.now = 3 * ProposerConfig::HEARTBEAT_MS;
    assert!(!rig.proposer.has_quorum(rig.now), "two of three were not heard of since they were elected by");
    rig.ack(1, 0);
    assert!(rig.proposer.has_quorum(rig.now));
    assert!(!Rig::three().proposer.has_quorum(0), "nobody is elected");
}

#[test]
fn one_that_claims_an_absurd_term_is_let_go_and_the_others_go_on() {
    let closed = |effects: &[Effect], peer| {
        let absurd = |e: &Effect| match e {
            Effect::Close { peer: of, reason: CloseReason::AbsurdTerm { .. } } => *of == PeerId(peer),
            _ => false,
        };
        effects.iter().any(absurd)
    };
    let mut rig = Rig::three();
    let out = rig.greet(0, 1, u64::MAX);
    assert!(closed(&out, 0), "{out:?}");
    rig.greet(1, 2, 4);
    rig.greet(2, 3, 4);
    rig.step(Input::Campaign);
    assert_eq!(rig.proposer.term(), Term(5));
    let mut rig = Rig::elected();
    let out = rig.hear(1, response(Generation(1), Term(u64::MAX), None));
    assert!(closed(&out, 1) && rig.proposer.phase() == Phase::Elected, "no reason to step down: {out:?}");
    let out = rig.hear(0, response(Generation(1), Term(9), None));
    assert!(matches!(&out[..], [Effect::Deposed { term: Term(9) }]), "a term that elections lead to is");
}
