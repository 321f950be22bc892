//! One table of events per rule. Times are milliseconds.

use super::*;

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);

fn ms(t: u64) -> Duration {
    Duration::from_millis(t)
}

fn candidate(commit: u64) -> Candidate {
    Candidate { commit_lsn: Lsn::from_wire(commit), zone: None, pushes: 0 }
}

fn view(list: &[(NodeId, u64)]) -> View {
    View { broker: true, candidates: list.iter().map(|(id, c)| (*id, candidate(*c))).collect() }
}

struct Bench {
    chooser: Chooser,
    view: View,
}

impl Bench {
    fn new(list: &[(NodeId, u64)]) -> Bench {
        Bench::with(Settings::default(), view(list))
    }

    fn with(settings: Settings, view: View) -> Bench {
        Bench { chooser: Chooser::new(settings, 7, 0), view }
    }

    fn at(&mut self, t: u64, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.chooser.step(ms(t), input, &mut effects);
        effects
    }

    fn show(&mut self, t: u64) -> Vec<Effect> {
        let view = self.view.clone();
        self.at(t, Input::View(view))
    }

    fn commit(&mut self, id: NodeId, lsn: u64) {
        self.view.candidates.get_mut(&id).expect("a candidate").commit_lsn = Lsn::from_wire(lsn);
    }

    /// Chooses, publishes and connects at `t`; returns the choice.
    fn connect(&mut self, t: u64) -> Choice {
        let effects = self.show(t);
        let Some(Effect::Publish(choice)) = effects.first().copied() else { panic!("no choice: {effects:?}") };
        assert_eq!(self.at(t, Input::Published { seq: choice.seq }), []);
        assert_eq!(self.at(t, Input::Connected { seq: choice.seq }), []);
        choice
    }

    fn progress(&mut self, t: u64, seq: u64, commit: u64, last: u64, wal_at: u64) -> Vec<Effect> {
        self.at(
            t,
            Input::Progress(Progress {
                seq,
                last_message_at: ms(t),
                last_wal_at: ms(wal_at),
                commit_lsn: Lsn::from_wire(commit),
                last_record_lsn: Lsn::new(last),
                has_records: wal_at > 0,
            }),
        )
    }
}

fn published(effects: &[Effect]) -> Option<(NodeId, Reason)> {
    match effects {
        [Effect::Publish(c)] | [Effect::Close { .. }, Effect::Publish(c)] => Some((c.safekeeper, c.reason)),
        [] => None,
        other => panic!("unexpected {other:?}"),
    }
}

#[test]
fn no_connection_no_candidate() {
    let mut b = Bench::new(&[]);
    assert_eq!(b.show(0), []);
    assert_eq!(b.at(1000, Input::Tick), []);
    let mut b = Bench::new(&[(A, 0), (B, 0)]);
    assert_eq!(b.show(0), [], "an unknown commit position is no candidate");
}

#[test]
fn connection_no_candidate() {
    let mut b = Bench::new(&[(A, 100)]);
    let c = b.connect(0);
    // Silent for ever, but there is nobody else: the connection times out by itself.
    for t in (1000..60_000).step_by(1000) {
        assert_eq!(b.at(t, Input::Tick), [], "at {t}");
    }
    let effects = b.at(60_000, Input::StreamEnded { seq: c.seq, how: Ended::Silent });
    assert_eq!(effects, [], "penalised for 100 ms");
    assert_eq!(b.chooser.next_wakeup(ms(60_000)), Some(ms(60_100)));
    assert_eq!(published(&b.at(60_100, Input::Tick)), Some((A, Reason::NoKeepalives)));
}

#[test]
fn no_connection_candidate_with_the_highest_commit() {
    let mut b = Bench::new(&[(A, 100), (B, 300), (C, 200)]);
    assert_eq!(published(&b.show(0)), Some((B, Reason::NoExistingConnection)));
}

#[test]
fn candidate_with_many_connection_failures() {
    let mut b = Bench::new(&[(A, 100), (B, 300)]);
    let mut t = 0;
    let mut delays = Vec::new();
    // B has more WAL but keeps breaking; A takes its place each time until B's penalty is over.
    for _ in 0..20 {
        b.chooser.penalties.add(ms(t), B, Mode::Push, false);
        let until = b.chooser.penalties.next_expiry(ms(t)).expect("a penalty");
        delays.push((until - ms(t)).as_millis());
        t = u64::try_from(until.as_millis()).expect("small");
    }
    assert_eq!(&delays[..4], &[100, 150, 225, 337]);
    assert_eq!(delays.last(), Some(&15_000));
    b.chooser.penalties.add(ms(t), B, Mode::Push, false);
    assert_eq!(published(&b.show(t)), Some((A, Reason::NoExistingConnection)));
}

#[test]
fn lost_connection_is_replaced_at_once_without_hold() {
    let mut b = Bench::new(&[(A, 300), (B, 200)]);
    let c = b.connect(0);
    assert_eq!(c.safekeeper, A);
    let effects = b.at(10, Input::StreamEnded { seq: c.seq, how: Ended::Lost });
    assert_eq!(published(&effects), Some((B, Reason::ConnectionLost)));
}

#[test]
fn records_forgive_earlier_failures() {
    let mut b = Bench::new(&[(A, 300)]);
    b.chooser.penalties.add(ms(0), A, Mode::Push, false);
    let c = b.connect(200);
    b.progress(300, c.seq, 300, 300, 300);
    b.at(400, Input::StreamEnded { seq: c.seq, how: Ended::Lost });
    assert_eq!(b.chooser.next_wakeup(ms(400)), Some(ms(500)), "the first penalty again, not the second");
}

#[test]
fn lsn_wal_over_threshold_current_candidate() {
    let mut b = Bench::new(&[(A, 1000), (B, 900)]);
    let c = b.connect(0);
    b.progress(6000, c.seq, 1000, 1000, 5990);
    b.commit(B, 1000 + (1 << 30) - 1);
    assert_eq!(b.show(6000), []);
    b.commit(B, 1000 + (1 << 30));
    assert_eq!(published(&b.show(6001)), Some((B, Reason::LaggingWal)));
}

#[test]
fn a_stalled_source_is_left_at_a_smaller_lag_but_not_before_the_hold_ends() {
    let mut b = Bench::new(&[(A, 1000), (B, 900)]);
    let c = b.connect(0);
    b.commit(B, 1000 + (64 << 20));
    b.progress(4000, c.seq, 1000, 1000, 10);
    assert_eq!(b.show(4000), [], "held");
    assert_eq!(published(&b.show(5000)), Some((B, Reason::LaggingWal)));
}

#[test]
fn timeout_connection_threshold_current_candidate() {
    let mut b = Bench::new(&[(A, 1000), (B, 900)]);
    let c = b.connect(0);
    assert_eq!(b.at(10_000, Input::Tick), []);
    let effects = b.at(10_001, Input::Tick);
    assert_eq!(effects.first(), Some(&Effect::Close { seq: c.seq }));
    assert_eq!(published(&effects), Some((B, Reason::NoKeepalives)));
}

#[test]
fn timeout_wal_over_threshold_current_candidate() {
    let mut b = Bench::new(&[(A, 1000), (B, 900)]);
    let c = b.connect(0);
    b.progress(1000, c.seq, 1000, 1000, 1000);
    b.commit(B, 1010);
    b.show(6000);
    for t in (7000..=16_000).step_by(1000) {
        assert_eq!(b.progress(t, c.seq, 1000, 1000, 1000), [], "at {t}");
    }
    assert_eq!(published(&b.progress(16_001, c.seq, 1000, 1000, 1000)), Some((B, Reason::NoWalTimeout)));
}

#[test]
fn newer_wal_elsewhere_that_arrives_here_too_is_forgotten() {
    let mut b = Bench::new(&[(A, 1000), (B, 900)]);
    let c = b.connect(0);
    b.progress(1000, c.seq, 1000, 1000, 1000);
    b.commit(B, 1010);
    b.show(6000);
    b.progress(12_000, c.seq, 1010, 1010, 12_000);
    assert_eq!(b.progress(21_000, c.seq, 1010, 1010, 12_000), []);
}

#[test]
fn switch_to_same_availability_zone() {
    let settings = Settings { zone: Some("x".into()), ..Settings::default() };
    let mut v = view(&[(A, 1000), (B, 900)]);
    v.candidates.get_mut(&A).expect("A").zone = Some("y".into());
    v.candidates.get_mut(&B).expect("B").zone = Some("x".into());
    let mut b = Bench::with(settings, v);
    let c = b.connect(0);
    assert_eq!(c.safekeeper, A, "a higher commit position beats the zone");
    b.progress(6000, c.seq, 1000, 1000, 5990);
    assert_eq!(b.show(6000), [], "B has less WAL");
    b.commit(B, 1000);
    assert_eq!(published(&b.show(6001)), Some((B, Reason::SwitchAvailabilityZone)));
}

#[test]
fn ties_go_to_the_zone_then_to_fewest_pushes_then_to_the_hash() {
    let mut v = view(&[(A, 100), (B, 100), (C, 100)]);
    v.candidates.get_mut(&A).expect("A").pushes = 1;
    v.candidates.get_mut(&B).expect("B").pushes = 2;
    v.candidates.get_mut(&C).expect("C").pushes = 3;
    assert_eq!(published(&Bench::with(Settings::default(), v.clone()).show(0)).map(|p| p.0), Some(A));
    v.candidates.get_mut(&C).expect("C").zone = Some("x".into());
    let settings = Settings { zone: Some("x".into()), ..Settings::default() };
    assert_eq!(published(&Bench::with(settings, v).show(0)).map(|p| p.0), Some(C));
    let mut hits = std::collections::BTreeMap::new();
    for seed in 0..300 {
        let mut chooser = Chooser::new(Settings::default(), seed * 0x1234_5678_9ABC, 0);
        let mut effects = Vec::new();
        chooser.step(ms(0), Input::View(view(&[(A, 100), (B, 100), (C, 100)])), &mut effects);
        *hits.entry(published(&effects).expect("a choice").0).or_insert(0) += 1;
    }
    assert!(hits.values().all(|n| *n > 60), "the hash spreads: {hits:?}");
}

#[test]
fn an_undialled_choice_moves_on_and_pull_comes_last() {
    let mut b = Bench::new(&[(A, 300), (B, 200)]);
    let Some((id, _)) = published(&b.show(0)) else { panic!("no choice") };
    assert_eq!(id, A);
    b.at(5, Input::Published { seq: 1 });
    assert_eq!(b.at(1004, Input::Tick), []);
    assert_eq!(b.chooser.next_wakeup(ms(1004)), Some(ms(1005)));
    assert_eq!(published(&b.at(1005, Input::Tick)), Some((B, Reason::NotDialled)));
    b.at(1010, Input::Published { seq: 2 });
    let effects = b.at(2010, Input::Tick);
    let [Effect::Dial(c)] = effects[..] else { panic!("no pull: {effects:?}") };
    assert_eq!((c.safekeeper, c.mode, c.reason), (A, Mode::Pull, Reason::NotDialled));
    b.at(2011, Input::Connected { seq: c.seq });
    // Back to push when somebody may be asked again, and while that is awaited the pull goes on.
    assert_eq!(b.at(6000, Input::Tick), []);
    let effects = b.at(7011, Input::Tick);
    assert_eq!(published(&effects), Some((A, Reason::PushPossible)));
    b.at(7011, Input::Published { seq: 4 });
    assert_eq!(b.at(8011, Input::Tick).len(), 1, "B is asked next");
}

#[test]
fn broker_away_streams_go_on_and_a_lost_one_is_pulled_from_the_last_view() {
    let mut b = Bench::new(&[(A, 300), (B, 200)]);
    let c = b.connect(0);
    b.view.broker = false;
    assert_eq!(b.show(100), []);
    assert_eq!(b.progress(6000, c.seq, 300, 300, 6000), []);
    let effects = b.at(6001, Input::StreamEnded { seq: c.seq, how: Ended::Lost });
    let [Effect::Dial(p)] = effects[..] else { panic!("no pull: {effects:?}") };
    assert_eq!((p.safekeeper, p.reason), (B, Reason::ConnectionLost), "the lost one comes last");
    assert_eq!(b.at(6002, Input::StreamEnded { seq: p.seq, how: Ended::Lost }), []);
    let effects = b.at(6101, Input::Tick);
    let [Effect::Dial(p)] = effects[..] else { panic!("no pull: {effects:?}") };
    assert_eq!(p.safekeeper, A);
    b.at(6103, Input::Connected { seq: p.seq });
    b.view.broker = true;
    assert_eq!(b.show(6200), [], "the hold");
    assert_eq!(published(&b.show(11_103)), Some((A, Reason::PushPossible)));
}

#[test]
fn a_broker_that_refuses_a_choice_counts_as_away_for_a_while() {
    let mut b = Bench::new(&[(A, 300)]);
    b.show(0);
    let effects = b.at(10, Input::PublishFailed { seq: 1 });
    assert!(matches!(effects[..], [Effect::Dial(Choice { safekeeper: A, reason: Reason::NoExistingConnection, .. })]));
}

#[test]
fn events_of_earlier_choices_change_nothing() {
    let mut b = Bench::new(&[(A, 300), (B, 200)]);
    let first = b.connect(0);
    let effects = b.at(10, Input::StreamEnded { seq: first.seq, how: Ended::Lost });
    assert_eq!(published(&effects).map(|p| p.0), Some(B));
    assert_eq!(b.at(11, Input::Connected { seq: first.seq }), []);
    assert_eq!(b.at(12, Input::StreamEnded { seq: first.seq, how: Ended::Lost }), []);
    assert_eq!(b.at(13, Input::PublishFailed { seq: first.seq }), []);
    assert_eq!(b.chooser.choice().map(|c| (c.seq, c.safekeeper)), Some((2, B)));
    assert!(b.chooser.is_waiting());
}

#[test]
fn a_late_dial_of_the_standing_choice_is_welcome() {
    let mut b = Bench::new(&[(A, 300)]);
    b.show(0);
    b.at(0, Input::Published { seq: 1 });
    let effects = b.at(1000, Input::Tick);
    let [Effect::Dial(pull)] = effects[..] else { panic!("no pull: {effects:?}") };
    b.at(1001, Input::StreamEnded { seq: pull.seq, how: Ended::Lost });
    assert_eq!(published(&b.at(6000, Input::Tick)), Some((A, Reason::ConnectionLost)));
    b.at(6001, Input::Published { seq: 3 });
    b.at(6500, Input::Connected { seq: 3 });
    assert!(!b.chooser.is_waiting());
}

#[test]
fn the_same_safekeeper_dialling_anew_is_no_failure() {
    let mut b = Bench::new(&[(A, 300), (B, 200)]);
    let c = b.connect(0);
    assert_eq!(b.at(10, Input::StreamEnded { seq: c.seq, how: Ended::Replaced }), []);
    assert_eq!(b.at(11, Input::Connected { seq: c.seq }), []);
    assert_eq!(b.at(2000, Input::Tick), []);
    assert!(!b.chooser.is_waiting());
    // The successor never reports itself: as if it had not dialled.
    b.at(2001, Input::StreamEnded { seq: c.seq, how: Ended::Replaced });
    assert_eq!(published(&b.at(3001, Input::Tick)), Some((B, Reason::NotDialled)));
}

#[test]
fn operator_overrides_hold_and_penalties_but_not_validity() {
    let mut b = Bench::new(&[(A, 300), (B, 200)]);
    b.connect(0);
    b.chooser.penalties.add(ms(0), B, Mode::Push, false);
    assert_eq!(published(&b.at(10, Input::Operator(B))), Some((B, Reason::Operator)));
    assert_eq!(b.at(20, Input::Operator(C)), []);
}

#[test]
fn a_gone_lease_key_ends_candidacy_and_forgets_penalties() {
    let mut b = Bench::new(&[(A, 300), (B, 200)]);
    b.chooser.penalties.add(ms(0), A, Mode::Push, true);
    b.view.candidates.remove(&A);
    assert_eq!(published(&b.show(0)).map(|p| p.0), Some(B));
    assert_eq!(b.chooser.penalties.next_expiry(ms(0)), None);
}

#[test]
fn reasons_have_distinct_stable_texts() {
    let texts: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
    assert_eq!(texts.len(), Reason::ALL.len());
}

#[test]
fn a_dial_in_time_may_wait_for_our_own_disk() {
    let mut b = Bench::new(&[(A, 300), (B, 200)]);
    b.show(0);
    b.at(1, Input::Published { seq: 1 });
    b.at(900, Input::Dialled { seq: 1 });
    assert_eq!(b.at(2000, Input::Tick), []);
    b.at(5000, Input::Connected { seq: 1 });
    assert!(!b.chooser.is_waiting());
}
