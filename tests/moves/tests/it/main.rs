//! What clients see of an upgrade, by their sockets: each client has the same sockets before and after, each of its requests is
//! answered, and none is carried out twice.
//!
//! * `watched.rs`: the service and its journal. * `foreign.rs`: programs that others wrote. * `idle.rs`: many connections without
//!   a request. * `hostile.rs`: a client that sends whatever HTTP/1.1 allows, in whatever pieces.

mod foreign;
mod hostile;
mod idle;
mod watched;
