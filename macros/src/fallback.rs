//! The output beside the errors.
//!
//! An editor completes code only inside a function that exists, so the user's function is emitted in spite of any mistake. It is
//! emitted inside a plain function of the same name: then neither `async fn main` nor a missing `main` is a second error.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{FnArg, Signature};

use crate::attr::Function;
use crate::types::{handle, is_listener};
use crate::valid::is_entry_point;

/// For an item that is no function. The item stays unchanged.
pub(crate) fn item(errors: &TokenStream, item: &TokenStream) -> TokenStream {
    quote!(#errors #item)
}

/// For a function with a mistake in its signature or in its attribute.
pub(crate) fn function(errors: &TokenStream, function: &Function) -> TokenStream {
    let Function { attrs, vis, sig, body, .. } = function;
    let attrs = attrs.iter().filter(|attribute| !is_entry_point(attribute));
    let name = &sig.ident;
    let own: Vec<_> = sig.inputs.iter().filter(|input| *name != "main" && is_own(input)).collect();
    let sig = without_refused_parts(sig);
    quote! {
        #errors
        #(#attrs)*
        #[allow(unused_variables)]
        #vis fn #name(#(#own),*) -> ::std::process::ExitCode {
            #sig #body
            ::std::process::ExitCode::FAILURE
        }
    }
}

/// Whether the caller of the function probably gives this argument. Then a missing parameter would be a second error.
fn is_own(input: &FnArg) -> bool {
    match input {
        FnArg::Typed(parameter) => !is_listener(&parameter.ty) && handle(&parameter.ty).is_none(),
        FnArg::Receiver(_) => false,
    }
}

/// Removes the parts that validation has already reported. The compiler would report them again.
fn without_refused_parts(sig: &Signature) -> Signature {
    let mut sig = sig.clone();
    sig.constness = None;
    sig.abi = None;
    sig.variadic = None;
    sig.inputs = sig.inputs.into_iter().filter(|input| matches!(input, FnArg::Typed(_))).collect();
    sig
}
