//! Whose WAL a laggard gets, of the safekeepers that hold it: one after the other, and none that may be damaged. Pure.
//!
//! A laggard that refuses WAL shows that something is wrong with it, not with whom: the donor is asked to read it back.
//! Until it has said that the WAL is sound there, nobody gets it from that donor.

use std::collections::BTreeMap;

use pgformat::Lsn;

/// WAL that a safekeeper supplied for another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Lent {
    /// Who, as an index of the address list.
    pub(crate) donor: usize,
    /// Position of the first byte.
    pub(crate) from: Lsn,
    /// Position behind the last one.
    pub(crate) to: Lsn,
}

/// What a donor said when it was asked to read WAL back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum DonorAnswer {
    /// It reads back well.
    Sound,
    /// It does not.
    Damaged(String),
    /// It did not answer, or cannot tell.
    Unknown(String),
}

/// What is known against a donor.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Doubt {
    lent: Lent,
    /// Who refused it, and why.
    refused: String,
    verdict: Option<DonorAnswer>,
}

/// See the module.
#[derive(Clone, Default, Debug)]
pub(crate) struct Donors {
    /// How often each was in vain: the least often is next.
    failures: BTreeMap<usize, u32>,
    doubts: BTreeMap<usize, Doubt>,
}

impl Donors {
    /// Its place in the order of trying, the lowest first; `None`: not to be used.
    pub(crate) fn rank(&self, donor: usize) -> Option<u32> {
        (!self.doubts.contains_key(&donor)).then(|| self.failures.get(&donor).copied().unwrap_or(0))
    }

    /// Its WAL could not be fetched.
    pub(crate) fn failed(&mut self, donor: usize) {
        let failures = self.failures.entry(donor).or_default();
        *failures = failures.saturating_add(1);
    }

    /// What it lent was refused as damaged. True when it must be asked; false when that is under way.
    pub(crate) fn refused(&mut self, lent: Lent, refused: String) -> bool {
        self.failed(lent.donor);
        let new = !self.doubts.contains_key(&lent.donor);
        if new {
            self.doubts.insert(lent.donor, Doubt { lent, refused, verdict: None });
        }
        new
    }

    /// It was asked. True when it is to be asked again later: only a sound answer ends the doubt.
    pub(crate) fn answered(&mut self, donor: usize, verdict: DonorAnswer) -> bool {
        if verdict == DonorAnswer::Sound {
            self.doubts.remove(&donor);
            return false;
        }
        match self.doubts.get_mut(&donor) {
            Some(doubt) => doubt.verdict = Some(verdict),
            None => return false,
        }
        true
    }

    /// How many are not used.
    pub(crate) fn doubted(&self) -> usize {
        self.doubts.len()
    }

    /// Everybody who is not used, in words; `name` is for an address.
    pub(crate) fn describe(&self, name: impl Fn(usize) -> String) -> Vec<String> {
        let text = |doubt: &Doubt| {
            let Lent { donor, from, to } = doubt.lent;
            let said = match &doubt.verdict {
                None => "it is being asked to read it back".to_owned(),
                Some(DonorAnswer::Damaged(problem)) => format!("it reads back damaged there {problem}"),
                Some(DonorAnswer::Unknown(why)) => format!("it could not tell whether it is sound: {why}"),
                Some(DonorAnswer::Sound) => "it reads back well there".to_owned(),
            };
            let refused = &doubt.refused;
            format!("safekeeper {} is no donor: its WAL of {from}..{to} was refused ({refused}); {said}", name(donor))
        };
        self.doubts.values().map(text).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lent(donor: usize) -> Lent {
        Lent { donor, from: Lsn::new(8), to: Lsn::new(64) }
    }

    #[test]
    fn a_donor_whose_wal_was_refused_rests_until_it_reads_back_well() {
        let mut donors = Donors::default();
        assert_eq!((donors.rank(0), donors.rank(1)), (Some(0), Some(0)));
        assert!(donors.refused(lent(0), "bad checksum".to_owned()), "it is asked");
        assert!(!donors.refused(lent(0), "bad checksum".to_owned()), "once");
        assert_eq!((donors.rank(0), donors.doubted()), (None, 1));
        assert!(donors.answered(0, DonorAnswer::Unknown("away".to_owned())) && donors.rank(0).is_none());
        assert!(
            donors.answered(0, DonorAnswer::Damaged("at 0/10: bad checksum".to_owned())) && donors.rank(0).is_none()
        );
        let said = donors.describe(|i| format!("h:{i}"));
        let refused = "safekeeper h:0 is no donor: its WAL of 0/8..0/40 was refused (bad checksum); ";
        assert_eq!(said, [format!("{refused}it reads back damaged there at 0/10: bad checksum")]);
        assert!(!donors.answered(0, DonorAnswer::Sound));
        assert_eq!(donors.rank(0), Some(2), "behind those that never failed");
    }

    #[test]
    fn donors_that_fail_take_turns() {
        let mut donors = Donors::default();
        donors.failed(0);
        assert!(donors.rank(1) < donors.rank(0));
        donors.failed(1);
        donors.failed(1);
        assert!(donors.rank(0) < donors.rank(1));
        assert!(!donors.answered(5, DonorAnswer::Unknown(String::new())), "nobody doubts it");
    }
}
