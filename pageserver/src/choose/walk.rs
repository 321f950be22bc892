//! Random walks: whatever happens in whatever order, the chooser keeps its invariants, and when the world heals there
//! is a stream again.

use super::*;

/// A small generator of its own: the pure part depends on nothing, and a seed always gives the same walk.
struct Dice(u64);

impl Dice {
    /// A number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end.max(1)
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    fn one_of<T: Copy, const N: usize>(&mut self, all: [T; N]) -> T {
        all[usize::try_from(self.below(N as u64)).expect("small")]
    }
}

struct World {
    dice: Dice,
    chooser: Chooser,
    now: Duration,
    view: View,
    seq: u64,
    /// Choices whose stream runs, with the time it began.
    connected: Option<(u64, Duration)>,
    /// The choice made last, not answered yet.
    asked: Option<Choice>,
}

impl World {
    fn new(seed: u64) -> World {
        let settings = Settings { zone: Some("x".into()), ..Settings::default() };
        World {
            dice: Dice(seed),
            chooser: Chooser::new(settings, seed, 0),
            now: Duration::ZERO,
            view: View::default(),
            seq: 0,
            connected: None,
            asked: None,
        }
    }

    fn step(&mut self, input: Input) {
        let is_operator = matches!(input, Input::Operator(_));
        if let Input::View(view) = &input {
            self.view = view.clone();
        }
        let mut effects = Vec::new();
        self.chooser.step(self.now, input, &mut effects);
        let mut made = 0;
        for effect in effects {
            match effect {
                Effect::Publish(c) | Effect::Dial(c) => {
                    made += 1;
                    assert!(c.seq > self.seq, "choice numbers rise");
                    self.seq = c.seq;
                    let candidate = self.view.candidates.get(&c.safekeeper).expect("only what the broker shows");
                    assert!(candidate.commit_lsn.is_some() || is_operator);
                    assert!(c.mode == Mode::Pull || self.view.broker, "nobody can be asked without a broker");
                    self.check_hold(&c);
                    self.asked = Some(c);
                }
                Effect::Close { seq } => {
                    assert_eq!(self.connected.map(|c| c.0), Some(seq), "only a running stream is closed");
                    self.connected = None;
                }
            }
        }
        assert!(made <= 1, "one choice at a time");
    }

    fn check_hold(&self, c: &Choice) {
        let optional = [Reason::LaggingWal, Reason::SwitchAvailabilityZone, Reason::NoWalTimeout, Reason::PushPossible];
        if optional.contains(&c.reason) {
            let (_, since) = self.connected.expect("a better one is asked for only beside a running stream");
            assert!(self.now - since >= self.chooser.settings.hold, "held for 5 s");
        }
    }

    fn random_view(&mut self) -> View {
        let mut candidates = std::collections::BTreeMap::new();
        for id in 1..=4 {
            if self.dice.percent(70) {
                let commit_lsn = Lsn::from_wire(self.dice.below(4) << self.dice.below(31));
                let zone = self.dice.percent(50).then(|| "x".to_owned());
                candidates.insert(NodeId(id), Candidate { commit_lsn, zone, pushes: u32::from(self.dice.percent(50)) });
            }
        }
        View { broker: self.dice.percent(78), candidates }
    }

    fn random_step(&mut self) {
        let pause = self.dice.one_of([5, 500, 6000]);
        self.now += Duration::from_millis(self.dice.below(pause));
        let known = self.dice.below(self.seq + 2);
        match self.dice.below(10) {
            0 | 1 => {
                let view = self.random_view();
                self.step(Input::View(view));
            }
            2 | 3 => self.answer(),
            4 => self.step(Input::PublishFailed { seq: known }),
            5 => {
                let how = self.dice.one_of([Ended::Lost, Ended::Silent, Ended::BadWal, Ended::Replaced]);
                if self.connected.is_some_and(|c| c.0 == known) {
                    self.connected = None;
                }
                self.step(Input::StreamEnded { seq: known, how });
            }
            6 => self.report(),
            7 => {
                let id = NodeId(1 + self.dice.below(4));
                self.step(Input::Operator(id));
            }
            _ => self.step(Input::Tick),
        }
    }

    /// The world does what was asked: publishes, dials, connects.
    fn answer(&mut self) {
        let Some(c) = self.asked.take() else { return };
        if c.mode == Mode::Push {
            self.step(Input::Published { seq: c.seq });
        }
        if self.asked.is_none() && self.chooser.choice() == Some(c) {
            self.connected = Some((c.seq, self.now));
            self.step(Input::Connected { seq: c.seq });
        }
    }

    fn report(&mut self) {
        let Some((seq, _)) = self.connected else { return };
        let last_record_lsn = Lsn::new(self.dice.below(1 << 31));
        let commit_lsn = Some(last_record_lsn.add(self.dice.below(1 << 20)));
        let last_wal_at = self.now.saturating_sub(Duration::from_millis(self.dice.below(12_000)));
        let has_records = self.dice.percent(50);
        let last_message_at = self.now;
        self.step(Input::Progress(Progress {
            seq,
            last_message_at,
            last_wal_at,
            commit_lsn,
            last_record_lsn,
            has_records,
        }));
    }

    /// A broker and one good candidate: within the longest penalty a stream runs.
    fn heal(&mut self) {
        let good = Candidate { commit_lsn: Lsn::from_wire(1 << 40), zone: None, pushes: 0 };
        let candidates = [(NodeId(9), good)].into_iter().collect();
        self.step(Input::View(View { broker: true, candidates }));
        let healed_at = self.now;
        while self.connected.is_none() {
            assert!(self.now - healed_at < Duration::from_secs(30), "no stream 30 s after the world healed");
            self.answer();
            self.now += Duration::from_millis(250);
            self.step(Input::Tick);
        }
    }
}

#[test]
fn random_walks_keep_the_invariants_and_heal() {
    for seed in 0..3000 {
        let mut world = World::new(seed);
        for _ in 0..60 {
            world.random_step();
        }
        // What runs now is lost; a standing choice of the past is simply not answered.
        if let Some((seq, _)) = world.connected.take() {
            world.step(Input::StreamEnded { seq, how: Ended::Lost });
        }
        world.heal();
    }
}
