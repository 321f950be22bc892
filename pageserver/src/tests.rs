//! The whole server over real sockets, with a real broker and scripted safekeepers.

mod fabric;
mod handshake;
mod life;
mod pages;
mod parts;
mod streams;
