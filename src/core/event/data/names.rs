//! Finds a member's name that occurs twice in one object, at any depth.

use std::borrow::Cow;
use std::collections::HashSet;

use super::reader::{Build, EscapedText, UnreadableData, read};

/// Up to this many members, duplicates are found by linear search; above it, with a hash set.
const LINEAR_SEARCH_MAX: usize = 16;
/// Maximum length in characters of a path in an error message.
const MAX_PATH: usize = 128;
/// Maximum length in characters of a name in a path.
const MAX_PATH_NAME: usize = 64;

/// Why the members of a text are not unique.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameProblem {
    Unreadable(UnreadableData),
    /// Carries the path of the second member, which starts with `root`.
    Duplicate(String),
}

impl From<UnreadableData> for NameProblem {
    fn from(error: UnreadableData) -> Self {
        NameProblem::Unreadable(error)
    }
}

/// Checks that no object of a JSON text has two members of the same name. `root` is the text's name in the error.
pub fn check_unique_names(text: &str, max_depth: usize, root: &str) -> Result<(), NameProblem> {
    read(
        text,
        max_depth,
        &mut UniqueNames { root, names: Vec::with_capacity(16), levels: Vec::with_capacity(8) },
    )
}

struct UniqueNames<'t, 'r> {
    root: &'r str,
    /// The names of all open objects, outer objects first.
    names: Vec<Cow<'t, str>>,
    /// The open lists and objects, outer ones first.
    levels: Vec<Level<'t>>,
}

enum Level<'t> {
    /// Holds the number of items that have been read.
    List(usize),
    Object {
        /// The index of its first name.
        first: usize,
        /// All names, if there are many.
        many: Option<HashSet<Cow<'t, str>>>,
    },
}

impl UniqueNames<'_, '_> {
    /// Returns the path of the last name.
    fn path(&self) -> String {
        let mut path = self.root.to_owned();
        let mut last = self.names.len();
        let mut steps = Vec::new();
        // The current member of an object is its last name, the one before the first name of the next object.
        for level in self.levels.iter().rev() {
            match level {
                Level::List(index) => steps.push(format!("[{index}]")),
                Level::Object { first, .. } => {
                    let name = last.checked_sub(1).and_then(|at| self.names.get(at));
                    steps.push(format!(".{:.MAX_PATH_NAME$}", name.map_or("", |name| name)));
                    last = *first;
                }
            }
        }
        path.extend(steps.into_iter().rev());
        // The end of the path says more than its beginning.
        let length = path.chars().count();
        if length <= MAX_PATH { path } else { path.chars().skip(length - MAX_PATH).collect() }
    }
}

impl<'t> Build<'t> for UniqueNames<'t, '_> {
    type Value = ();
    type List = ();
    type Object = ();
    type Name = ();
    type Error = NameProblem;

    fn null(&mut self) -> Result<(), NameProblem> {
        Ok(())
    }

    fn boolean(&mut self, _: bool) -> Result<(), NameProblem> {
        Ok(())
    }

    fn number(&mut self, _: &'t str) -> Result<(), NameProblem> {
        Ok(())
    }

    fn text(&mut self, _: EscapedText<'t>) -> Result<(), NameProblem> {
        Ok(())
    }

    fn start_list(&mut self) -> Result<(), NameProblem> {
        self.levels.push(Level::List(0));
        Ok(())
    }

    fn add_item(&mut self, (): &mut (), (): ()) -> Result<(), NameProblem> {
        if let Some(Level::List(count)) = self.levels.last_mut() {
            *count += 1;
        }
        Ok(())
    }

    fn end_list(&mut self, (): ()) -> Result<(), NameProblem> {
        self.levels.pop();
        Ok(())
    }

    fn start_object(&mut self) -> Result<(), NameProblem> {
        self.levels.push(Level::Object { first: self.names.len(), many: None });
        Ok(())
    }

    fn name(&mut self, (): &mut (), name: EscapedText<'t>) -> Result<(), NameProblem> {
        let name = name.decode();
        let Some(Level::Object { first, many }) = self.levels.last_mut() else { return Ok(()) };
        let earlier = self.names.get(*first..).unwrap_or_default();
        let is_duplicate = match (&mut *many, earlier.len()) {
            (None, 0..LINEAR_SEARCH_MAX) => earlier.contains(&name),
            // The hash set keeps the total cost linear for objects with many members.
            (many, _) => {
                let many = many.get_or_insert_with(|| earlier.iter().cloned().collect());
                !many.insert(name.clone())
            }
        };
        self.names.push(name);
        if is_duplicate { Err(NameProblem::Duplicate(self.path())) } else { Ok(()) }
    }

    fn add_member(&mut self, (): &mut (), (): (), (): ()) -> Result<(), NameProblem> {
        Ok(())
    }

    fn end_object(&mut self, (): ()) -> Result<(), NameProblem> {
        if let Some(Level::Object { first, .. }) = self.levels.pop() {
            self.names.truncate(first);
        }
        Ok(())
    }
}
