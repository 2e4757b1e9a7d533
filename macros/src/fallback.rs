//! What is emitted beside the errors.
//!
//! An editor completes inside a function only while the function exists, so it is emitted whatever is wrong with
//! the attribute. It is emitted in a form that causes no further errors: inside a plain function of the same name,
//! so that neither `async fn main` nor a missing `main` is a second mistake.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{FnArg, Signature};

use crate::attr::Function;

/// For an item that is no function: nothing is known about it, so it stays as it is.
pub(crate) fn item(errors: &TokenStream, item: &TokenStream) -> TokenStream {
    quote!(#errors #item)
}

/// For a function whose signature or attribute is at fault.
pub(crate) fn function(errors: &TokenStream, function: &Function) -> TokenStream {
    let Function { attrs, vis, sig, body, .. } = function;
    let name = &sig.ident;
    let sig = without_what_only_some_functions_may_have(sig);
    quote! {
        #errors
        #(#attrs)*
        #vis fn #name() -> ::std::process::ExitCode {
            #sig #body
            ::std::process::ExitCode::FAILURE
        }
    }
}

/// Each of these has been reported, and the compiler would report it again.
fn without_what_only_some_functions_may_have(sig: &Signature) -> Signature {
    let mut sig = sig.clone();
    sig.constness = None;
    sig.abi = None;
    sig.variadic = None;
    sig.inputs = sig.inputs.into_iter().filter(|input| matches!(input, FnArg::Typed(_))).collect();
    sig
}
