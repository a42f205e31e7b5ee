use std::collections::BTreeMap;

use super::super::process::Counted;
use super::{OpId, Verdict};

/// I4 and I5 of PROTOCOL.md: after quiet time every key is served from every active node, by the same actor, and has
/// all its copies.
#[derive(Debug)]
pub struct Healed {
    /// What is still to be read: key and process.
    pub missing: Vec<(usize, u64)>,
    logs: BTreeMap<usize, Vec<OpId>>,
}

impl Healed {
    pub fn new(keys: usize, processes: &[u64]) -> Self {
        let of_key = |key| processes.iter().map(move |process| (key, *process));
        Self {
            missing: (0..keys).flat_map(of_key).collect(),
            logs: BTreeMap::new(),
        }
    }

    /// A key was read at a process.
    pub fn read(&mut self, key: usize, process: u64, counted: Counted) -> Verdict {
        self.missing.retain(|at| *at != (key, process));
        let first = self.logs.entry(key).or_insert_with(|| counted.log.clone());
        if *first != counted.log {
            let log = counted.log;
            return Err(format!(
                "I4: key {key} is {first:?}, and {log:?} at process {process}"
            ));
        }
        Ok(())
    }

    /// That many nodes have a copy of a key.
    pub fn copies(key: usize, copies: usize, wanted: usize) -> Verdict {
        if copies < wanted {
            return Err(format!(
                "I5: key {key} has {copies} copies instead of {wanted}"
            ));
        }
        Ok(())
    }

    /// Everything was read: the state of each key.
    pub fn logs(self) -> BTreeMap<usize, Vec<OpId>> {
        self.logs
    }
}
