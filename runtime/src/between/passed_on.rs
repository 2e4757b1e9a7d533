//! The descriptors that the next successor gets by name: those of the service, and the crate's own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::base::error::PassOnError;
use crate::base::limits::{MAX_FILE_NAME, MAX_PASSED_ON, OWN_FILE};
use crate::sys::fd::OwnedFd;

/// Each name here passes every limit of an offer, so no upgrade fails because of a name.
#[derive(Default)]
pub(crate) struct PassedOn {
    files: Mutex<Files>,
}

#[derive(Default)]
struct Files {
    of_service: BTreeMap<String, Arc<OwnedFd>>,
    /// Kept apart, so that nothing of the service replaces or withdraws one of them.
    #[cfg(upgrades)]
    own: BTreeMap<&'static str, Arc<OwnedFd>>,
}

impl PassedOn {
    /// Adds a descriptor of the service, or replaces the one of this name.
    pub(crate) fn set(&self, name: String, fd: OwnedFd) -> Result<(), PassOnError> {
        let length = name.len();
        if length > MAX_FILE_NAME {
            return Err(PassOnError::LongName { length, limit: MAX_FILE_NAME });
        }
        if is_own(&name) {
            return Err(PassOnError::ReservedName { name });
        }
        let mut files = self.lock();
        if files.of_service.len() >= MAX_PASSED_ON && !files.of_service.contains_key(&name) {
            return Err(PassOnError::TooMany { limit: MAX_PASSED_ON });
        }
        let replaced = files.of_service.insert(name, Arc::new(fd));
        // close(2) may block, and the engine thread takes the lock.
        drop(files);
        drop(replaced);
        Ok(())
    }

    /// Removes a descriptor of the service. Returns whether there was one of this name.
    pub(crate) fn withdraw(&self, name: &str) -> bool {
        let withdrawn = self.lock().of_service.remove(name);
        withdrawn.is_some()
    }

    /// Adds a descriptor of this crate.
    #[cfg(upgrades)]
    pub(crate) fn set_own(&self, name: &'static str, fd: OwnedFd) {
        self.lock().own.insert(name, Arc::new(fd));
    }

    /// A descriptor of this crate.
    #[cfg(upgrades)]
    pub(crate) fn own(&self, name: &str) -> Option<Arc<OwnedFd>> {
        self.lock().own.get(name).cloned()
    }

    /// All of them, for an offer.
    #[cfg(upgrades)]
    pub(crate) fn all(&self) -> Vec<(String, Arc<OwnedFd>)> {
        let files = self.lock();
        let own = files.own.iter().map(|(name, fd)| ((*name).to_owned(), fd.clone()));
        own.chain(files.of_service.iter().map(|(name, fd)| (name.clone(), fd.clone()))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the name is one of this crate, of this release or of another.
pub(crate) fn is_own(name: &str) -> bool {
    name.contains(OWN_FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fd() -> OwnedFd {
        std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket").into()
    }

    #[test]
    fn b12_a_name_that_no_successor_would_take_is_refused() {
        let passed_on = PassedOn::default();
        // The limit counts bytes, and not characters.
        for name in ["", "x", "\n", &"x".repeat(MAX_FILE_NAME), &"\u{fc}".repeat(MAX_FILE_NAME / 2)] {
            passed_on.set(name.to_owned(), fd()).unwrap();
            assert!(passed_on.withdraw(name) && !passed_on.withdraw(name), "{name:?}");
        }
        for name in ["x".repeat(MAX_FILE_NAME + 1), "\u{fc}".repeat(MAX_FILE_NAME / 2 + 1)] {
            let error = passed_on.set(name.clone(), fd()).unwrap_err();
            assert_eq!(error, PassOnError::LongName { length: name.len(), limit: MAX_FILE_NAME });
        }
        for name in ["\0", "supervisor\0", "\0supervisor", "a\0b"] {
            let error = passed_on.set(name.to_owned(), fd()).unwrap_err();
            assert_eq!(error, PassOnError::ReservedName { name: name.to_owned() });
        }
    }

    #[test]
    #[cfg(upgrades)]
    fn b12_a_service_does_not_reach_the_descriptors_of_the_crate() {
        let passed_on = PassedOn::default();
        passed_on.set_own("own\0", fd());
        passed_on.set("own".to_owned(), fd()).unwrap();
        assert!(!passed_on.withdraw("own\0"));
        passed_on.set("own\0".to_owned(), fd()).unwrap_err();
        let names: Vec<_> = passed_on.all().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["own\0", "own"]);
        assert!(passed_on.own("own\0").is_some() && passed_on.own("own").is_none());
    }

    /// The descriptors of the service all share one socket here: a process may not have so many.
    #[test]
    fn b12_no_more_are_passed_on_than_an_offer_has_room_for() {
        let passed_on = PassedOn::default();
        let shared = Arc::new(fd());
        let names = (0..MAX_PASSED_ON).map(|at| at.to_string());
        passed_on.lock().of_service.extend(names.map(|name| (name, shared.clone())));
        assert_eq!(
            passed_on.set("more".to_owned(), fd()),
            Err(PassOnError::TooMany { limit: MAX_PASSED_ON })
        );
        passed_on.set("7".to_owned(), fd()).unwrap();
        assert!(passed_on.withdraw("7"));
        passed_on.set("more".to_owned(), fd()).unwrap();
    }
}
