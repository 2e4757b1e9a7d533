//! The second step: what the attribute and the signature mean, correct by construction.

use proc_macro2::{Ident, Span, TokenStream};
use syn::ext::IdentExt as _;
use syn::{Error, Expr, ExprAssign, FnArg, Lit, LitStr, Pat, Path, Result, Safety, Signature, Type};

use crate::address::{Address, Kind, Place};
use crate::attr::{Attr, Errors, Function};
use crate::suggest::{did_you_mean, nearest};

/// Everything the expansion needs, and nothing that could be wrong.
pub(crate) struct Service {
    /// The path of the runtime crate.
    pub(crate) runtime: Path,
    pub(crate) listeners: Vec<Listener>,
    /// In the order in which the user wrote them.
    pub(crate) settings: Vec<Setting>,
    /// In the order of the signature.
    pub(crate) parameters: Vec<Parameter>,
}

/// One call `.listen(name, address)`.
pub(crate) struct Listener {
    pub(crate) option: Ident,
    pub(crate) name: String,
    pub(crate) address: Expr,
    /// Known if the address is a literal.
    pub(crate) kind: Option<Kind>,
}

/// One call `.option(value)`.
pub(crate) struct Setting {
    pub(crate) option: Ident,
    pub(crate) value: Value,
}

pub(crate) enum Value {
    Expr(Expr),
    /// A variant of the runtime's `Flavor`.
    Flavor(&'static str),
}

/// One parameter of the body.
pub(crate) struct Parameter {
    pub(crate) name: Ident,
    pub(crate) ty: Type,
    pub(crate) role: Role,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The index of the listener.
    Listener(usize),
    Harness(Harness),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harness {
    Ready,
    Listeners,
    Other,
}

/// The types of the harness, known by the last segment of their path.
const HARNESS: &[(&str, Harness)] = &[
    ("Shutdown", Harness::Other),
    ("Ready", Harness::Ready),
    ("Upgrader", Harness::Other),
    ("Listeners", Harness::Listeners),
    ("Inherited", Harness::Other),
];

/// Every option: its name, which is the name of the method of `Service` as well, and what takes its value.
///
/// A new option is a new row here and a row in the documentation of the attribute.
const OPTIONS: &[(&str, Take)] = &[
    ("name", take_name),
    ("listen", take_listen),
    ("pidfile", take_path),
    ("control", take_control),
    ("upgrade_timeout", take_duration),
    ("probation", take_duration),
    ("drain_timeout", take_duration),
    ("upgrade_signal", take_signal),
    ("overlap", take_overlap),
    ("supervise", take_supervise),
    ("preflight", take_command),
    ("flavor", take_flavor),
    ("worker_threads", take_worker_threads),
    ("crate", take_crate),
];

type Take = fn(&mut Draft, &Ident, &Expr) -> Result<()>;

/// The longest name of a listener, and of a service, in bytes; the runtime has the same.
const MAX_NAME: usize = 64;

const SIGNALS: [&str; 5] = ["SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGWINCH"];

const OVERLAPS: [&str; 3] = ["refuse", "wait", "hasten"];

const SUPERVISE: [&str; 3] = ["auto", "always", "never"];

/// The names of the flavors and the variants of the runtime's `Flavor`.
const FLAVORS: [(&str, &str); 2] = [("multi_thread", "MultiThread"), ("current_thread", "CurrentThread")];

/// What has been understood so far.
#[derive(Default)]
struct Draft {
    errors: Errors,
    runtime: Option<Path>,
    entries: Vec<Entry>,
    /// Whether the name of an entry could not be read, so that it is not known which parameters are listeners.
    listen_in_doubt: bool,
    settings: Vec<Setting>,
}

/// An entry of `listen`.
struct Entry {
    option: Ident,
    name: Option<Ident>,
    address: Expr,
    /// `None` if the address is known only when the service starts, or is wrong.
    literal: Option<Address>,
}

/// A parameter before it is known what it is for.
struct Candidate {
    name: Ident,
    ty: Type,
    role: Option<Role>,
}

/// `Err` with the tokens that report what is wrong.
pub(crate) fn service(
    attr: &Attr,
    function: &Function,
    errors: Errors,
) -> std::result::Result<Service, TokenStream> {
    let mut draft = Draft { errors, ..Draft::default() };
    let listen_is_known = draft.take_options(attr);
    draft.check_runtime_options(&function.sig);
    draft.check_qualifiers(function);
    let (mut candidates, signature_is_known) = draft.candidates(&function.sig);
    if listen_is_known {
        draft.assign(&mut candidates, signature_is_known, &function.sig);
    }
    let Draft { errors, runtime, entries, settings, .. } = draft;
    errors.finish()?;

    // No error means that every parameter has its role and every entry its parameter.
    let parameters: Vec<_> = candidates
        .into_iter()
        .filter_map(|Candidate { name, ty, role }| Some(Parameter { name, ty, role: role? }))
        .collect();
    let listeners = entries
        .into_iter()
        .enumerate()
        .map(|(index, entry)| {
            let taker = parameters.iter().find(|parameter| parameter.role == Role::Listener(index));
            let name = entry.name.as_ref().or(taker.map(|parameter| &parameter.name));
            Listener {
                name: name.map_or_else(String::new, plain_name),
                option: entry.option,
                kind: entry.literal.map(|address| address.kind()),
                address: entry.address,
            }
        })
        .collect();
    Ok(Service { runtime: runtime.unwrap_or_else(default_runtime), listeners, settings, parameters })
}

fn default_runtime() -> Path {
    syn::parse_quote!(::tableflip)
}

/// `type` for `r#type`.
fn plain_name(name: &Ident) -> String {
    name.unraw().to_string()
}

impl Draft {
    /// Takes every option; says whether the value of `listen` is now known for certain.
    fn take_options(&mut self, attr: &Attr) -> bool {
        let mut seen: Vec<String> = Vec::new();
        let mut any_doubt = attr.unreadable;
        let mut listen = None;
        for option in &attr.options {
            let name = option.name.to_string();
            let Some((_, take)) = OPTIONS.iter().find(|(known, _)| *known == name) else {
                any_doubt = true;
                self.errors.push(Error::new(option.name.span(), unknown_option(&name)));
                continue;
            };
            if seen.contains(&name) {
                self.errors.push(Error::new(option.name.span(), format!("the option `{name}` is set twice")));
                continue;
            }
            let taken = match &option.value {
                None => false,
                Some(value) => match take(self, &option.name, value) {
                    Ok(()) => true,
                    Err(error) => {
                        self.errors.push(error);
                        false
                    }
                },
            };
            any_doubt |= option.value.is_none();
            if name == "listen" {
                listen = Some(taken && !self.listen_in_doubt);
            }
            seen.push(name);
        }
        // Without a `listen`, something that could not be read may have been meant as one.
        listen.unwrap_or(!any_doubt)
    }

    fn set(&mut self, option: &Ident, value: Value) {
        self.settings.push(Setting { option: option.clone(), value });
    }

    /// What one option says about another, or about the function.
    fn check_runtime_options(&mut self, sig: &Signature) {
        let find = |name: &str| self.settings.iter().find(|setting| setting.option == name);
        let (flavor, worker_threads) = (find("flavor"), find("worker_threads"));
        let mut errors = Vec::new();
        if sig.asyncness.is_none() {
            for setting in [flavor, worker_threads].into_iter().flatten() {
                let message = format!(
                    "the option `{}` is for an `async fn`; a plain `fn` runs without tokio",
                    setting.option
                );
                errors.push(Error::new(setting.option.span(), message));
            }
        } else if let (Some(Value::Flavor("CurrentThread")), Some(threads)) =
            (flavor.map(|setting| &setting.value), worker_threads)
        {
            let message = "the option `worker_threads` is for the flavor \"multi_thread\"";
            errors.push(Error::new(threads.option.span(), message));
        }
        errors.into_iter().for_each(|error| self.errors.push(error));
    }

    /// What may stand around `fn`.
    fn check_qualifiers(&mut self, function: &Function) {
        let Function { defaultness, sig, .. } = function;
        let name = &sig.ident;
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
        // Only an `extern` function can be so in the first place.
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

    /// The parameters that have a name and a type, and whether all have.
    fn candidates(&mut self, sig: &Signature) -> (Vec<Candidate>, bool) {
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

    /// Finds out what every parameter is for.
    fn assign(&mut self, candidates: &mut [Candidate], signature_is_known: bool, sig: &Signature) {
        for candidate in &mut *candidates {
            candidate.role =
                self.named(&candidate.name).map(Role::Listener).or_else(|| harness(&candidate.ty));
        }
        let mut unnamed = (0..self.entries.len()).filter(|index| self.entries[*index].name.is_none());
        for candidate in candidates.iter_mut().filter(|candidate| candidate.role.is_none()) {
            candidate.role = unnamed.next().map(Role::Listener);
        }

        let is_taken =
            |index| candidates.iter().any(|candidate| candidate.role == Some(Role::Listener(index)));
        let mut left_over: Vec<_> = (0..self.entries.len()).filter(|index| !is_taken(*index)).collect();
        let takes_the_rest =
            candidates.iter().any(|candidate| candidate.role == Some(Role::Harness(Harness::Listeners)));
        let mut errors = Vec::new();
        for candidate in &*candidates {
            match candidate.role {
                None => errors.push(self.no_entry(candidate, &mut left_over)),
                Some(Role::Listener(_)) => errors.extend(unfit_name(&candidate.name)),
                Some(Role::Harness(_)) => {}
            }
        }
        for entry in left_over.into_iter().map(|index| &self.entries[index]) {
            match &entry.name {
                // It is taken by its name.
                Some(name) if takes_the_rest => errors.extend(unfit_name(name)),
                // A parameter that could not be read may be the one that takes the listener.
                _ if !signature_is_known => {}
                _ => errors.push(no_parameter(entry, takes_the_rest, sig)),
            }
        }
        errors.into_iter().for_each(|error| self.errors.push(error));
    }

    /// The index of the entry of this name.
    fn named(&self, name: &Ident) -> Option<usize> {
        let name = plain_name(name);
        self.entries.iter().position(|entry| entry.name.as_ref().map(plain_name).as_ref() == Some(&name))
    }

    /// The error for a parameter that is nothing. If a listener is left over as well, the two are one mistake,
    /// and the listener is struck off.
    fn no_entry(&self, parameter: &Candidate, left_over: &mut Vec<usize>) -> Error {
        let typed = plain_name(&parameter.name);
        let names: Vec<_> = left_over
            .iter()
            .map(|index| self.entries[*index].name.as_ref().map_or_else(String::new, plain_name))
            .collect();
        let meant = nearest(&typed, names.iter().map(String::as_str))
            .and_then(|name| names.iter().position(|other| other == name))
            .or((!names.is_empty()).then_some(0));
        let fix = match meant {
            Some(at) => {
                left_over.remove(at);
                format!("name the parameter `{}`, as the entry that no parameter takes", names[at])
            }
            None => {
                let entry = format!("{typed} = \"{}\"", usual_address(&parameter.ty));
                let add = if self.entries.is_empty() {
                    format!("declare `listen = [{entry}]`")
                } else {
                    format!("add `{entry}` to `listen`")
                };
                format!("{add}, or take a type of the harness such as `Shutdown`")
            }
        };
        Error::new(parameter.name.span(), format!("no `listen` entry is named `{typed}`; {fix}"))
    }
}

/// The error for a listener that nobody can take.
fn no_parameter(entry: &Entry, has_listeners: bool, sig: &Signature) -> Error {
    let ty = usual_type(entry.literal.as_ref().map_or(Kind::Tcp, Address::kind));
    let function = &sig.ident;
    match &entry.name {
        Some(name) => Error::new(
            name.span(),
            format!("no parameter takes this listener; add `{name}: {ty}` to those of `{function}`"),
        ),
        None => {
            let named = if has_listeners {
                ", or give it a name, by which `Listeners::declared` takes it"
            } else {
                ""
            };
            Error::new_spanned(
                &entry.address,
                format!(
                    "no parameter takes this listener; add one of type `{ty}` to those of `{function}`{named}"
                ),
            )
        }
    }
}

/// The error for a name that the runtime refuses: it is a part of messages and of environment variables.
fn unfit_name(name: &Ident) -> Option<Error> {
    let plain = plain_name(name);
    let fit =
        plain.len() <= MAX_NAME && plain.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let message =
        format!("the name of a listener has at most {MAX_NAME} letters, digits and `_`, all of them ASCII");
    (!fit).then(|| Error::new(name.span(), message))
}

fn unknown_option(name: &str) -> String {
    let names: Vec<_> = OPTIONS.iter().map(|(known, _)| format!("`{known}`")).collect();
    let meant = did_you_mean(name, OPTIONS.iter().map(|(known, _)| *known));
    format!("unknown option `{name}`{meant}; expected one of {}", names.join(", "))
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
            "a parameter cannot be conditional; make the whole function so, once for each case",
        ));
    }
    let name = match &*parameter.pat {
        Pat::Ident(pattern) if pattern.by_ref.is_none() && pattern.subpat.is_none() => &pattern.ident,
        pattern => {
            return Err(Error::new_spanned(
                pattern,
                "expected a plain name; that of a listener is that of its `listen` entry",
            ));
        }
    };
    match plain_type(&parameter.ty) {
        Type::ImplTrait(_) | Type::Infer(_) => Err(Error::new_spanned(
            &parameter.ty,
            "expected a named type, such as `tableflip::net::TcpListener`",
        )),
        _ => Ok(Candidate { name: name.clone(), ty: (*parameter.ty).clone(), role: None }),
    }
}

fn harness(ty: &Type) -> Option<Role> {
    let name = last_segment(ty)?;
    HARNESS.iter().find(|(known, _)| name == known).map(|(_, harness)| Role::Harness(*harness))
}

/// `TcpListener` of `tableflip::net::TcpListener`.
pub(crate) fn last_segment(ty: &Type) -> Option<&Ident> {
    match plain_type(ty) {
        Type::Path(path) => path.path.segments.last().map(|segment| &segment.ident),
        _ => None,
    }
}

/// The name of the type that a listener of this kind is usually taken as.
pub(crate) fn usual_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Tcp => "TcpListener",
        Kind::Udp => "UdpSocket",
        Kind::Unix => "UnixListener",
        Kind::UnixDatagram => "UnixDatagram",
        Kind::UnixSeqpacket => "OwnedFd",
    }
}

/// What the address of a listener looks like that is taken as this type.
fn usual_address(ty: &Type) -> &'static str {
    let is = |kind| last_segment(ty).is_some_and(|name| name == usual_type(kind));
    if is(Kind::Udp) {
        "udp://HOST:PORT"
    } else if is(Kind::Unix) {
        "unix:///PATH"
    } else if is(Kind::UnixDatagram) {
        "unix-dgram:///PATH"
    } else {
        "tcp://HOST:PORT"
    }
}

/// The type without the invisible group that a `macro_rules!` puts around its `$t:ty`.
fn plain_type(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => plain_type(&group.elem),
        Type::Paren(paren) => plain_type(&paren.elem),
        ty => ty,
    }
}

/// The expression without the invisible group that a `macro_rules!` puts around its `$e:expr`.
fn plain(expr: &Expr) -> &Expr {
    match expr {
        Expr::Group(group) if group.attrs.is_empty() => plain(&group.expr),
        Expr::Paren(paren) if paren.attrs.is_empty() => plain(&paren.expr),
        expr => expr,
    }
}

fn literal(expr: &Expr) -> Option<&Lit> {
    match plain(expr) {
        Expr::Lit(literal) if literal.attrs.is_empty() => Some(&literal.lit),
        _ => None,
    }
}

/// The literal if the expression is one, which then is a string; the expression is checked by its type.
fn string<'a>(expr: &'a Expr, expected: &str) -> Result<Option<&'a LitStr>> {
    match literal(expr) {
        Some(Lit::Str(string)) => Ok(Some(string)),
        Some(_) => Err(Error::new_spanned(expr, format!("expected {expected}"))),
        None => Ok(None),
    }
}

/// One of a few words in quotes.
fn word<'a>(expr: &Expr, words: impl Iterator<Item = &'a str> + Clone) -> Result<&'a str> {
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

/// The place of some bytes of a literal's value, where the compiler can tell; else that of the literal.
fn inside(literal: &LitStr, bytes: std::ops::Range<usize>) -> Span {
    let token = literal.token();
    let typed = token.to_string();
    let value = literal.value();
    // With an escape in it, what was typed and its value do not have the same length.
    match typed.find('"').map(|quote| quote + 1) {
        Some(start) if !bytes.is_empty() && typed[start..].starts_with(&format!("{value}\"")) => {
            token.subspan(start + bytes.start..start + bytes.end).unwrap_or(literal.span())
        }
        _ => literal.span(),
    }
}

fn take_listen(draft: &mut Draft, option: &Ident, value: &Expr) -> Result<()> {
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

/// The two sides of an entry.
fn entry(element: &Expr) -> Result<(Option<&Ident>, &Expr)> {
    let (name, address) = match plain(element) {
        Expr::Assign(ExprAssign { attrs, left, right, .. }) if attrs.is_empty() => match plain(left) {
            Expr::Path(path) if path.attrs.is_empty() && path.path.get_ident().is_some() => {
                (path.path.get_ident(), &**right)
            }
            left => return Err(Error::new_spanned(left, "expected the name of a parameter")),
        },
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
    /// The entry that binds the same address, if two cannot.
    fn same_address(&self, address: &Address) -> Option<&Entry> {
        // Port 0 is another port every time, and SO_REUSEPORT is there to bind one address twice.
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

fn take_name(draft: &mut Draft, option: &Ident, value: &Expr) -> Result<()> {
    let is_name = |name: &str| {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(valid)
    };
    if string(value, "a name in quotes, or an expression that yields one")?
        .is_some_and(|name| !is_name(&name.value()))
    {
        let message = format!("the name of a service has 1 to {MAX_NAME} letters, digits, `_` and `-`");
        return Err(Error::new_spanned(value, message));
    }
    draft.set(option, Value::Expr(value.clone()));
    Ok(())
}

fn take_path(draft: &mut Draft, option: &Ident, value: &Expr) -> Result<()> {
    if string(value, "a path in quotes, or an expression that yields one")?
        .is_some_and(|path| path.value().is_empty())
    {
        return Err(Error::new_spanned(value, "the path is empty"));
    }
    draft.set(option, Value::Expr(value.clone()));
    Ok(())
}

fn take_control(draft: &mut Draft, option: &Ident, value: &Expr) -> Result<()> {
    const EXPECTED: &str = "expected a path in quotes, `false`, or an expression that yields one of the two";
    match literal(value) {
        None => {}
        Some(Lit::Bool(on)) if !on.value => {}
        Some(Lit::Str(path)) if !path.value().is_empty() => {}
        Some(_) => return Err(Error::new_spanned(value, EXPECTED)),
    }
    draft.set(option, Value::Expr(value.clone()));
    Ok(())
}

fn take_command(draft: &mut Draft, option: &Ident, value: &Expr) -> Result<()> {
    if string(value, "a command in quotes, or an expression that yields one")?
        .is_some_and(|command| command.value().trim().is_empty())
    {
        return Err(Error::new_spanned(value, "the command is empty"));
    }
    draft.set(option, Value::Expr(value.clone()));
    Ok(())
}

fn take_duration(draft: &mut Draft, option: &Ident, value: &Expr) -> Result<()> {
    const EXPECTED: &str =
        "a duration such as \"500ms\", \"30s\" or \"2m\", or an expression of type `Duration`";
    if let Some(literal) = string(value, EXPECTED)? {
        if let Err(error) = humantime::parse_duration(&literal.value()) {
            let at = match error {
                humantime::DurationError::UnknownUnit { start, end, .. } => start..end,
                humantime::DurationError::InvalidCharacter(at) => at..at + 1,
                _ => 0..0,
            };
            return Err(Error::new(inside(literal, at), format!("not a duration: {error}")));
        }
    }
    draft.set(option, Value::Expr(value.clone()));
    Ok(())
}

fn take_signal(draft: &mut Draft, option: &Ident, value: &Expr) -> Result<()> {
    word(value, SIGNALS.into_iter())?;
    draft.set(option, Value::Expr(value.clone()));
    Ok(())
}

fn take_overlap(draft: &mut Draft, option: &Ident, value: &Expr) -> Result<()> {
    word(value, OVERLAPS.into_iter())?;
    draft.set(option, Value::Expr(value.clone()));
    Ok(())
}

fn take_supervise(draft: &mut Draft, option: &Ident, value: &Expr) -> Result<()> {
    word(value, SUPERVISE.into_iter())?;
    draft.set(option, Value::Expr(value.clone()));
    Ok(())
}

fn take_flavor(draft: &mut Draft, option: &Ident, value: &Expr) -> Result<()> {
    let name = word(value, FLAVORS.iter().map(|(name, _)| *name))?;
    let variant = FLAVORS.iter().find(|(flavor, _)| *flavor == name).map_or("", |(_, variant)| variant);
    draft.set(option, Value::Flavor(variant));
    Ok(())
}

fn take_worker_threads(draft: &mut Draft, option: &Ident, value: &Expr) -> Result<()> {
    match literal(value) {
        Some(Lit::Int(number)) if number.base10_parse::<usize>().is_ok_and(|number| number > 0) => {}
        None => {}
        Some(_) => {
            let message = "expected a number of threads from 1, or an expression of type `usize`";
            return Err(Error::new_spanned(value, message));
        }
    }
    draft.set(option, Value::Expr(value.clone()));
    Ok(())
}

fn take_crate(draft: &mut Draft, _option: &Ident, value: &Expr) -> Result<()> {
    const EXPECTED: &str = "expected an absolute path, such as `::tableflip` or `crate::tableflip`";
    let path = match plain(value) {
        Expr::Path(path) if path.qself.is_none() && path.attrs.is_empty() => path.path.clone(),
        Expr::Lit(literal) => match &literal.lit {
            Lit::Str(quoted) => {
                quoted.parse_with(Path::parse_mod_style).map_err(|_| Error::new(quoted.span(), EXPECTED))?
            }
            _ => return Err(Error::new_spanned(value, EXPECTED)),
        },
        _ => return Err(Error::new_spanned(value, EXPECTED)),
    };
    // A relative path would mean something else wherever a module or a variable of that name is in scope.
    let absolute = path.leading_colon.is_some()
        || path.segments.first().is_some_and(|first| {
            ["crate", "$crate", "self", "super"].iter().any(|keyword| first.ident == keyword)
        });
    if !absolute || path.segments.iter().any(|segment| !segment.arguments.is_none()) {
        return Err(Error::new_spanned(value, EXPECTED));
    }
    draft.runtime = Some(path);
    Ok(())
}
