//! The handle [`Listeners`]: listeners that the body takes or binds at run time.

use std::io;
use std::sync::Arc;

use crate::base::address::Address;
use crate::base::error::StartError;
use crate::base::limits::{MAX_LISTENERS, check_name, collide, too_many_listeners};
use crate::base::unadopted::{self, Entry, Unadopted};
use crate::between::note::Note;
use crate::between::params::{FromHandle, FromListener, Start, check_kind, make, unopened};
use crate::between::pool::Pool;
use crate::between::shared::Shared;
use crate::config::convert::{Seal, Setting, declared};
#[cfg(upgrades)]
use crate::outside::sockets::SameAddress;
use crate::outside::sockets::{self, BoundSocket};
use crate::sys::fd::OwnedFd;

/// Takes declared listeners at run time, and binds others. Their number or their addresses may come from a configuration.
///
/// The body can take and bind listeners until the service is ready. Without a [`Ready`](crate::Ready) the service needs at
/// least one managed listener. It is ready once the body has asked every managed listener for its first connection. So take
/// and bind all listeners before serving the first. A declared listener that the body has not taken when the service would
/// be ready fails the start. A socket that the predecessor has offered and that the body has not bound again by then is
/// closed.
#[derive(Clone, Debug)]
pub struct Listeners {
    shared: Arc<Shared>,
}

impl Listeners {
    /// Takes the declared listener of this name, if it is not a parameter of the body.
    ///
    /// # Errors
    ///
    /// No listener of this name is declared, the listener has been taken, `T` is not for this kind of socket, or the
    /// service is ready.
    pub fn declared<T: FromListener>(&self, name: &str) -> Result<T, StartError> {
        // Without the lock while `make` runs: it calls code of other crates.
        let socket = {
            let pool = self.shared.pool();
            let pool = pool.as_ref().ok_or_else(|| too_late(name))?;
            if pool.unopened.iter().any(|unopened| unopened == name) {
                return unopened(name);
            }
            pool.declared[pool.untaken(name)?].clone()
        };
        let mut gates = Vec::new();
        let made = make(&socket, &self.shared, &mut gates)?;
        // Posted with the lock, as in `enter`: readiness takes the lock as well. It finds the listener taken with its note
        // in the inbox, or not taken.
        let mut pool = self.shared.pool();
        let pool = pool.as_mut().ok_or_else(|| too_late(name))?;
        let at = pool.untaken(name)?;
        drop(pool.declared.remove(at));
        self.shared.post(Note::Listener { socket: None, gates, adopted: None });
        Ok(made)
    }

    /// Inherits the listener of this name and address from the predecessor, or binds it. If a listener is declared with
    /// this name and address and has not been taken, this takes the declared listener.
    ///
    /// # Errors
    ///
    /// The address does not parse, or the system cannot bind it. The name or the address is in use in this process. `T` is not for
    /// this kind of socket. The service is ready, or has 10,000 listeners.
    pub fn bind<T: FromListener>(&self, name: &str, address: impl Setting<Address>) -> Result<T, StartError> {
        self.obtain(name, address, |address| sockets::bind(name, address))
    }

    /// Like [`bind`](Self::bind), with a function that makes the socket if it is not inherited. This is for options that
    /// an [`Address`] does not have. The socket must be bound to the address. If its kind accepts connections, it must
    /// also listen.
    ///
    /// # Errors
    ///
    /// As for [`bind`](Self::bind), and the error of the function.
    pub fn bind_with<T, S>(
        &self,
        name: &str,
        address: impl Setting<Address>,
        make_socket: impl FnOnce(&Address) -> io::Result<S>,
    ) -> Result<T, StartError>
    where
        T: FromListener,
        S: Into<OwnedFd>,
    {
        self.obtain(name, address, |address| {
            let socket = make_socket(address).map_err(|source| StartError::Bind {
                listener: name.to_owned(),
                address: Box::new(address.clone()),
                action: "make a socket for",
                source,
            })?;
            sockets::receive(name, address, socket.into())
        })
    }

    /// Inherits the listener of this name and address. Returns `None` if the predecessor does not have it. If a listener
    /// is declared with this name and address and has not been taken, this takes the declared listener, inherited or not.
    ///
    /// # Errors
    ///
    /// As for [`bind`](Self::bind).
    pub fn take<T: FromListener>(
        &self,
        name: &str,
        address: impl Setting<Address>,
    ) -> Result<Option<T>, StartError> {
        let address = self.parse(name, address)?;
        if self.is_declared(name, &address) {
            return self.declared(name).map(Some);
        }
        self.enter(name, &address, |offered| {
            offered.map(|(entry, fd)| sockets::adopt(&address, entry, fd)).transpose()
        })
    }

    /// Adds a socket that was made elsewhere, so that successors inherit it.
    ///
    /// # Errors
    ///
    /// As for [`bind`](Self::bind). Also if the socket does not fit the address.
    pub fn add(
        &self,
        name: &str,
        address: impl Setting<Address>,
        fd: impl Into<OwnedFd>,
    ) -> Result<(), StartError> {
        let address = self.parse(name, address)?;
        let receive = |address: &Address| sockets::receive(name, address, fd.into());
        self.inherit_or::<OwnedFd>(name, &address, receive).map(drop)
    }

    fn obtain<T: FromListener>(
        &self,
        name: &str,
        address: impl Setting<Address>,
        bind: impl FnOnce(&Address) -> Result<BoundSocket, StartError>,
    ) -> Result<T, StartError> {
        let address = self.parse(name, address)?;
        if self.is_declared(name, &address) {
            return self.declared(name);
        }
        self.inherit_or(name, &address, bind)
    }

    fn inherit_or<T: FromListener>(
        &self,
        name: &str,
        address: &Address,
        bind: impl FnOnce(&Address) -> Result<BoundSocket, StartError>,
    ) -> Result<T, StartError> {
        let obtained = self.enter(name, address, |offered| match offered {
            Some((entry, fd)) => sockets::adopt(address, entry, fd).map(Some),
            None => bind(address).map(Some),
        })?;
        Ok(obtained.expect("it is inherited or bound"))
    }

    /// Whether a listener is declared with this name and address and has not been taken.
    fn is_declared(&self, name: &str, address: &Address) -> bool {
        let is_same =
            |socket: &BoundSocket| socket.name == name && socket.address.identity() == address.identity();
        self.shared.pool().iter().any(|pool| pool.declared.iter().any(is_same))
    }

    fn parse(&self, name: &str, address: impl Setting<Address>) -> Result<Address, StartError> {
        check_name(name)?;
        let address = declared(address).map_err(|unusable| unusable.of_listener(name.to_owned()))?;
        address.ok_or_else(|| StartError::Listener {
            listener: name.to_owned(),
            problem: "its address is `None`".to_owned(),
        })
    }

    /// Obtains a socket by `obtain_socket` and makes a listener of it. This does not lock the pool meanwhile, because it may
    /// resolve a name, which can take long, and the engine needs the lock. It reserves the name and the address instead.
    fn enter<T: FromListener>(
        &self,
        name: &str,
        address: &Address,
        obtain_socket: impl FnOnce(Option<(Entry, OwnedFd)>) -> Result<Option<BoundSocket>, StartError>,
    ) -> Result<Option<T>, StartError> {
        check_kind::<T>(name, address)?;
        let unadopted = self.reserve(name, address)?;
        let unadopted = unadopted.or_else(|| self.take_same(name, address));
        let _binding = self.shared.binding(address);
        let place = unadopted.as_ref().and_then(|it| it.source.place());
        let mut gates = Vec::new();
        let made = obtain_socket(unadopted.map(|it| (it.entry, it.fd))).and_then(|socket| match socket {
            Some(socket) => match make(&socket, &self.shared, &mut gates) {
                Ok(made) => Ok(Some((made, socket))),
                Err(error) => {
                    sockets::forget(&[socket], self.shared.who());
                    Err(error)
                }
            },
            None => Ok(None),
        });
        // Posted with the lock, which readiness takes as well. It finds the note in the inbox, or this finds the pool
        // closed.
        let mut pool = self.shared.pool();
        match (made, pool.as_mut()) {
            (Ok(Some((made, socket))), Some(_)) => {
                let adopted = place.map(|place| (place, name.to_owned()));
                self.shared.post(Note::Listener { socket: Some(Box::new(socket)), gates, adopted });
                Ok(Some(made))
            }
            (Ok(Some((_, socket))), None) => {
                sockets::forget(&[socket], self.shared.who());
                Err(too_late(name))
            }
            (nothing, Some(pool)) => {
                pool.used.retain(|(used, _)| used != name);
                nothing.map(|_| None)
            }
            (nothing, None) => nothing.map(|_| None),
        }
    }

    /// Reserves the name and the address. Takes the socket for them, if one came with this process.
    fn reserve(&self, name: &str, address: &Address) -> Result<Option<Unadopted>, StartError> {
        let fail = |problem: String| StartError::Listener { listener: name.to_owned(), problem };
        let mut pool = self.shared.pool();
        let pool = pool.as_mut().ok_or_else(|| too_late(name))?;
        if pool.used.len() >= MAX_LISTENERS {
            return Err(fail(too_many_listeners()));
        }
        if pool.used.iter().any(|(used, _)| used == name) {
            return Err(fail("there is one of this name already".to_owned()));
        }
        if let Some((other, _)) = pool.used.iter().find(|(_, used)| collide(used, address)) {
            return Err(fail(format!("it has the address of `{other}`, {}", address.identity())));
        }
        pool.used.push((name.to_owned(), address.clone()));
        Ok(unadopted::take_offered(&mut pool.unadopted, name, address))
    }
}

#[cfg(upgrades)]
impl Listeners {
    /// Takes the socket of an address that the predecessor spells in another way. The pool is not locked while a name is
    /// resolved.
    fn take_same(&self, name: &str, address: &Address) -> Option<Unadopted> {
        self.shared.pool().as_ref().filter(|pool| !pool.unadopted.is_empty())?;
        let same = SameAddress::of(address);
        let mut pool = self.shared.pool();
        let unadopted = &mut pool.as_mut()?.unadopted;
        let at = same.find(unadopted, name)?;
        unadopted::take_at(unadopted, at, name)
    }
}

#[cfg(not(upgrades))]
impl Listeners {
    #[expect(clippy::unused_self, reason = "its twin adopts sockets")]
    fn take_same(&self, _name: &str, _address: &Address) -> Option<Unadopted> {
        None
    }
}

fn too_late(name: &str) -> StartError {
    let problem = "the service is ready; listeners are bound before that".to_owned();
    StartError::Listener { listener: name.to_owned(), problem }
}

impl FromHandle for Listeners {
    fn from_handle(start: &mut Start, _: Seal) -> Self {
        let names = |socket: &BoundSocket| (socket.name.clone(), socket.address.clone());
        let used = start.sockets.iter().map(names).collect();
        let is_left = |socket: &&BoundSocket| !start.taken.contains(&socket.name);
        let declared = start.sockets.iter().filter(is_left).cloned().collect();
        let unadopted = std::mem::take(&mut start.unadopted);
        let unopened = start.unopened.clone();
        start.shared.pool().get_or_insert_with(|| Pool { declared, unopened, unadopted, used });
        Listeners { shared: start.shared.clone() }
    }
}
