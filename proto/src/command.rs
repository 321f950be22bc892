//! Commands of a replication session: text to value, pure. Each server decides which commands it supports and how it
//! answers them.
//!
//! Keywords may be in any case and options in any order; a trailing semicolon is dropped. Anything left over is an
//! error: the grammar is anchored at both ends. `docs/protocol.md` has the grammar.

mod parse;
#[cfg(test)]
mod tests;

use pgformat::{Lsn, Tli};

use crate::admission::Statement;
use crate::backup::BaseBackup;
use crate::consensus::ProtoVersion;
use crate::id::{NodeId, PrimaryEpoch, TenantTimelineId, Term};
use crate::pagestream;

/// What a client asks for with one simple query on a libpq port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// `START_WAL_PUSH [(options)]`: a proposer opens its session.
    StartWalPush(StartWalPush),
    /// `START_REPLICATION [SLOT s] [PHYSICAL] X/X [TIMELINE n] [(term='N')]`: a reader pulls WAL.
    StartReplication(StartReplication),
    /// `START_PUSH_REPLICATION (options)`: a safekeeper offers WAL to the pageserver that chose it.
    StartPush(StartPush),
    /// `pagestream_v2|pagestream_v3 TENANT TIMELINE`: a client reads pages.
    Pagestream {
        /// Version of the messages.
        version: pagestream::PagestreamVersion,
        /// The timeline read from.
        ttid: TenantTimelineId,
    },
    /// `BASE_BACKUP [(options)]`: a client copies a data directory.
    BaseBackup(BaseBackup),
    /// `IDENTIFY_SYSTEM`: who the server is, and up to where it has WAL.
    IdentifySystem,
    /// `TIMELINE_STATUS`: where the session's timeline stands.
    TimelineStatus,
    /// `TIMELINE_HISTORY n`: PostgreSQL's history file of a tli.
    TimelineHistory(Tli),
    /// `MEMBER_STATEMENT 'json'`: another member of the timeline is said to stand there, and asks what is remembered of
    /// it. `MEMBER_STATEMENT` alone: what the safekeeper says of itself.
    MemberStatement(Option<Box<Statement>>),
    /// `CHECK_WAL X/X X/X`: a safekeeper reads the WAL of `[from, to)` back, and says whether it is sound.
    CheckWal {
        /// First byte in doubt.
        from: Lsn,
        /// Position behind the last one.
        to: Lsn,
    },
    /// `SHOW name`; the name in lower case.
    Show(String),
    /// `SET name TO value` or `SET name = value`: accepted by every server without effect. The name in lower case.
    Set {
        /// Name of the setting.
        name: String,
        /// The rest of the command, as written.
        value: String,
    },
    /// Any other text, trimmed, without the semicolon: `CREATE_REPLICATION_SLOT ...` and whatever else.
    Unknown(String),
}

/// `START_WAL_PUSH`. Unknown options are ignored: that is the extension point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StartWalPush {
    /// `proto_version '2'|'3'`; 2 when absent.
    pub version: ProtoVersion,
    /// `allow_timeline_creation 'true'|'false'`; true when absent (a server may forbid it all the same).
    pub allow_timeline_creation: bool,
    /// `primary_epoch 'N'`; required by vanilla timelines.
    pub primary_epoch: Option<PrimaryEpoch>,
    /// `feedback 'prompt'|'lazy'`: whether a pageserver's position comes at once, or with the answer to an append, of
    /// which those that say nothing new are left out; prompt when absent.
    pub lazy_feedback: bool,
}

/// What follows `START_REPLICATION`: from where, on which timeline of PostgreSQL, under which term.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StartReplication {
    /// `SLOT name`: understood, so that it can be refused.
    pub slot: Option<String>,
    /// First byte wanted.
    pub start_lsn: Lsn,
    /// `TIMELINE n`: PostgreSQL's tli.
    pub tli: Option<Tli>,
    /// `(term='N')`: recovery mode, everything up to flush_lsn while the term stays `N`.
    pub term: Option<Term>,
}

/// `START_PUSH_REPLICATION`. Unknown options are ignored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StartPush {
    /// `proto_version '1'`: version of the push handshake.
    pub version: u32,
    /// `sk_id 'N'`: who dials.
    pub safekeeper_id: NodeId,
    /// `choice 'N'`: token, the revision of the choice's key.
    pub choice: u64,
    /// `nonce 'hex'`: copied from the choice's record.
    pub nonce: String,
    /// `term 'N'`: the safekeeper's term, for display.
    pub term: Option<Term>,
    /// `commit_lsn 'X/X'`: the safekeeper's commit position, for display and choice.
    pub commit_lsn: Option<Lsn>,
    /// `features 'a,b'`: what the sender can do.
    pub features: Vec<String>,
}
