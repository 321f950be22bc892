//! What becomes of a request for one file of WAL.

use pgformat::Lsn;

/// What became of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The file was written.
    Written {
        /// Address of the member it came from.
        from: String,
        /// Position behind the last byte of WAL in it; none for a history file.
        upto: Option<Lsn>,
    },
    /// It does not exist, with why.
    NotThere(String),
}

/// `why` it does not exist, in words.
pub(super) fn not_there(why: String) -> Outcome {
    Outcome::NotThere(why)
}
