//! Several writers of one timeline, paused anywhere for any time, on storage that loses answers and carries requests
//! out late: no number has two winners, and what was acknowledged is in every manifest that is read afterwards.
//!
//! Each writer deletes old manifests beside what else it does, also after it was fenced.
//!
//! Writers are threads of which one runs at a time: every call to storage hands the turn to a writer that the seed
//! chooses, so a seed is one schedule. Planted bugs in storage show that the checks notice.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard};

use blobs::{BlobEntry, MemoryBlobs, ReadAt};

use super::tests::{Hand, first};
use super::*;

const GRACE: Duration = Duration::from_secs(60);
const WRITERS: usize = 3;
/// What a writer does before it ends.
const ACTIONS: usize = 25;

/// Ways in which the storage of this test is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bug {
    None,
    /// Existence is checked, another writer may run, then the blob is written.
    CheckThenWrite,
    /// A listing shows nothing above what its writer created last: as good as no listing.
    NoListing,
}

struct Turns {
    current: usize,
    /// No turn before this step; none when the writer has ended.
    asleep_until: Vec<Option<u64>>,
    step: u64,
    rng: fastrand::Rng,
    /// Creations and deletions whose callers were told of an error, to be carried out later.
    late: Vec<(String, Option<Bytes>)>,
}

/// What all writers share.
struct World {
    turns: Mutex<Turns>,
    changed: Condvar,
    blobs: MemoryBlobs,
    hand: Hand,
    bug: Bug,
    /// By number: who was told that it won.
    winners: Mutex<BTreeMap<u64, Vec<usize>>>,
    acknowledged: Mutex<Vec<String>>,
    problems: Mutex<Vec<String>>,
}

impl World {
    fn new(seed: u64, bug: Bug) -> Arc<World> {
        let rng = fastrand::Rng::with_seed(seed);
        let asleep_until = vec![Some(0); WRITERS];
        Arc::new(World {
            turns: Mutex::new(Turns { current: 0, asleep_until, step: 0, rng, late: vec![] }),
            changed: Condvar::new(),
            blobs: MemoryBlobs::default(),
            hand: Hand::default(),
            bug,
            winners: Mutex::default(),
            acknowledged: Mutex::default(),
            problems: Mutex::default(),
        })
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().expect("no writer panics with the turn")
    }

    fn random(&self, below: usize) -> usize {
        self.turns().rng.usize(..below)
    }

    /// Hands the turn on and returns when it has come back.
    fn pause(&self, me: usize) {
        let mut turns = self.turns();
        if turns.rng.u8(..12) == 0 {
            turns.asleep_until[me] = Some(turns.step + turns.rng.u64(..300));
        }
        self.next(&mut turns);
        while turns.current != me {
            turns = self.changed.wait(turns).expect("no writer panics with the turn");
        }
    }

    fn end(&self, me: usize) {
        let mut turns = self.turns();
        turns.asleep_until[me] = None;
        self.next(&mut turns);
    }

    fn next(&self, turns: &mut Turns) {
        turns.step += 1;
        self.hand.move_on(turns.rng.u64(..4));
        if !turns.late.is_empty() && turns.rng.u8(..20) == 0 {
            let at = turns.rng.usize(..turns.late.len());
            match turns.late.swap_remove(at) {
                (name, Some(bytes)) => drop(self.blobs.create(&name, &[bytes])),
                (name, None) => drop(self.blobs.delete(&name)),
            }
        }
        let alive = || turns.asleep_until.iter().enumerate().filter_map(|(i, until)| Some((i, (*until)?)));
        let awake: Vec<usize> = alive().filter(|(_, until)| *until <= turns.step).map(|(i, _)| i).collect();
        let earliest = alive().min_by_key(|(_, until)| *until).map(|(i, _)| i);
        turns.current = turns.rng.choice(awake).or(earliest).unwrap_or(WRITERS);
        self.changed.notify_all();
    }

    fn problem(&self, text: String) {
        self.problems.lock().expect("not poisoned").push(text);
    }

    fn acknowledged(&self) -> Vec<String> {
        self.acknowledged.lock().expect("not poisoned").clone()
    }
}

/// One writer's connection.
struct Stepped {
    world: Arc<World>,
    me: usize,
    created: Mutex<String>,
}

impl fmt::Debug for Stepped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "writer {}", self.me)
    }
}

fn lost(name: &str) -> BlobError {
    let (name, detail) = (name.to_owned(), "the answer is lost".to_owned());
    BlobError { kind: BlobErrorKind::Retryable, operation: "create", name, detail }
}

impl Blobs for Stepped {
    fn create(&self, name: &str, parts: &[Bytes]) -> Result<Creation, BlobError> {
        let world = &self.world;
        world.pause(self.me);
        if world.bug == Bug::CheckThenWrite && world.blobs.get(name).is_err() {
            world.pause(self.me);
            world.blobs.delete(name)?;
        }
        name.clone_into(&mut self.created.lock().expect("not poisoned"));
        match world.random(20) {
            0 => world.blobs.create(name, parts).and(Err(lost(name))),
            1 => Err(lost(name)),
            2 => {
                world.turns().late.push((name.to_owned(), Some(parts.concat().into())));
                Err(lost(name))
            }
            _ => world.blobs.create(name, parts),
        }
    }

    fn open(&self, name: &str) -> Result<Arc<dyn ReadAt>, BlobError> {
        self.world.blobs.open(name)
    }

    fn get(&self, name: &str) -> Result<Bytes, BlobError> {
        self.world.pause(self.me);
        if self.world.random(20) == 0 { Err(lost(name)) } else { self.world.blobs.get(name) }
    }

    /// No snapshot: some names are looked for before others.
    fn list(&self, folder: &str) -> Result<Vec<BlobEntry>, BlobError> {
        let world = &self.world;
        world.pause(self.me);
        let salt = world.random(1 << 20) as u64;
        let early =
            |e: &BlobEntry| (number(&e.name).unwrap_or(0) ^ salt).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 63 == 0;
        let mut found = world.blobs.list(folder)?;
        found.retain(early);
        world.pause(self.me);
        found.extend(world.blobs.list(folder)?.into_iter().filter(|e| !early(e)));
        found.sort();
        if world.bug == Bug::NoListing {
            let created = self.created.lock().expect("not poisoned");
            found.retain(|e| created.is_empty() || e.name <= *created);
        }
        Ok(found)
    }

    fn delete(&self, name: &str) -> Result<(), BlobError> {
        self.world.pause(self.me);
        if self.world.random(10) == 0 {
            self.world.turns().late.push((name.to_owned(), None));
            return Err(lost(name));
        }
        self.world.blobs.delete(name)
    }

    fn clean(&self, _folder: &str) -> Result<(), BlobError> {
        Ok(())
    }
}

fn add_token(manifest: &mut Manifest, token: &str) {
    if !manifest.leases.iter().any(|l| l.name == token) {
        let lease = VersionLease { name: token.into(), lsn: Lsn::new(1), until: None, rest: serde_json::Map::new() };
        manifest.leases.push(lease);
    }
}

fn writer(world: &Arc<World>, me: usize) {
    world.pause(me);
    let mut manifests = None;
    let blobs = || -> Arc<dyn Blobs> { Arc::new(Stepped { world: world.clone(), me, created: Mutex::default() }) };
    let mut token = format!("{me}-first");
    // Begun with what counted then; it runs after other actions, as it may beside them.
    let mut sweep: Option<Sweep> = None;
    for action in 0..ACTIONS {
        let Some(mine) = &mut manifests else {
            if let Some(mut begun) = sweep.take() {
                drop(begun.run());
            }
            manifests = Manifests::open(blobs(), world.hand.clock(), GRACE).ok().map(|m| Ownership::Held(Box::new(m)));
            continue;
        };
        match world.random(10) {
            0 => match sweep.take() {
                None => sweep = mine.begin_sweep(),
                Some(mut begun) => {
                    drop(begun.run());
                    mine.end_sweep(begun);
                }
            },
            1 => check_read(world, &blobs()),
            2 => manifests = None,
            _ => {
                // After an error either the same change is tried again, or another one.
                if world.random(2) == 0 {
                    token = format!("{me}-{action}");
                }
                match mine.advance(|m| add_token(m, &token)) {
                    Ok(()) => {
                        let Ownership::Held(held) = mine else { continue };
                        let number = held.number();
                        world.winners.lock().expect("not poisoned").entry(number).or_default().push(me);
                        world.acknowledged.lock().expect("not poisoned").push(token.clone());
                        token = format!("{me}-{action}-next");
                    }
                    Err(ManifestError::Fenced(_)) => manifests = None,
                    Err(_) => {}
                }
            }
        }
    }
    world.end(me);
}

/// A reader finds everything that was acknowledged before it began.
fn check_read(world: &World, blobs: &Arc<dyn Blobs>) {
    let before = world.acknowledged();
    if let Ok(Some((number, manifest))) = read_highest(blobs, &world.hand.clock(), GRACE) {
        let missing = before.iter().find(|token| !manifest.leases.iter().any(|l| l.name == **token));
        if let Some(token) = missing {
            world.problem(format!("manifest {number} was read without {token}"));
        }
    }
}

/// Problems of one schedule, and how many changes were acknowledged.
fn run(seed: u64, bug: Bug) -> (Vec<String>, usize) {
    let world = World::new(seed, bug);
    let blobs: Arc<dyn Blobs> = Arc::new(world.blobs.clone());
    drop(Manifests::create(blobs.clone(), world.hand.clock(), GRACE, first()).expect("creates"));
    std::thread::scope(|scope| {
        for me in 0..WRITERS {
            let world = &world;
            scope.spawn(move || writer(world, me));
        }
    });
    for (number, who) in world.winners.lock().expect("not poisoned").iter() {
        if who.iter().any(|w| w != &who[0]) {
            world.problem(format!("writers {who:?} all won {number}"));
        }
    }
    check_read(&world, &blobs);
    let problems = world.problems.lock().expect("not poisoned").clone();
    let acknowledged = world.acknowledged().len();
    (problems, acknowledged)
}

#[test]
fn several_writers_never_lose_an_update() {
    let mut acknowledged = 0;
    for seed in 0..400 {
        let (problems, changes) = run(seed, Bug::None);
        assert_eq!(problems, Vec::<String>::new(), "seed {seed}");
        acknowledged += changes;
    }
    assert!(acknowledged > 2000, "only {acknowledged} changes");
}

#[test]
fn the_model_notices_planted_bugs() {
    for bug in [Bug::CheckThenWrite, Bug::NoListing] {
        let caught = (0..400).filter(|seed| !run(*seed, bug).0.is_empty()).count();
        assert!(caught > 0, "{bug:?} was not caught");
    }
}
