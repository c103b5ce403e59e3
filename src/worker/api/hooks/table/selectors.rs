//! The events that hooks select, each once: a hundred thousand hooks name a few hundred, and a row has a number instead.

use std::fmt::Write;
use std::sync::Arc;

use crate::core::fast_map::FastMap;

/// The number of a selector. Numbers of selectors that no hook has are used again.
pub type SelectorId = u32;

/// A source and an event that hooks name.
#[derive(Debug)]
pub struct Selector {
    /// Its key in `Selectors::ids`: the length of the source, the source and the event.
    key: Arc<str>,
    source: (usize, usize),
    has_event: bool,
    /// The hooks that have it.
    hooks: u32,
}

/// The selectors of a table of hooks.
#[derive(Debug, Default)]
pub struct Selectors {
    /// By number. None: the number is free.
    selectors: Vec<Option<Selector>>,
    ids: FastMap<Arc<str>, SelectorId>,
    free: Vec<SelectorId>,
    /// For keys that are looked up, so that most lookups allocate nothing.
    buffer: String,
}

impl Selector {
    pub fn source(&self) -> &str {
        let (start, end) = self.source;
        self.key.get(start..end).unwrap_or_default()
    }

    /// Returns None if the hooks receive every event of the source.
    pub fn event(&self) -> Option<&str> {
        let (_, end) = self.source;
        self.has_event.then(|| self.key.get(end..).unwrap_or_default())
    }
}

impl Selectors {
    /// Counts a hook with this selector and returns the selector's number.
    pub fn add(&mut self, source: &str, event: Option<&str>) -> SelectorId {
        self.buffer.clear();
        // The length shows where the source ends; the mark distinguishes no event from an empty one. Writing to a text cannot fail.
        let mark = if event.is_some() { '=' } else { '*' };
        write!(self.buffer, "{}{mark}", source.len()).ok();
        let start = self.buffer.len();
        self.buffer.push_str(source);
        self.buffer.push_str(event.unwrap_or_default());
        let id = match self.ids.get(self.buffer.as_str()) {
            Some(id) => *id,
            None => {
                let key: Arc<str> = self.buffer.as_str().into();
                let source = (start, start + source.len());
                self.insert(Selector { key, source, has_event: event.is_some(), hooks: 0 })
            }
        };
        if let Some(selector) = self.slot(id).and_then(Option::as_mut) {
            selector.hooks += 1;
        }
        id
    }

    /// Uncounts a hook. Forgets a selector that no other hook has.
    pub fn remove(&mut self, id: SelectorId) {
        let Some(slot) = self.slot(id) else { return };
        let Some(selector) = slot else { return };
        selector.hooks = selector.hooks.saturating_sub(1);
        if selector.hooks == 0
            && let Some(selector) = slot.take()
        {
            self.ids.remove(&selector.key);
            self.free.push(id);
        }
    }

    pub fn get(&self, id: SelectorId) -> Option<&Selector> {
        self.selectors.get(usize::try_from(id).ok()?)?.as_ref()
    }

    /// Returns which numbers have a selector that `is_selected` selects, by number.
    pub fn select(&self, is_selected: impl Fn(&Selector) -> bool) -> SelectorSet {
        let selected = self.selectors.iter().map(|found| found.as_ref().is_some_and(&is_selected));
        SelectorSet(selected.collect())
    }

    fn insert(&mut self, selector: Selector) -> SelectorId {
        let key = selector.key.clone();
        let next = SelectorId::try_from(self.selectors.len()).unwrap_or(SelectorId::MAX);
        let id = self.free.pop().unwrap_or(next);
        match self.slot(id) {
            Some(slot) => *slot = Some(selector),
            None => self.selectors.push(Some(selector)),
        }
        self.ids.insert(key, id);
        id
    }

    fn slot(&mut self, id: SelectorId) -> Option<&mut Option<Selector>> {
        self.selectors.get_mut(usize::try_from(id).ok()?)
    }
}

/// A set of selectors.
pub struct SelectorSet(Vec<bool>);

impl SelectorSet {
    /// Returns whether the set has a hook's selector. None: its spec cannot be read, so it names no source.
    pub fn contains(&self, selector: Option<SelectorId>) -> bool {
        let index = selector.and_then(|id| usize::try_from(id).ok());
        index.and_then(|index| self.0.get(index)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_selectors_have_different_numbers() {
        let mut selectors = Selectors::default();
        let texts = ["", "a", "ab", "1", "=", "*", "a=b"];
        let events = || [None].into_iter().chain(texts.map(Some));
        let mut ids = std::collections::HashSet::new();
        for source in texts {
            for event in events() {
                let id = selectors.add(source, event);
                assert!(ids.insert(id), "{source} {event:?}");
                let selector = selectors.get(id).unwrap();
                assert_eq!((selector.source(), selector.event()), (source, event));
            }
        }
    }

    #[test]
    fn forgets_selectors_that_no_hook_has() {
        let mut selectors = Selectors::default();
        let (first, same, other) =
            (selectors.add("s", None), selectors.add("s", None), selectors.add("s", Some("e")));
        assert!(first == same && first != other);
        let of_source = selectors.select(|selector| selector.source() == "s" && selector.event().is_none());
        assert!(of_source.contains(Some(first)) && !of_source.contains(Some(other)));
        assert!(!of_source.contains(None));
        selectors.remove(first);
        assert!(selectors.get(first).is_some(), "another hook has it");
        selectors.remove(first);
        assert!(selectors.get(first).is_none() && selectors.ids.len() == 1);
        assert_eq!(selectors.add("t", Some("e")), first, "its number is used again");
        assert_eq!(selectors.get(first).unwrap().source(), "t");
    }
}
