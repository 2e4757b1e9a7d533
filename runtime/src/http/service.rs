//! What is served: a service of tower or of hyper, or what makes one for each connection.

use std::future::{Future, poll_fn, ready};

use hyper::body::{Body, Incoming};
use hyper::{Request, Response};
use hyper_util::service::TowerToHyperService;

use super::BoxError;

/// A service for [`serve`](super::serve), which is cloned for each connection:
///
/// * a `tower_service::Service` over hyper's requests, such as an `axum::Router`
/// * a `hyper::service::Service`, such as a `service_fn`
/// * what makes a tower service of the client's address, such as
///   `Router::into_make_service_with_connect_info::<SocketAddr>()`, or a tower service over `SocketAddr`. On a Unix listener
///   the address is that of `std::os::unix::net`
///
/// `A` is the type of the client's address, and `Kind` is [`Tower`], [`Hyper`] or [`Make`]. The compiler infers both, so no
/// code names them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no service for HTTP",
    label = "not a service",
    note = "what is served is `Clone` and `Send`, and a `tower_service::Service` or a `hyper::service::Service` over \
            `Request<hyper::body::Incoming>`",
    note = "a router with a state is given it first: `router.with_state(state)`"
)]
pub trait IntoService<A, Kind>: sealed::IntoService<A, Kind> {}

#[diagnostic::do_not_recommend]
impl<A, Kind, S: sealed::IntoService<A, Kind>> IntoService<A, Kind> for S {}

/// A `tower_service::Service`.
#[derive(Debug)]
pub enum Tower {}

/// A `hyper::service::Service`.
#[derive(Debug)]
pub enum Hyper {}

/// A `tower_service::Service` that makes the service of each connection.
#[derive(Debug)]
pub enum Make {}

pub(super) mod sealed {
    use super::*;

    pub trait IntoService<A, Kind>: Clone + Send + 'static {
        type Service: hyper::service::Service<
                Request<Incoming>,
                Response = Response<Self::Body>,
                Error: Into<BoxError>,
                Future: Send + 'static,
            > + Clone
            + Send
            + 'static;
        type Body: Body<Data: Send, Error: Into<BoxError>> + Send + 'static;

        /// The service of one connection.
        fn into_service(
            self,
            peer: A,
        ) -> impl Future<Output = Result<Self::Service, BoxError>> + Send + 'static;
    }
}

impl<A, S, B> sealed::IntoService<A, Tower> for S
where
    S: tower_service::Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Service = TowerToHyperService<S>;
    type Body = B;

    fn into_service(
        self,
        _peer: A,
    ) -> impl Future<Output = Result<Self::Service, BoxError>> + Send + 'static {
        ready(Ok(TowerToHyperService::new(self)))
    }
}

impl<A, S, B> sealed::IntoService<A, Hyper> for S
where
    S: hyper::service::Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Service = S;
    type Body = B;

    fn into_service(self, _peer: A) -> impl Future<Output = Result<S, BoxError>> + Send + 'static {
        ready(Ok(self))
    }
}

impl<A, M, S, B> sealed::IntoService<A, Make> for M
where
    A: Send + 'static,
    M: tower_service::Service<A, Response = S> + Clone + Send + 'static,
    M::Future: Send + 'static,
    M::Error: Into<BoxError>,
    S: tower_service::Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Service = TowerToHyperService<S>;
    type Body = B;

    async fn into_service(mut self, peer: A) -> Result<Self::Service, BoxError> {
        poll_fn(|cx| self.poll_ready(cx)).await.map_err(Into::into)?;
        let service = self.call(peer).await.map_err(Into::into)?;
        Ok(TowerToHyperService::new(service))
    }
}
