//! The parts of a filter and the result of each on an event: they show a user why a filter rejects an event.

use super::compile::Node;
use super::eval::evaluate_each;
use super::{Filter, FilterError, FilterInput};

/// The most parts of a filter.
const MAX_PARTS: usize = 64;

/// An operand of `&&` or `||`, or the whole filter if it has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterPart {
    /// The number of operators around it, besides the outermost one.
    pub depth: usize,
    /// The expression as CEL, truncated.
    pub expression: String,
    pub result: Result<bool, FilterError>,
}

impl Filter {
    /// Evaluates each part, within the budget of one evaluation. A group is followed by its own parts. Further parts than
    /// `MAX_PARTS` are left out.
    pub fn evaluate_parts(&self, input: &FilterInput<'_>) -> Vec<FilterPart> {
        let root = &self.0.root;
        let mut found = Vec::new();
        match root {
            Node::And(nodes) | Node::Or(nodes) => collect(nodes, 0, &mut found),
            _ => found.push((0, root)),
        }
        found.truncate(MAX_PARTS);
        let nodes: Vec<&Node> = found.iter().map(|(_, node)| *node).collect();
        let results = evaluate_each(&nodes, input);
        let part = |((depth, node), result): ((usize, &Node), _)| FilterPart {
            depth,
            expression: node.text(),
            result,
        };
        found.into_iter().zip(results).map(part).collect()
    }
}

fn collect<'a>(nodes: &'a [Node], depth: usize, found: &mut Vec<(usize, &'a Node)>) {
    for node in nodes {
        if found.len() >= MAX_PARTS {
            return;
        }
        found.push((depth, node));
        if let Node::And(nodes) | Node::Or(nodes) = node {
            collect(nodes, depth + 1, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::event::{Event, Origin};

    fn event(data: serde_json::Value) -> Event {
        Event {
            id: "1".into(),
            namespace: "n".into(),
            origin: Origin::Api,
            source: "shop".into(),
            event: "paid".into(),
            time: "2023-11-14T22:13:20Z".into(),
            data: serde_json::value::to_raw_value(&data).unwrap().into(),
            attributes: [].into(),
        }
    }

    #[test]
    fn each_operand_has_its_own_result() {
        let filter =
            Filter::compile("event == 'paid' && (data.total > 100 || data.vip) && data.missing == 1")
                .unwrap();
        let event = event(json!({"total": 7, "vip": true}));
        let parts = filter.evaluate_parts(&FilterInput::new(&event));
        let shown: Vec<_> = parts
            .iter()
            .map(|part| (part.depth, part.expression.as_str(), part.result.as_ref().ok().copied()))
            .collect();
        assert_eq!(
            shown,
            [
                (0, "event == 'paid'", Some(true)),
                (0, "data.total > 100 || data.vip", Some(true)),
                (1, "data.total > 100", Some(false)),
                (1, "data.vip", Some(true)),
                (0, "data.missing == 1", None),
            ]
        );
    }

    #[test]
    fn filter_without_operators_is_one_part_and_parts_are_bounded() {
        let event = event(json!({}));
        let input = FilterInput::new(&event);
        let one = Filter::compile("event == 'x'").unwrap().evaluate_parts(&input);
        assert_eq!((one.len(), &one[0].result), (1, &Ok(false)));
        let many = vec!["event == 'x'"; 200].join(" || ");
        assert_eq!(Filter::compile(&many).unwrap().evaluate_parts(&input).len(), MAX_PARTS);
    }
}
