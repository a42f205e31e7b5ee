//! Stateful actors whose state survives their node.
//!
//! Each key names one actor in the whole cluster, a [`GenServer`] in the sense of Erlang/OTP. It is created on the
//! node that was asked first, and every state that it has answered from is held by *keepers* on other nodes before
//! the answer leaves. An actor that crashes is restarted by its supervisor from the backup; after the loss of a node
//! the next call, on any node, brings the actor back there; a node cut off from the majority does not answer.
//!
//! ```text
//!   Node::call(key, call), on any node
//!        │
//!        ▼
//!   a part of the key space ──(not the owner)── home of the key ──▶ the owner's node
//!        │ owner
//!        ▼
//!   the actor: GenServer::handle_call ──▶ new state ──▶ keepers on other nodes
//!                                                           │ all have it, and the lease holds
//!                                                           ▼
//!                                                        the reply
//! ```
//!
//! ```no_run
//! use serde::{Deserialize, Serialize};
//! use statekeeper::{GenServer, Node, config::Config};
//!
//! struct Counter;
//!
//! #[derive(Serialize, Deserialize)]
//! struct Add(i64);
//!
//! impl GenServer for Counter {
//!     const NAME: &'static str = "counter";
//!     type State = i64;
//!     type Call = Add;
//!     type Reply = i64;
//!
//!     fn init(&self, _key: &str) -> i64 {
//!         0
//!     }
//!
//!     async fn handle_call(&self, _key: &str, Add(n): Add, total: &mut i64) -> i64 {
//!         *total += n;
//!         *total
//!     }
//! }
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let node = Node::builder(Config::new("app_node1")).register(Counter).start().await?;
//! node.connect("app_node2").await?;
//! let total = node.call::<Counter>("visits", Add(1)).await?;
//! # let _ = total;
//! node.leave().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Reading the source
//!
//! Imports point down only. At the bottom is [`protocol`], pure and deterministic: the membership (views agreed by
//! Paxos, leases) and the data (owners, keepers, directory). The same code is model-checked, simulated and run.
//! Above it the network, below ractor_cluster for control and beside it for the data, the ractor actors that drive the
//! protocol, and [`Node`] on top.

mod actors;
pub mod config;
mod error;
mod gen_server;
pub mod guardian;
mod info;
mod net;
mod node;
pub mod protocol;
mod supervisor;
mod wire;

pub use error::{CallError, ConnectError, Crash, StartError};
pub use gen_server::GenServer;
pub use info::{LocalServer, ViewInfo, Whereis};
pub use net::Counters;
pub use node::{Node, NodeBuilder};
pub use supervisor::{Restart, RestartKind};

/// The examples of the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
