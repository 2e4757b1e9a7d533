//! The first step: the text of the user with its spans, before any check.

use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::ext::IdentExt as _;
use syn::parse::discouraged::Speculative as _;
use syn::parse::{Parse, ParseStream, Parser as _};
use syn::{Attribute, Error, Expr, Result, Signature, Token, Visibility, token};

/// The mistakes found so far: all of them are reported in one compile.
#[derive(Default)]
pub(crate) struct Errors {
    reported: Option<Error>,
    left_to_the_compiler: bool,
}

impl Errors {
    pub(crate) fn push(&mut self, error: Error) {
        match &mut self.reported {
            Some(first) => first.combine(error),
            None => self.reported = Some(error),
        }
    }

    /// Stops the expansion for a mistake in the user's function that the compiler itself reports.
    pub(crate) fn leave_to_the_compiler(&mut self) {
        self.left_to_the_compiler = true;
    }

    /// `Err` with the tokens that report the mistakes; `Ok` without a mistake.
    pub(crate) fn finish(self) -> std::result::Result<(), TokenStream> {
        match self.reported {
            Some(error) => Err(error.into_compile_error()),
            None if self.left_to_the_compiler => Err(TokenStream::new()),
            None => Ok(()),
        }
    }
}

/// The options in the parentheses of the attribute.
#[derive(Default)]
pub(crate) struct Attr {
    pub(crate) options: Vec<AttrOption>,
    /// Set when a part could not be read as an option. That part may be any option, so a missing option is no second mistake.
    pub(crate) unreadable: bool,
}

/// One `name = value`.
pub(crate) struct AttrOption {
    pub(crate) name: Ident,
    /// `None` if the value is missing or unreadable. That mistake is already reported.
    pub(crate) value: Option<Expr>,
}

impl Attr {
    pub(crate) fn parse(tokens: TokenStream, errors: &mut Errors) -> Self {
        let mut attr = Self::default();
        let options = |input: ParseStream<'_>| {
            while !input.is_empty() {
                if let Err(error) = attr.parse_option(input, errors) {
                    errors.push(error);
                    skip_option(input);
                }
            }
            Ok(())
        };
        if let Err(error) = options.parse2(tokens) {
            errors.push(error);
        }
        attr
    }

    /// Reads one option and the comma after it.
    fn parse_option(&mut self, input: ParseStream<'_>, errors: &mut Errors) -> Result<()> {
        if !input.peek(Ident::peek_any) {
            self.unreadable = true;
            return Err(input.error("expected an option, such as `pidfile = \"/run/name.pid\"`"));
        }
        let name = Ident::parse_any(input)?;
        let at = self.options.len();
        self.options.push(AttrOption { name: name.clone(), value: None });
        if input.parse::<Option<Token![=]>>()?.is_none() || input.is_empty() {
            return Err(Error::new(name.span(), format!("expected a value: `{name} = ...`")));
        }
        // Parse a fork: after a mistake `skip_option` has to begin at the start of the value.
        let ahead = input.fork();
        let value = ahead.parse::<Expr>().map_err(|error| {
            let form = if name == "listen" { "[name = \"tcp://HOST:PORT\"]" } else { "\"...\"" };
            Error::new(error.span(), format!("{error}; the form is `{name} = {form}`"))
        })?;
        input.advance_to(&ahead);
        self.options[at].value = Some(value);
        if input.is_empty() || input.parse::<Option<Token![,]>>()?.is_some() {
            return Ok(());
        }
        let error = input.error("expected `,`");
        if at_option(input) {
            errors.push(error);
            return Ok(());
        }
        self.options[at].value = None;
        Err(error)
    }
}

fn at_option(input: ParseStream<'_>) -> bool {
    input.peek(Ident::peek_any) && input.peek2(Token![=]) && !input.peek2(Token![==])
}

/// After a mistake, skips to the next comma with an option behind it. Any other comma may be a part of the value, as in
/// `Table::<K, V>::new()`.
fn skip_option(input: ParseStream<'_>) {
    while let Ok(skipped) = input.parse::<TokenTree>() {
        let comma = matches!(&skipped, TokenTree::Punct(punct) if punct.as_char() == ',');
        if comma && at_option(input) {
            return;
        }
    }
}

/// The function under the attribute.
pub(crate) struct Function {
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) vis: Visibility,
    pub(crate) defaultness: Option<Token![default]>,
    pub(crate) sig: Signature,
    /// The braces with their content as tokens. An editor expands the macro on every keystroke, so a parse would cost time, and
    /// the compiler reports mistakes in the body best.
    pub(crate) body: TokenStream,
}

impl Parse for Function {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let attrs = input.call(Attribute::parse_outer)?;
        let vis = input.parse()?;
        let defaultness = input.parse()?;
        let sig = input.parse().map_err(|error: Error| {
            Error::new(error.span(), format!("this attribute is for a function; {error}"))
        })?;
        if !input.peek(token::Brace) {
            return Err(input.error("this attribute is for a function with a body"));
        }
        Ok(Self { attrs, vis, defaultness, sig, body: input.parse()? })
    }
}
