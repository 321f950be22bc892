//! The impure half of the connection manager: follows the broker, feeds the chooser of every timeline, carries out
//! what it says.
//!
//! One watch serves all timelines of the node; one task per timeline owns its chooser.

pub(crate) mod driver;
mod publish;
pub(crate) mod view;
