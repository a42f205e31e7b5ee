//! The arguments of a bench.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::{Failed, Res};

/// What was given, by name. An option without a value has the empty one.
pub(crate) struct Options(BTreeMap<String, String>);

impl Options {
    /// Reads the arguments of this process: the options that take a value, and the flags.
    pub(crate) fn parse(values: &[&str], flags: &[&str]) -> Res<Self> {
        let mut given = BTreeMap::new();
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            if argument == "--bench" {
                continue; // what cargo passes to every benchmark
            }
            let value = if values.contains(&argument.as_str()) {
                arguments
                    .next()
                    .ok_or(format!("{argument} takes a value"))?
            } else if flags.contains(&argument.as_str()) {
                String::new()
            } else {
                let known = [values, flags].concat().join(", ");
                return Err(format!("unknown argument {argument}; there are {known}").into());
            };
            given.insert(argument, value);
        }
        Ok(Self(given))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(crate) fn value<T: FromStr<Err: Into<Failed>>>(&self, name: &str, default: T) -> Res<T> {
        match self.0.get(name) {
            Some(text) => text
                .parse()
                .map_err(|e: T::Err| failed(name, text, e.into())),
            None => Ok(default),
        }
    }

    /// Values with commas between them.
    pub(crate) fn list<T: FromStr<Err: Into<Failed>> + Clone>(
        &self,
        name: &str,
        default: &[T],
    ) -> Res<Vec<T>> {
        let Some(text) = self.0.get(name) else {
            return Ok(default.to_vec());
        };
        let parse = |part: &str| {
            part.parse()
                .map_err(|e: T::Err| failed(name, text, e.into()))
        };
        text.split(',').map(parse).collect()
    }
}

fn failed(name: &str, text: &str, error: Failed) -> Failed {
    format!("{name} {text}: {error}").into()
}
