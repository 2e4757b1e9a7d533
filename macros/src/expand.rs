//! The third step: the generated function.
//!
//! It is one value and one call into the runtime crate; what there is of logic lives there. The user's function
//! is inside, token by token as it was written, so that whatever the compiler has to say about it, it says it of
//! the user's own code.

use proc_macro2::{Delimiter, Group, Ident, Span, TokenStream};
use quote::{ToTokens as _, TokenStreamExt as _, format_ident, quote};
use syn::{Path, ReturnType, Type};

use crate::address::Kind;
use crate::attr::Function;
use crate::valid::{Harness, Listener, Parameter, Role, Service, Setting, Value, last_segment, usual_type};

pub(crate) fn expand(service: &Service, function: &Function) -> TokenStream {
    let Function { attrs, vis, sig, body, .. } = function;
    let Service { runtime, listeners, settings, parameters } = service;
    let name = &sig.ident;
    let checks = checks(service, function);
    // The methods are called by the words that the user typed, so an editor shows their documentation there and the
    // compiler its errors about the values.
    let listens =
        listeners.iter().map(|Listener { option, name, address, .. }| quote!(.#option(#name, #address)));
    let settings = settings.iter().map(|Setting { option, value }| {
        let value = match value {
            Value::Expr(value) => value.to_token_stream(),
            Value::Flavor(variant) => {
                let variant = format_ident!("{variant}");
                quote!(#runtime::Flavor::#variant)
            }
        };
        quote!(.#option(#value))
    });

    // The local variables are ours: no name of the user's, not even that of the function, is confused with them.
    let start = start_variable(parameters);
    let variables: Vec<_> = parameters.iter().map(|parameter| local(&parameter.name.to_string())).collect();
    let take = parameters.iter().zip(&variables).map(|(Parameter { ty, role, .. }, variable)| match role {
        Role::Listener(index) => {
            let listener = &listeners[*index].name;
            quote!(let #variable = #start.listener::<#ty>(#listener)?;)
        }
        Role::Harness(_) => quote!(let #variable = #start.harness::<#ty>()?;),
    });
    let call = quote!(#name(#(#variables),*));
    // That the body returns something else than a `Termination` is found at this call, but made in the signature.
    let returned = match &sig.output {
        ReturnType::Default => Span::call_site(),
        ReturnType::Type(_, ty) => Span::call_site().located_at(ends(ty).0),
    };
    let told = !says_what_it_returns(&sig.output);
    let (run, body_value) = match sig.asyncness {
        Some(_) if told => ("run", tell(runtime, &quote!(async move), &quote!(#call.await))),
        Some(_) => ("run", call),
        None if told => ("run_blocking", tell(runtime, &quote!(move ||), &call)),
        None => ("run_blocking", quote!(move || #call)),
    };
    let run = Ident::new(run, returned);
    quote! {
        #(#attrs)*
        #vis fn #name() -> ::std::process::ExitCode {
            #sig #body
            #checks
            #runtime::Service::new()
                .package(#runtime::__private::package!())
                #(#listens)*
                #(#settings)*
                .#run(|#start| {
                    #(#take)*
                    ::core::result::Result::Ok(#body_value)
                })
        }
    }
}

/// Whether the name of the type leaves no doubt that it is one of those that the runtime crate finds the error in.
fn says_what_it_returns(output: &ReturnType) -> bool {
    match output {
        ReturnType::Default => true,
        ReturnType::Type(_, ty) => match &**ty {
            Type::Never(_) => true,
            Type::Tuple(tuple) => tuple.elems.is_empty(),
            ty => last_segment(ty).is_some_and(|name| name == "Result"),
        },
    }
}

/// A body that returns any `Termination`. Whether that is a `Result` with an error in it, the compiler tells here, where the type is known.
fn tell(runtime: &Path, body: &TokenStream, value: &TokenStream) -> TokenStream {
    let (returned, error) = (local("returned"), local("error"));
    quote! {
        #body {
            use #runtime::__private::NoError as _;
            let #returned = #value;
            let #error = #runtime::__private::Probe(&#returned).error();
            #runtime::__private::told(#returned, #error)
        }
    }
}

fn local(name: &str) -> Ident {
    match name.strip_prefix("r#") {
        Some(name) => Ident::new_raw(name, Span::mixed_site()),
        None => Ident::new(name, Span::mixed_site()),
    }
}

/// The variable with the `Start`; it has a name that no parameter has.
fn start_variable(parameters: &[Parameter]) -> Ident {
    if parameters.is_empty() {
        return local("_");
    }
    let mut name = "start".to_owned();
    while parameters.iter().any(|parameter| parameter.name == name) {
        name.push('_');
    }
    local(&name)
}

/// What only the types can tell, but the compiler already: one check of the runtime crate for each, because the evaluation ends
/// with the first mistake. Where the name of a type leaves no doubt, nothing is emitted.
fn checks(service: &Service, function: &Function) -> TokenStream {
    let Service { runtime, listeners, parameters, .. } = service;
    let taken = parameters.iter().filter_map(|Parameter { ty, role, .. }| match role {
        Role::Listener(index) => Some((ty, listeners[*index].kind)),
        Role::Harness(_) => None,
    });

    let kinds = taken.clone().filter_map(|(ty, kind)| {
        let kind = kind.filter(|kind| !says_that_it_takes(ty, *kind))?;
        let variant = format_ident!("{kind:?}");
        let (first, last) = ends(ty);
        Some(check_at(first, last, &quote!(#runtime::__private::takes!), quote!(#ty, #variant)))
    });

    let mut types = taken.map(|(ty, _)| ty).peekable();
    let decides_itself =
        |parameter: &Parameter| matches!(parameter.role, Role::Harness(Harness::Ready | Harness::Listeners));
    let in_doubt = types.peek().is_some() && !parameters.iter().any(decides_itself);
    let readiness = in_doubt.then(|| {
        let parentheses = function.sig.paren_token.span.join();
        check_at(parentheses, parentheses, &quote!(#runtime::__private::readiness!), quote!(#(#types),*))
    });

    kinds.chain(readiness).map(|check| quote!(#check;)).collect()
}

/// Whether the name of the type leaves no doubt.
fn says_that_it_takes(ty: &Type, kind: Kind) -> bool {
    last_segment(ty).is_some_and(|name| name == usual_type(kind) || name == "OwnedFd")
}

/// A check of the runtime crate that the compiler finds at this place: whatever goes wrong in it is shown there.
fn check_at(first: Span, last: Span, check: &TokenStream, arguments: TokenStream) -> TokenStream {
    let mut call: TokenStream = check
        .clone()
        .into_iter()
        .map(|mut token| {
            token.set_span(token.span().located_at(first));
            token
        })
        .collect();
    let mut arguments = Group::new(Delimiter::Parenthesis, arguments);
    arguments.set_span(Span::call_site().located_at(last));
    call.append(arguments);
    call
}

/// Where the type begins and ends. The two can be joined to one span only on nightly.
fn ends(ty: &Type) -> (Span, Span) {
    let mut tokens = ty.to_token_stream().into_iter();
    let first = tokens.next().map_or_else(Span::call_site, |token| token.span());
    let last = tokens.last().map_or(first, |token| token.span());
    (first, last)
}
