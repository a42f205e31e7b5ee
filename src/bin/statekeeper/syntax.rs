//! How a line falls into words, in the shell's own syntax and in Erlang's. Pure.

use std::iter::Peekable;
use std::str::Chars;

/// One word of a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Word {
    /// What it means, without quotes.
    pub(crate) text: String,
    /// For an argument that is to arrive as it was typed. Differs from the text only in Erlang's syntax,
    /// where `"5"` is a string and `5` a number; in the shell's own, quotes only hold a word together.
    pub(crate) typed: String,
}

/// The words of a line, the first being the command; none if it is empty or a comment.
pub(crate) fn words(line: &str) -> Result<Vec<Word>, String> {
    let line = line.trim();
    let head = line.find(|c: char| !is_name(c)).unwrap_or(line.len());
    match line[head..].strip_prefix('(') {
        Some(rest) if head > 0 => {
            let mut words = vec![plain(&line[..head])];
            words.extend(arguments(rest)?);
            Ok(words)
        }
        Some(_) | None => own(line),
    }
}

/// The word as it has to be typed in the shell's own syntax to mean `name`.
pub(crate) fn quoted(name: &str) -> String {
    let plain = !name.is_empty()
        && !name.starts_with(['#', '%', '"'])
        && !name.chars().any(|c| c.is_whitespace() || c.is_control());
    if plain {
        return name.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in name.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => quoted.push_str(&format!("\\x{{{:x}}}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// What the name of an Erlang function, with or without its module, is made of.
fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | ':')
}

fn plain(text: &str) -> Word {
    Word {
        text: text.to_owned(),
        typed: text.to_owned(),
    }
}

/// Words between spaces, up to a comment.
fn own(line: &str) -> Result<Vec<Word>, String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        match first {
            '#' | '%' => break,
            '"' => {
                let mut chars = rest[1..].chars().peekable();
                words.push(plain(&string(&mut chars, '"')?));
                if chars.peek().is_some_and(|c| !c.is_whitespace()) {
                    return Err("a space is missing after the closing quote".to_owned());
                }
                rest = &rest[rest.len() - chars.map(char::len_utf8).sum::<usize>()..];
            }
            _ => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                words.push(plain(&rest[..end]));
                rest = &rest[end..];
            }
        }
        rest = rest.trim_start();
    }
    Ok(words)
}

/// The rest of a string up to its closing quote, with Erlang's escapes.
fn string(chars: &mut Peekable<Chars<'_>>, quote: char) -> Result<String, String> {
    let mut text = String::new();
    loop {
        match chars.next() {
            None => return Err(format!("a closing quote ({quote}) is missing")),
            Some(c) if c == quote => return Ok(text),
            Some('\\') => text.push(escaped(chars)?),
            Some(c) => text.push(c),
        }
    }
}

/// The character that a backslash and what follows it stand for.
fn escaped(chars: &mut Peekable<Chars<'_>>) -> Result<char, String> {
    match chars.next() {
        Some('n') => Ok('\n'),
        Some('r') => Ok('\r'),
        Some('t') => Ok('\t'),
        Some('e') => Ok('\x1b'),
        Some('0') => Ok('\0'),
        Some('x') => hexadecimal(chars),
        Some(c) if !c.is_alphanumeric() => Ok(c),
        Some(c) => Err(format!("unknown escape \\{c}: write \\\\ for a backslash")),
        None => Err("a closing quote is missing after the backslash".to_owned()),
    }
}

/// `HH` or `{H…}`, after `\x`.
fn hexadecimal(chars: &mut Peekable<Chars<'_>>) -> Result<char, String> {
    let digits: String = if chars.next_if_eq(&'{').is_some() {
        chars.take_while(|c| *c != '}').take(8).collect()
    } else {
        chars.take(2).collect()
    };
    u32::from_str_radix(&digits, 16)
        .ok()
        .and_then(char::from_u32)
        .ok_or_else(|| format!("\\x{digits} is no character: write \\xHH or \\x{{HHHH}}"))
}

/// The arguments of a call, from behind its opening parenthesis to the end of the line.
fn arguments(rest: &str) -> Result<Vec<Word>, String> {
    let mut typed = vec![String::new()];
    let mut depth = 0_usize;
    let mut chars = rest.chars();
    let mut closed = false;
    while let Some(c) = chars.next() {
        match c {
            ')' if depth == 0 => {
                closed = true;
                break;
            }
            ',' if depth == 0 => {
                typed.push(String::new());
                continue;
            }
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        let Some(argument) = typed.last_mut() else {
            continue;
        };
        argument.push(c);
        if c == '"' || c == '\'' {
            copy_quoted(&mut chars, c, argument)?;
        }
    }
    if !closed {
        return Err("a closing ')' is missing".to_owned());
    }
    let after = chars.as_str().trim_start();
    let after = after.strip_prefix('.').unwrap_or(after).trim_start();
    if !after.is_empty() && !after.starts_with(['%', '#']) {
        return Err("nothing may come after the closing ')'; one call per line".to_owned());
    }
    if let [one] = typed.as_slice()
        && one.trim().is_empty()
    {
        return Ok(Vec::new());
    }
    typed.iter().map(|typed| term(typed.trim())).collect()
}

/// Copies up to and with the closing quote, escapes as they are.
fn copy_quoted(chars: &mut Chars<'_>, quote: char, into: &mut String) -> Result<(), String> {
    loop {
        match chars.next() {
            None => return Err(format!("a closing quote ({quote}) is missing")),
            Some('\\') => {
                into.push('\\');
                into.extend(chars.next());
            }
            Some(c) => {
                into.push(c);
                if c == quote {
                    return Ok(());
                }
            }
        }
    }
}

/// A binary, a string, a quoted atom, or whatever else as it is.
fn term(typed: &str) -> Result<Word, String> {
    if typed.is_empty() {
        return Err("an argument is empty: write <<\"\">> for an empty name".to_owned());
    }
    let inner = typed
        .strip_prefix("<<")
        .and_then(|inner| inner.strip_suffix(">>"))
        .map(|inner| inner.trim().trim_end_matches("/utf8").trim_end());
    let text = match inner {
        Some("") => String::new(),
        Some(inner) => unquoted(inner)?,
        None => unquoted(typed)?,
    };
    Ok(Word {
        text,
        typed: typed.to_owned(),
    })
}

/// What a term means that is one string or quoted atom; any other term as it is.
fn unquoted(term: &str) -> Result<String, String> {
    let Some(quote) = term.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
        return Ok(term.to_owned());
    };
    let mut chars = term[1..].chars().peekable();
    let text = string(&mut chars, quote)?;
    Ok(if chars.peek().is_none() {
        text
    } else {
        term.to_owned()
    })
}
