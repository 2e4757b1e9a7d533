//! Listening and datagram sockets: bound here, or adopted from another process.
//!
//! | file | what is in it |
//! |---|---|
//! | `bind.rs` | binds an address: resolves a name, tries its addresses, explains an error |
//! | `create.rs` | one new socket: socket(2), its options, bind(2), listen(2) |
//! | `path.rs`, `path_lock.rs` | Unix paths: a stale file, permissions, removal, two starts at once |
//! | `adopt.rs` | takes a socket that another process or the service has made: verified, set up |
//! | `bound.rs` | a socket of this process for as long as it lives |
//! | `tuning.rs`, `sockopt.rs` | the options of a socket, noted before a successor gets it and set back after its death |
//! | `queue.rs` | the accept queue: its length, and a listener that another process has shut down |
//! | `accept.rs` | one connection out of the queue, and which errors pass |
//! | `std_sockets.rs` | the types of std for the kinds of sockets |
//! | `platform.rs` | what Linux has and other platforms do not; its twin says so |

#[cfg_attr(not(upgrades), path = "../portable/outside/sockets/accept.rs")]
mod accept;
mod adopt;
mod bind;
mod bound;
mod create;
#[cfg(unix)]
mod path;
#[cfg(upgrades)]
mod path_lock;
#[cfg_attr(not(upgrades), path = "../portable/outside/sockets/platform.rs")]
mod platform;
#[cfg(upgrades)]
mod queue;
#[cfg(upgrades)]
mod sockopt;
mod std_sockets;
#[cfg(upgrades)]
mod tuning;

#[cfg(upgrades)]
pub(crate) use self::accept::accept_nonblocking;
#[cfg(all(not(upgrades), feature = "tokio"))]
pub(crate) use self::accept::passed_over;
pub(crate) use self::accept::{accept, is_shortage, listen_if_shut_down};
#[cfg(upgrades)]
pub(crate) use self::adopt::{SameAddress, adopt_socket, describe_socket, verify};
pub(crate) use self::adopt::{adopt, receive};
pub(crate) use self::bind::bind;
#[cfg(upgrades)]
pub(crate) use self::bind::{BindError, try_bind};
pub(crate) use self::bound::{BoundSocket, forget};
pub(crate) use self::create::set_live_options;
#[cfg(upgrades)]
pub(crate) use self::path::inode_of;
#[cfg(upgrades)]
pub(crate) use self::path_lock::PathLock;
pub(crate) use self::platform::peers;
pub(crate) use self::std_sockets::{StdDatagram, StdListener};
