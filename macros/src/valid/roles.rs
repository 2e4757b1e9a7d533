//! The role of each parameter: a listener, a handle, the configuration, or a parameter of the function's own.

use proc_macro2::Ident;
use syn::{Error, Signature};

use super::draft::{Draft, Entry, MAX_NAME, plain_name};
use super::signature::Candidate;
use crate::address::{Address, Kind};
use crate::service::{Handle, Role};
use crate::suggest::nearest;
use crate::types::{handle, is_listener, usual_address, usual_type};

impl Draft {
    /// Gives every parameter its role, and reports the parameters without a role and the entries without a parameter.
    pub(super) fn assign(&mut self, candidates: &mut [Candidate], signature_is_known: bool, sig: &Signature) {
        for candidate in &mut *candidates {
            let config = self.is_config(&candidate.name).then_some(Role::Config);
            let listener = || self.named(&candidate.name).map(Role::Listener);
            candidate.role = config.or_else(listener).or_else(|| handle(&candidate.ty).map(Role::Handle));
        }
        let of_config = self.config.as_ref().and_then(|config| self.named(&config.option));
        if let Some(name) = of_config.and_then(|at| self.entries[at].name.clone()) {
            let message =
                "the listener `config` has the name of the option `config`; give the listener another name";
            self.errors.push(Error::new(name.span(), message));
            return;
        }
        if !self.assign_own(candidates, sig) {
            return;
        }
        let mut unnamed = (0..self.entries.len()).filter(|index| self.entries[*index].name.is_none());
        for candidate in candidates.iter_mut().filter(|candidate| candidate.role.is_none()) {
            candidate.role = unnamed.next().map(Role::Listener);
        }

        let is_taken =
            |index| candidates.iter().any(|candidate| candidate.role == Some(Role::Listener(index)));
        let mut left_over: Vec<_> = (0..self.entries.len()).filter(|index| !is_taken(*index)).collect();
        let has_listeners =
            candidates.iter().any(|candidate| candidate.role == Some(Role::Handle(Handle::Listeners)));
        let mut errors = Vec::new();
        for candidate in &*candidates {
            match candidate.role {
                None => errors.push(self.no_entry(candidate, &mut left_over)),
                Some(Role::Listener(_)) => errors.extend(unfit_name(&candidate.name)),
                Some(Role::Handle(_) | Role::Config | Role::Own) => {}
            }
        }
        for entry in left_over.into_iter().map(|index| &self.entries[index]) {
            match &entry.name {
                // The body takes the listener by its name, from `Listeners::declared`.
                Some(name) if has_listeners => errors.extend(unfit_name(name)),
                // A parameter that could not be read may be the one for this listener.
                _ if !signature_is_known => {}
                _ => errors.push(no_parameter(entry, has_listeners, sig)),
            }
        }
        errors.into_iter().for_each(|error| self.errors.push(error));
    }

    fn is_config(&self, name: &Ident) -> bool {
        self.config.as_ref().is_some_and(|config| config.option == plain_name(name))
    }

    /// A function that is called by another may have parameters of its own. Each entry then has a name, so that a listener is not
    /// taken for one of them. A `main` has no caller. False if an entry has no name and needs one, which is reported.
    fn assign_own(&mut self, candidates: &mut [Candidate], sig: &Signature) -> bool {
        let has_no_role = |candidate: &&mut Candidate| candidate.role.is_none();
        let unnamed = self.entries.iter().filter(|entry| entry.name.is_none()).count();
        let without_role = candidates.iter_mut().filter(has_no_role).count();
        if sig.ident == "main" || without_role <= unnamed {
            return true;
        }
        for candidate in candidates.iter_mut().filter(has_no_role).filter(|it| !is_listener(&it.ty)) {
            candidate.role = Some(Role::Own);
        }
        let left = candidates.iter_mut().filter(has_no_role).count();
        let mut are_named = true;
        for entry in self.entries.iter().filter(|entry| entry.name.is_none()).skip(left) {
            are_named = false;
            let message = "this entry needs a name, `name = \"...\"`: the function has parameters of its own, and only a name shows \
                           which parameter is the listener";
            self.errors.push(Error::new_spanned(&entry.address, message));
        }
        are_named
    }

    /// The error for a parameter without a role. A listener without a parameter is probably part of the same mistake: one error
    /// reports both, and the listener is removed from `left_over`.
    fn no_entry(&self, parameter: &Candidate, left_over: &mut Vec<usize>) -> Error {
        let typed = plain_name(&parameter.name);
        let names: Vec<_> = left_over
            .iter()
            .map(|index| self.entries[*index].name.as_ref().map_or_else(String::new, plain_name))
            .collect();
        let meant = nearest(&typed, names.iter().map(String::as_str))
            .and_then(|name| names.iter().position(|other| other == name))
            .or((!names.is_empty()).then_some(0));
        let fix = match meant {
            Some(at) => {
                left_over.remove(at);
                format!("name the parameter `{}`, as the entry that no parameter takes", names[at])
            }
            None if self.config.is_some() && !is_listener(&parameter.ty) => {
                "name the parameter `config` if it is the configuration".to_owned()
            }
            None => {
                let entry = format!("{typed} = \"{}\"", usual_address(&parameter.ty));
                let add = if self.entries.is_empty() {
                    format!("declare `listen = [{entry}]`")
                } else {
                    format!("add `{entry}` to `listen`")
                };
                match (&self.config, is_listener(&parameter.ty)) {
                    (None, false) => format!(
                        "{add}, take a handle under its own name, such as `Shutdown`, or load a configuration with the option `config`"
                    ),
                    _ => format!("{add}, or take a handle under its own name, such as `Shutdown`"),
                }
            }
        };
        Error::new(parameter.name.span(), format!("no `listen` entry is named `{typed}`; {fix}"))
    }
}

/// The error for a listener without a parameter.
fn no_parameter(entry: &Entry, has_listeners: bool, sig: &Signature) -> Error {
    let ty = usual_type(entry.literal.as_ref().map_or(Kind::Tcp, Address::kind));
    let function = &sig.ident;
    match &entry.name {
        Some(name) => Error::new(
            name.span(),
            format!("no parameter takes this listener; add `{name}: {ty}` to the parameters of `{function}`"),
        ),
        None => {
            let named = if has_listeners {
                ", or give the listener a name and take it with `Listeners::declared`"
            } else {
                ""
            };
            Error::new_spanned(
                &entry.address,
                format!(
                    "no parameter takes this listener; add a parameter of type `{ty}` to `{function}`{named}"
                ),
            )
        }
    }
}

/// The error for a name that the runtime refuses: the name is a part of messages and of environment variables.
fn unfit_name(name: &Ident) -> Option<Error> {
    let plain = plain_name(name);
    let fit =
        plain.len() <= MAX_NAME && plain.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let message = format!("the name of a listener has at most {MAX_NAME} ASCII letters, digits and `_`");
    (!fit).then(|| Error::new(name.span(), message))
}
