//! Other attributes that make an entry point of the function, such as `#[tokio::main]`.
//!
//! An attribute below this one is visible. An attribute above this one has gone, and only the tokens that it wrote are left.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::ToTokens as _;
use syn::{Attribute, Error, Path};

use super::draft::Draft;
use crate::attr::Function;

/// The calls in the code of such an attribute.
const STARTS: [&str; 2] = ["block_on", "async_main"];

impl Draft {
    /// Refuses a second entry point: two attributes would each start a runtime.
    pub(super) fn check_entry_points(&mut self, function: &Function) {
        let below = function.attrs.iter().filter(|attribute| is_entry_point(attribute));
        for attribute in below {
            let path = spelled(attribute.path());
            let message = match attribute.path().segments.first() {
                Some(first) if first.ident == "tableflip" => {
                    format!("the attribute `#[{path}]` stands here twice")
                }
                _ => {
                    format!("remove `#[{path}]`: `#[tableflip::main]` runs an `async fn` on tokio by itself")
                }
            };
            self.errors.push(Error::new_spanned(attribute, message));
        }
        // The attribute above has turned an `async fn` into a plain one.
        let is_alone = function.attrs.iter().all(|attribute| !is_entry_point(attribute));
        if is_alone && function.sig.asyncness.is_none() && has_foreign_start(&function.body) {
            let message = "remove the attribute above that starts a runtime, such as `#[tokio::main]`: \
                               `#[tableflip::main]` runs an `async fn` on tokio by itself";
            self.errors.push(Error::new(Span::call_site(), message));
        }
    }
}

/// Whether this is `#[main]` or `#[other::main]`, or the `test` or `launch` of another crate. The `#[test]` of Rust is none: the
/// function of this attribute can be a test.
pub(crate) fn is_entry_point(attribute: &Attribute) -> bool {
    let path = attribute.path();
    let is_of_rust = path.segments.first().is_some_and(|first| first.ident == "core" || first.ident == "std");
    path.segments.last().is_some_and(|last| {
        let is_others = path.segments.len() > 1 && (last.ident == "test" || last.ident == "launch");
        !is_of_rust && (last.ident == "main" || is_others)
    })
}

fn spelled(path: &Path) -> String {
    path.to_token_stream().to_string().replace(' ', "")
}

/// Whether another macro has written the start of a runtime: that name is not in the source text.
fn has_foreign_start(body: &TokenStream) -> bool {
    body.clone().into_iter().any(|token| match token {
        TokenTree::Group(group) => has_foreign_start(&group.stream()),
        TokenTree::Ident(name) => {
            let starts = STARTS.iter().any(|start| name == start);
            starts && name.span().source_text().is_some_and(|text| name != text)
        }
        _ => false,
    })
}
