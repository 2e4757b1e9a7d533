//! The entries of the option `listen`.

use proc_macro2::Ident;
use syn::{Error, Expr, ExprAssign, Result};

use super::draft::{Draft, Entry};
use crate::address::{Address, Place};
use crate::literal::{inside, plain, string};

pub(super) fn take_listen(draft: &mut Draft, option: &Ident, value: &Expr) -> Result<()> {
    let Expr::Array(list) = plain(value) else {
        return Err(Error::new_spanned(value, "expected a list: `listen = [name = \"tcp://HOST:PORT\"]`"));
    };
    for element in &list.elems {
        let (name, address) = match entry(element) {
            Ok(entry) => entry,
            Err(error) => {
                draft.errors.push(error);
                draft.listen_in_doubt = true;
                continue;
            }
        };
        if let Some(name) = name.filter(|name| draft.named(name).is_some()) {
            draft.errors.push(Error::new(name.span(), format!("the listener `{name}` is declared twice")));
            continue;
        }
        let literal = match literal_address(address) {
            Ok(literal) => literal,
            Err(error) => {
                draft.errors.push(error);
                None
            }
        };
        if let Some(other) = literal.as_ref().and_then(|literal| draft.same_address(literal)) {
            let of =
                other.name.as_ref().map_or_else(String::new, |name| format!(" by the listener `{name}`"));
            draft.errors.push(Error::new_spanned(address, format!("this address is already taken{of}")));
        }
        let (option, name, address) = (option.clone(), name.cloned(), address.clone());
        draft.entries.push(Entry { option, name, address, literal });
    }
    Ok(())
}

/// The name and the address of an entry.
fn entry(element: &Expr) -> Result<(Option<&Ident>, &Expr)> {
    let (name, address) = match plain(element) {
        Expr::Assign(ExprAssign { attrs, left, right, .. }) if attrs.is_empty() => match plain(left) {
            Expr::Path(path) if path.attrs.is_empty() && path.path.get_ident().is_some() => {
                (path.path.get_ident(), &**right)
            }
            left => return Err(Error::new_spanned(left, "expected the name of a parameter")),
        },
        Expr::Tuple(_) => {
            return Err(Error::new_spanned(element, "expected an entry: `name = \"tcp://HOST:PORT\"`"));
        }
        _ => (None, element),
    };
    Ok((name, address))
}

fn literal_address(address: &Expr) -> Result<Option<Address>> {
    let Some(literal) = string(address, "an address in quotes, such as \"tcp://127.0.0.1:7000\"")? else {
        return Ok(None);
    };
    match literal.value().parse() {
        Ok(address) => Ok(Some(address)),
        Err(error) => Err(Error::new(inside(literal, error.at()), error)),
    }
}

impl Draft {
    /// The entry whose socket would prevent a bind of this address.
    fn same_address(&self, address: &Address) -> Option<&Entry> {
        // Each bind of port 0 gets another port. SO_REUSEPORT on both sockets allows one address twice, socket(7).
        if matches!(address.place(), Place::Ip { port: 0, .. }) {
            return None;
        }
        self.entries.iter().find(|entry| {
            entry.literal.as_ref().is_some_and(|other| {
                let shared = [address, other].iter().all(|one| one.options().reuse_port == Some(true));
                other.identity() == address.identity() && !shared
            })
        })
    }
}
