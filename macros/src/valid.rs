//! The second step: the meaning of the attribute and of the signature.
//!
//! | file | what is in it |
//! |---|---|
//! | `valid/draft.rs` | the service as far as it is understood; the other files add to it |
//! | `valid/options.rs` | the table of options, and the check of each value |
//! | `valid/listen.rs` | the entries of the option `listen` |
//! | `valid/signature.rs` | the qualifiers and the parameters of the function |
//! | `valid/roles.rs` | the role of each parameter |
//! | `valid/entry_points.rs` | other attributes that make an entry point of the function |

mod draft;
mod entry_points;
mod listen;
mod options;
mod roles;
mod signature;

use proc_macro2::TokenStream;
use syn::Path;

use crate::attr::{Attr, Errors, Function};
use crate::service::{Listener, Parameter, Role, Service};
use draft::{Draft, Entry, plain_name};
pub(crate) use entry_points::is_entry_point;
use signature::Candidate;

/// The service that the attribute and the function declare. `Err` has the tokens that report every mistake.
pub(crate) fn service(attr: &Attr, function: &Function, errors: Errors) -> Result<Service, TokenStream> {
    let mut draft = Draft { errors, ..Draft::default() };
    let listen_is_known = draft.take_options(attr);
    draft.check_runtime_options(&function.sig);
    draft.check_qualifiers(function);
    draft.check_entry_points(function);
    let (mut candidates, signature_is_known) = draft.candidates(&function.sig);
    if listen_is_known {
        draft.check_probe();
        draft.assign(&mut candidates, signature_is_known, &function.sig);
    }
    let Draft { errors, runtime, config, entries, settings, .. } = draft;
    errors.finish()?;

    // Without an error every parameter has its role, and every entry its parameter or a `Listeners`.
    let parameters: Vec<_> = candidates
        .into_iter()
        .filter_map(|Candidate { name, ty, role }| Some(Parameter { name, ty, role: role? }))
        .collect();
    let listeners = entries.into_iter().enumerate();
    let listeners = listeners.map(|(index, entry)| listener(index, entry, &parameters)).collect();
    Ok(Service { runtime: runtime.unwrap_or_else(default_runtime), config, listeners, settings, parameters })
}

/// An entry without a name has the name of its parameter.
fn listener(index: usize, entry: Entry, parameters: &[Parameter]) -> Listener {
    let taker = parameters.iter().find(|parameter| parameter.role == Role::Listener(index));
    let name = entry.name.as_ref().or(taker.map(|parameter| &parameter.name));
    Listener {
        name: name.map_or_else(String::new, plain_name),
        option: entry.option,
        kind: entry.literal.map(|address| address.kind()),
        address: entry.address,
    }
}

fn default_runtime() -> Path {
    syn::parse_quote!(::tableflip)
}
