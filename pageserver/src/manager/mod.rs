//! The impure half of the connection manager: follows the broker, feeds the chooser of every timeline, carries out
//! what it says.
//!
//! | module | what |
//! |---|---|
//! | [`directory`] | what the broker shows: a leaf |
//! | [`follow`] | one watch serves all timelines of the process |
//! | [`driver`] | one task per timeline owns its chooser |
//! | `publish` | what is told to the broker |
//! | [`watch`] | whether timelines follow the quorum |

pub(crate) mod directory;
pub(crate) mod driver;
pub(crate) mod follow;
mod publish;
pub(crate) mod watch;
