//! The function under the attribute: its qualifiers and its parameters.

use proc_macro2::Ident;
use syn::{Error, FnArg, Pat, Result, Safety, Signature, Type};

use super::draft::Draft;
use crate::attr::Function;
use crate::service::Role;
use crate::types::{handle, is_usual_type, plain_type};

/// Whether the runtime crate can run an `async fn`.
const HAS_TOKIO: bool = cfg!(any(feature = "tokio", test));

/// A parameter before its role is known.
pub(super) struct Candidate {
    pub(super) name: Ident,
    pub(super) ty: Type,
    pub(super) role: Option<Role>,
}

impl Draft {
    /// Refuses what a service function cannot have: qualifiers, generics and variadic parameters.
    pub(super) fn check_qualifiers(&mut self, function: &Function) {
        let Function { defaultness, sig, .. } = function;
        let name = &sig.ident;
        if let (Some(token), false) = (sig.asyncness, HAS_TOKIO) {
            let message = "an `async fn` needs the feature `tokio` of the crate `tableflip`; without that feature write a \
                           plain `fn`";
            self.errors.push(Error::new(token.span, message));
        }
        let unsafety = match &sig.safety {
            Safety::Unsafe(token) => Some(token.span),
            Safety::Safe(token) => Some(token.span),
            _ => None,
        };
        let qualifiers = [
            (defaultness.map(|token| token.span), "`default`"),
            (sig.constness.map(|token| token.span), "`const`"),
            (unsafety, "`unsafe`"),
            (sig.abi.as_ref().map(|abi| abi.extern_token.span), "`extern`"),
        ];
        for (span, what) in qualifiers {
            if let Some(span) = span {
                self.errors.push(Error::new(span, format!("`{name}` cannot be {what}")));
            }
        }
        // Only an `extern` function can be variadic, and `extern` has its own error.
        if let (Some(variadic), None) = (&sig.variadic, &sig.abi) {
            self.errors.push(Error::new_spanned(variadic, format!("`{name}` cannot be variadic")));
        }
        if !sig.generics.params.is_empty() {
            self.errors.push(Error::new_spanned(&sig.generics, format!("`{name}` cannot be generic")));
        }
        if let Some(clause) = &sig.generics.where_clause {
            self.errors.push(Error::new_spanned(clause, format!("`{name}` cannot have a `where` clause")));
        }
    }

    /// The parameters that have a name and a type, and whether these are all parameters.
    pub(super) fn candidates(&mut self, sig: &Signature) -> (Vec<Candidate>, bool) {
        let mut candidates: Vec<Candidate> = Vec::new();
        for input in &sig.inputs {
            match candidate(input, sig) {
                Ok(candidate) => {
                    if candidates.iter().any(|other| other.name == candidate.name) {
                        self.errors.leave_to_the_compiler();
                    }
                    candidates.push(candidate);
                }
                Err(error) => self.errors.push(error),
            }
        }
        let all = candidates.len() == sig.inputs.len() && sig.variadic.is_none();
        (candidates, all)
    }
}

fn candidate(input: &FnArg, sig: &Signature) -> Result<Candidate> {
    let parameter = match input {
        FnArg::Typed(parameter) => parameter,
        FnArg::Receiver(receiver) => {
            return Err(Error::new_spanned(receiver, format!("`{}` cannot take `self`", sig.ident)));
        }
    };
    if let Some(attribute) = parameter.attrs.iter().find(|attribute| attribute.path().is_ident("cfg")) {
        return Err(Error::new_spanned(
            attribute,
            "a parameter cannot be conditional; write the whole function once for each case",
        ));
    }
    let name = match &*parameter.pat {
        Pat::Ident(pattern) if pattern.by_ref.is_none() && pattern.subpat.is_none() => &pattern.ident,
        pattern => {
            return Err(Error::new_spanned(
                pattern,
                "expected a plain name; a listener has the name of its `listen` entry",
            ));
        }
    };
    match plain_type(&parameter.ty) {
        Type::ImplTrait(_) | Type::Infer(_) => Err(Error::new_spanned(
            &parameter.ty,
            "expected a named type, such as `tableflip::net::TcpListener`",
        )),
        Type::Reference(reference) if is_ours(&reference.elem) => Err(Error::new_spanned(
            &parameter.ty,
            "expected the type without `&`: the body owns its listeners and handles",
        )),
        _ => Ok(Candidate { name: name.clone(), ty: (*parameter.ty).clone(), role: None }),
    }
}

/// Whether the name of the type is that of a handle or of the usual type for a listener.
fn is_ours(ty: &Type) -> bool {
    handle(ty).is_some() || is_usual_type(ty)
}
