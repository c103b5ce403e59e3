//! Filters and events at random.

use proptest::prelude::*;

use super::tests::{data, event_with};
use super::*;

/// Generates fragments of CEL in random order, which reach more of the parser than random characters.
fn fragments() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "data",
        ".n",
        ".list",
        ".all(x, ",
        ".exists(x, ",
        ".map(x, ",
        "x",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "==",
        "!=",
        "<",
        "+",
        "-",
        "/",
        "%",
        "&&",
        "||",
        "!",
        "?",
        ":",
        ",",
        "1",
        "2.5",
        "3u",
        "'a'",
        "null",
        "true",
        " in ",
        "has(",
        "size(",
        ".matches('a+')",
        "source",
        "attributes",
        "9223372036854775807",
        "\n",
        "\u{fc}",
        "r'",
        "\"",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    /// Every text that ingest accepts is readable: a filter fails only where it needs what it cannot represent.
    #[test]
    fn accepted_data_never_affects_other_members(text in crate::core::event::data::tests::json_text()) {
        let event = event_with(&format!(r#"{{"n":1,"other":{text}}}"#));
        for filter in ["data.n == 1 && has(data.other)", "data.other == 'x' || data.n == 1"] {
            prop_assert_eq!(Filter::compile(filter).unwrap().matches(&event), Ok(true));
        }
        match Filter::compile("data.other == data.other").unwrap().matches(&event) {
            Ok(same) => prop_assert!(same),
            Err(error) => prop_assert!(error.to_string().contains(" fits no int, uint or double, in data.other == data.other"), "{error}"),
        }
    }

    #[test]
    fn never_panics(text in prop_oneof![any::<String>(), fragments()]) {
        match Filter::compile(&text) {
            Ok(filter) => drop(filter.matches(&event_with(&data().to_string()))),
            Err(error) => prop_assert!(error.to_string().len() < 1200),
        }
    }
}
