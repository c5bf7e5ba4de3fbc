//! Visits everything that can happen, breadth first, and shows the shortest way to the first thing that must not.

use core::fmt::Debug;
use std::collections::HashSet;

/// Something in which steps can be taken.
pub(crate) trait Model: Clone {
    type Step: Copy + Debug;

    /// The steps that can be taken now.
    fn steps(&self) -> Vec<Self::Step>;

    /// Takes one of them.
    fn take(&mut self, step: Self::Step);

    /// What is wrong here, if anything is.
    fn wrong(&self) -> Option<String>;

    /// The same for two situations that have the same future, and different for others.
    fn fingerprint(&self) -> u128;

    /// Whether nothing is left to happen but faults.
    fn is_at_rest(&self) -> bool;

    /// What there is to see, for people.
    fn picture(&self) -> String;
}

/// What a search has found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Different situations.
    pub(crate) situations: usize,
    /// Steps that were taken.
    pub(crate) steps: usize,
    /// Situations in which everything had come to rest.
    pub(crate) at_rest: usize,
    /// How many steps the farthest situation is away.
    pub(crate) depth: usize,
    /// Not everything was visited: there are more situations than that.
    pub(crate) is_cut_short: bool,
    /// The shortest way to something wrong, told step by step.
    pub(crate) counterexample: Option<String>,
}

/// How a situation was reached first: from which one and by which step.
type Origin<S> = Option<(u32, S)>;

/// Visits everything that can be reached from `root`, but no more than `most` situations.
pub(crate) fn search<M: Model>(root: &M, most: usize) -> Found {
    let mut found = Found::default();
    let mut known = HashSet::from([root.fingerprint()]);
    let mut origins: Vec<Origin<M::Step>> = vec![None];
    let mut level = vec![(0, root.clone())];
    while !level.is_empty() {
        let mut next_level = Vec::new();
        for (number, model) in level {
            found.at_rest += usize::from(model.is_at_rest());
            if let Some(what) = model.wrong() {
                found.situations = origins.len();
                found.counterexample = Some(told(root, &origins, number, &what));
                return found;
            }
            for step in model.steps() {
                found.steps += 1;
                let mut next = model.clone();
                next.take(step);
                if !known.insert(next.fingerprint()) {
                    continue;
                }
                if origins.len() == most {
                    found.is_cut_short = true;
                    continue;
                }
                next_level.push((u32::try_from(origins.len()).expect("bounded"), next));
                origins.push(Some((number, step)));
            }
        }
        level = next_level;
        found.depth += usize::from(!level.is_empty());
    }
    found.situations = origins.len();
    found
}

/// The way to a situation, step by step.
fn told<M: Model>(root: &M, origins: &[Origin<M::Step>], number: u32, what: &str) -> String {
    let mut steps = Vec::new();
    let mut at = number;
    while let Some((before, step)) = origins[at as usize] {
        steps.push(step);
        at = before;
    }
    steps.reverse();
    let mut model = root.clone();
    let mut lines = vec![format!("{what}, after {} steps:", steps.len()), format!("    {}", model.picture())];
    for (index, step) in steps.into_iter().enumerate() {
        model.take(step);
        lines.push(format!("{:>3} {step:?}\n    {}", index + 1, model.picture()));
    }
    lines.join("\n")
}
