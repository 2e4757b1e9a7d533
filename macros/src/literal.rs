//! Reads literals out of the expressions of the attribute. An expression of another form is left to the compiler.

use proc_macro2::Span;
use syn::{Error, Expr, Lit, LitStr, Result};

use crate::suggest::nearest;

/// The expression without the invisible group that a `macro_rules!` puts around its `$e:expr`.
pub(crate) fn plain(expr: &Expr) -> &Expr {
    match expr {
        Expr::Group(group) if group.attrs.is_empty() => plain(&group.expr),
        Expr::Paren(paren) if paren.attrs.is_empty() => plain(&paren.expr),
        expr => expr,
    }
}

pub(crate) fn literal(expr: &Expr) -> Option<&Lit> {
    match plain(expr) {
        Expr::Lit(literal) if literal.attrs.is_empty() => Some(&literal.lit),
        _ => None,
    }
}

/// The string literal. `None` for any other expression, whose type the compiler checks; a literal of another type is an error.
pub(crate) fn string<'a>(expr: &'a Expr, expected: &str) -> Result<Option<&'a LitStr>> {
    match literal(expr) {
        Some(Lit::Str(string)) => Ok(Some(string)),
        Some(_) => Err(Error::new_spanned(expr, format!("expected {expected}"))),
        None => Ok(None),
    }
}

/// One of a few words in quotes.
pub(crate) fn word<'a>(expr: &Expr, words: impl Iterator<Item = &'a str> + Clone) -> Result<&'a str> {
    let typed = match literal(expr) {
        Some(Lit::Str(string)) => Some(string.value()),
        _ => None,
    };
    if let Some(known) = words.clone().find(|known| typed.as_deref() == Some(*known)) {
        return Ok(known);
    }
    let meant = typed.and_then(|typed| nearest(&typed, words.clone()));
    let meant = meant.map_or_else(String::new, |word| format!(" (did you mean \"{word}\"?)"));
    let words: Vec<_> = words.map(|word| format!("\"{word}\"")).collect();
    Err(Error::new_spanned(expr, format!("expected one of {}{meant}", words.join(", "))))
}

/// The span of some bytes of a literal's value. Stable compilers have no such span; the span of the whole literal replaces it.
pub(crate) fn inside(literal: &LitStr, bytes: std::ops::Range<usize>) -> Span {
    let token = literal.token();
    let typed = token.to_string();
    let value = literal.value();
    // An escape makes the typed text longer than its value, so an offset into the value would point to a wrong place.
    match typed.find('"').map(|quote| quote + 1) {
        Some(start) if !bytes.is_empty() && typed[start..].starts_with(&format!("{value}\"")) => {
            token.subspan(start + bytes.start..start + bytes.end).unwrap_or(literal.span())
        }
        _ => literal.span(),
    }
}
