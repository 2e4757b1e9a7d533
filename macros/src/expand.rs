//! The third step: the generated function.
//!
//! The expansion is one value and one call into the runtime crate, which has all the logic. It contains the user's function with
//! the tokens and spans that the user wrote, so the compiler reports errors in the body at the user's own code.

use proc_macro2::{Delimiter, Group, Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens as _, TokenStreamExt as _, format_ident, quote};
use syn::{Expr, FnArg, Path, ReturnType, Signature, Type, parse_quote};

use crate::address::Kind;
use crate::attr::Function;
use crate::literal::plain;
use crate::service::{Config, Handle, Listener, Parameter, Role, Service, Setting, Value};
use crate::types::{last_segment, usual_type};

pub(crate) fn expand(service: &Service, function: &Function) -> TokenStream {
    let Function { attrs, vis, sig, body, .. } = function;
    let Service { runtime, listeners, settings, parameters, .. } = service;
    let name = &sig.ident;
    let checks = checks(service, function);
    // Each method has the span of the option: an editor shows the method's documentation there, and the compiler its errors
    // about the value.
    let listens = listeners.iter().map(|Listener { option, name, address, .. }| {
        let address = borrowed(address);
        quote!(.#option(#name, #address))
    });
    let listens: Vec<_> = listens.collect();
    let settings = settings.iter().map(|Setting { option, value }| {
        let value = match value {
            Value::Expr(value) => borrowed(value),
            Value::Flavor(variant) => {
                let variant = format_ident!("{variant}");
                quote!(#runtime::Flavor::#variant)
            }
        };
        quote!(.#option(#value))
    });
    let settings: Vec<_> = settings.collect();

    // The hygiene of these variables keeps them apart from every name of the user, also from the name of the function.
    let start = start_variable(parameters);
    let variables: Vec<_> = parameters.iter().map(|parameter| local(&parameter.name.to_string())).collect();
    let take = parameters.iter().zip(&variables).map(|(Parameter { name, ty, role }, variable)| match role {
        Role::Listener(index) => {
            let listener = &listeners[*index].name;
            quote!(let #variable = #start.listener::<#ty>(#listener)?;)
        }
        Role::Handle(_) => quote!(let #variable = #start.handle::<#ty>()?;),
        Role::Config | Role::Own => quote!(let #variable = #name;),
    });
    let own = parameters.iter().filter(|parameter| parameter.role == Role::Own);
    let own = own.map(|Parameter { name, ty, .. }| quote!(#name: #ty));
    let config = configure(service);
    let options = quote!(#config #(#listens)* #(#settings)*);
    let sig = used(sig, parameters, &options);
    let call = quote!(#name(#(#variables),*));
    // The compiler reports at this call that the return type is no `Termination`, so the call has the span of that type.
    let returned = match &sig.output {
        ReturnType::Default => Span::call_site(),
        ReturnType::Type(_, ty) => Span::call_site().located_at(ends(ty).0),
    };
    let is_probed = !is_known_return(&sig.output);
    let (run, body_value) = match sig.asyncness {
        Some(_) if is_probed => ("run", probe(runtime, &quote!(async move), &quote!(#call.await))),
        Some(_) => ("run", call),
        None if is_probed => ("run_blocking", probe(runtime, &quote!(move ||), &call)),
        None => ("run_blocking", quote!(move || #call)),
    };
    let run = Ident::new(run, returned);
    quote! {
        #(#attrs)*
        #vis fn #name(#(#own),*) -> ::std::process::ExitCode {
            #sig #body
            #checks
            #config
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

/// The user's signature. A parameter of the function's own that an option uses is not unused, whether the body uses it or not.
fn used(sig: &Signature, parameters: &[Parameter], options: &TokenStream) -> Signature {
    let mut sig = sig.clone();
    for (input, Parameter { name, role, .. }) in sig.inputs.iter_mut().zip(parameters) {
        if let (FnArg::Typed(input), Role::Own, true) = (input, role, mentions(options, name)) {
            input.attrs.push(parse_quote!(#[allow(unused_variables)]));
        }
    }
    sig
}

fn mentions(tokens: &TokenStream, name: &Ident) -> bool {
    tokens.clone().into_iter().any(|token| match token {
        TokenTree::Ident(ident) => ident == *name,
        TokenTree::Group(group) => mentions(&group.stream(), name),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}

/// Loads the configuration into a variable that the options and the body use. The variable has the name of the option, with the span
/// that the user wrote, so that the user's expressions find it.
fn configure(service: &Service) -> Option<TokenStream> {
    let runtime = &service.runtime;
    let Config { option, value } = service.config.as_ref()?;
    let parameter = service.parameters.iter().find(|parameter| parameter.role == Role::Config);
    // The type is that of the variable in the closure, so the compiler reports another one at the user's expression.
    let (variable, ty) = match parameter {
        Some(Parameter { name, ty, .. }) => (name, Some(quote!(: #ty))),
        None => (option, None),
    };
    let (loaded, code) = (local("loaded"), local("code"));
    Some(quote! {
        // The options and the body need not use it.
        #[allow(unused_variables)]
        let #variable = match #runtime::configure(|| {
            let #loaded #ty = #value;
            ::core::result::Result::Ok(#loaded)
        }) {
            ::core::result::Result::Ok(#loaded) => #loaded,
            ::core::result::Result::Err(#code) => return #code,
        };
    })
}

/// The value of an option. A variable or a field is borrowed: an option reads the configuration, and the body takes it.
fn borrowed(value: &Expr) -> TokenStream {
    match plain(value) {
        Expr::Path(_) | Expr::Field(_) | Expr::Index(_) => quote!(&#value),
        _ => value.to_token_stream(),
    }
}

/// Whether the name of the return type shows that the runtime crate can find the error of the body by itself.
fn is_known_return(output: &ReturnType) -> bool {
    match output {
        ReturnType::Default => true,
        ReturnType::Type(_, ty) => match &**ty {
            Type::Never(_) => true,
            Type::Tuple(tuple) => tuple.elems.is_empty(),
            ty => last_segment(ty).is_some_and(|name| name == "Result"),
        },
    }
}

/// A body that returns any `Termination`. Only the compiler knows the type, so the expansion probes it for the error of a `Result`.
fn probe(runtime: &Path, body: &TokenStream, value: &TokenStream) -> TokenStream {
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

/// The variable for the `Start`. No parameter has its name.
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

/// The checks that need the types themselves: each is a call of a macro of the runtime crate, which the compiler evaluates. A check
/// ends at its first mistake, so each parameter has its own. A type whose name is enough needs no check.
fn checks(service: &Service, function: &Function) -> TokenStream {
    let Service { runtime, listeners, parameters, .. } = service;
    let taken = parameters.iter().filter_map(|Parameter { ty, role, .. }| match role {
        Role::Listener(index) => Some((ty, listeners[*index].kind)),
        Role::Handle(_) | Role::Config | Role::Own => None,
    });

    let kinds = taken.clone().filter_map(|(ty, kind)| {
        let kind = kind.filter(|kind| !is_usual(ty, *kind))?;
        let variant = format_ident!("{kind:?}");
        let (first, last) = ends(ty);
        Some(check_at(first, last, &quote!(#runtime::__private::takes!), quote!(#ty, #variant)))
    });

    let mut types = taken.map(|(ty, _)| ty).peekable();
    let sets_readiness =
        |parameter: &Parameter| matches!(parameter.role, Role::Handle(Handle::Ready | Handle::Listeners));
    let check = match parameters.iter().any(sets_readiness) {
        true => quote!(#runtime::__private::fits!),
        false => quote!(#runtime::__private::readiness!),
    };
    let bodies = types.peek().is_some().then(|| {
        let parentheses = function.sig.paren_token.span.join();
        let body = if function.sig.asyncness.is_some() { quote!(async) } else { quote!(plain) };
        check_at(parentheses, parentheses, &check, quote!(#body #(#types),*))
    });

    kinds.chain(bodies).map(|check| quote!(#check;)).collect()
}

/// Whether the name of the type shows that it fits this kind of listener.
fn is_usual(ty: &Type, kind: Kind) -> bool {
    last_segment(ty).is_some_and(|name| name == usual_type(kind) || name == "OwnedFd")
}

/// A call of a check of the runtime crate, with the span of this place: the compiler reports the error of the check there.
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

/// The spans of the first and of the last token of the type. Only a nightly compiler can join them to one span.
fn ends(ty: &Type) -> (Span, Span) {
    let mut tokens = ty.to_token_stream().into_iter();
    let first = tokens.next().map_or_else(Span::call_site, |token| token.span());
    let last = tokens.last().map_or(first, |token| token.span());
    (first, last)
}
