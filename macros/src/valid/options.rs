//! The table of the options, and the check of each value.

use proc_macro2::Ident;
use syn::{Error, Expr, Lit, Path, Result, Signature};

use super::draft::{Draft, MAX_NAME, plain_name};
use super::listen::take_listen;
use crate::attr::{Attr, AttrOption};
use crate::literal::{inside, literal, plain, string, word};
use crate::probe::Probe;
use crate::service::{Config, Value};
use crate::suggest::nearest;

/// Every option: its name, which is also the name of the method of the runtime's `Service`, and the function that takes its value.
///
/// A new option is a new row here, a row in the documentation of the attribute (lib.rs) and in docs/reference.md, and in the runtime a
/// method of `Service` and a field of `Settings`. The UI files list all options.
const OPTIONS: &[(&str, Take)] = &[
    ("name", take_name),
    ("config", take_config),
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
    ("probe", take_probe),
    ("verify", take_command),
    ("flavor", take_flavor),
    ("worker_threads", take_worker_threads),
    ("runtime", take_runtime),
    ("crate", take_crate),
];

type Take = fn(&mut Draft, &Ident, &Expr) -> Result<()>;

const SIGNALS: [&str; 5] = ["SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGWINCH"];

const OVERLAPS: [&str; 3] = ["refuse", "wait", "hasten"];

const SUPERVISE: [&str; 3] = ["auto", "always", "never"];

/// The names of the flavors and the variants of the runtime's `Flavor`.
const FLAVORS: [(&str, &str); 2] = [("multi_thread", "MultiThread"), ("current_thread", "CurrentThread")];

impl Draft {
    /// Takes every option. True if the entries of `listen` are then known for certain.
    pub(super) fn take_options(&mut self, attr: &Attr) -> bool {
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
            let taken = self.take_option(option, *take);
            any_doubt |= option.value.is_none();
            if name == "listen" {
                listen = Some(taken && !self.listen_in_doubt);
            }
            seen.push(name);
        }
        // An option that could not be read may be a misspelt `listen`.
        listen.unwrap_or(!any_doubt)
    }

    /// False if the option has no correct value.
    fn take_option(&mut self, option: &AttrOption, take: Take) -> bool {
        let Some(value) = &option.value else { return false };
        match take(self, &option.name, value) {
            Ok(()) => true,
            Err(error) => {
                self.errors.push(error);
                false
            }
        }
    }

    /// Checks that the listener of a literal probe is declared. The entries of `listen` are known for certain.
    pub(super) fn check_probe(&mut self) {
        let Some((listener, value)) = &self.probe else { return };
        let names: Vec<_> = self.entries.iter().map(|entry| entry.name.as_ref().map(plain_name)).collect();
        // An entry without a name has that of its parameter.
        if names.contains(&None) || names.contains(&Some(listener.clone())) {
            return;
        }
        let meant = did_you_mean(listener, names.iter().flatten().map(String::as_str));
        let message = format!("no listener `{listener}` is declared{meant}");
        self.errors.push(Error::new_spanned(value, message));
    }

    /// Checks the options of tokio's runtime against the function and against each other.
    pub(super) fn check_runtime_options(&mut self, sig: &Signature) {
        let find = |name: &str| self.settings.iter().find(|setting| setting.option == name);
        let (flavor, worker_threads, runtime) = (find("flavor"), find("worker_threads"), find("runtime"));
        let mut errors = Vec::new();
        if sig.asyncness.is_none() {
            for setting in [flavor, worker_threads, runtime].into_iter().flatten() {
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
}

fn unknown_option(name: &str) -> String {
    let names: Vec<_> = OPTIONS.iter().map(|(known, _)| format!("`{known}`")).collect();
    let meant = did_you_mean(name, OPTIONS.iter().map(|(known, _)| *known));
    format!("unknown option `{name}`{meant}; expected one of {}", names.join(", "))
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

fn take_config(draft: &mut Draft, option: &Ident, value: &Expr) -> Result<()> {
    if literal(value).is_some() {
        let message = "expected an expression that loads the configuration, such as `Config::load()?`";
        return Err(Error::new_spanned(value, message));
    }
    draft.config = Some(Config { option: option.clone(), value: value.clone() });
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
    const EXPECTED: &str =
        "expected a path in quotes, `false`, or an expression that yields a path or `false`";
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

fn take_probe(draft: &mut Draft, option: &Ident, value: &Expr) -> Result<()> {
    const EXPECTED: &str = "a request in quotes, such as \"GET /healthz\", or an expression that yields one";
    if let Some(literal) = string(value, EXPECTED)? {
        let probe = Probe::parse(&literal.value()).map_err(|problem| Error::new_spanned(value, problem))?;
        draft.probe = probe.listener().map(|listener| (listener.to_owned(), value.clone()));
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
    take_word(draft, option, value, &SIGNALS)
}

fn take_overlap(draft: &mut Draft, option: &Ident, value: &Expr) -> Result<()> {
    take_word(draft, option, value, &OVERLAPS)
}

fn take_supervise(draft: &mut Draft, option: &Ident, value: &Expr) -> Result<()> {
    take_word(draft, option, value, &SUPERVISE)
}

fn take_word(draft: &mut Draft, option: &Ident, value: &Expr, words: &[&str]) -> Result<()> {
    if literal(value).is_some() {
        word(value, words.iter().copied())?;
    }
    draft.set(option, Value::Expr(value.clone()));
    Ok(())
}

fn take_flavor(draft: &mut Draft, option: &Ident, value: &Expr) -> Result<()> {
    if literal(value).is_none() {
        draft.set(option, Value::Expr(value.clone()));
        return Ok(());
    }
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

fn take_runtime(draft: &mut Draft, option: &Ident, value: &Expr) -> Result<()> {
    if literal(value).is_some() {
        let message = "expected a function that changes the builder of the runtime, such as `|builder| { builder.thread_name(\"http\"); }`";
        return Err(Error::new_spanned(value, message));
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
    // Where the macro is used, a relative path may name a module or a variable that hides the crate.
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

/// `` (did you mean `name`?)`` with a leading space, for the middle of a message; empty without a near name.
fn did_you_mean<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(typed, known).map_or_else(String::new, |name| format!(" (did you mean `{name}`?)"))
}
