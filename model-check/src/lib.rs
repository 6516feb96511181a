//! The model check of the record engine: all schedules of a few clients of one key, within bounds, on the very code that
//! runs: the transitions of [`dlock_core::record::machine`], and the decisions of [`dlock_core::record::decide`] and
//! [`dlock_core::record::Judge`].
//!
//! The model has what lies around them: a store that compares and swaps, a network that delays, loses and delivers
//! twice, clients that are stopped and crash, a store's clock that jumps, and what a client does from acquisition to
//! acquisition. [`Setup`] bounds it; [`Fault`] leaves a rule out, so that the tests can show that the check would see it.

mod action;
mod client;
mod clock;
mod continuation;
mod engine;
mod fault;
mod network;
mod properties;
mod report;
mod setup;
mod world;

pub use action::Action;
pub use client::{Client, Stage};
pub use fault::Fault;
pub use network::{Deed, Message};
pub use report::{Found, explore};
pub use setup::Setup;
pub use world::World;
