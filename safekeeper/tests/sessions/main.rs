//! A safekeeper in this process, asked and fed over real sockets.

mod admin;
mod bad_input;
mod captured;
mod cli;
mod common;
mod pull;
mod push;
mod receivewal;
mod strangers;
