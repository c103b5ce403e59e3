//! The version of the program.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// The version, with the commit and date of which the build knew. The worker's `GET /version` returns it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub version: Cow<'static, str>,
    /// The commit; it ends with `-modified` if the sources differed from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<Cow<'static, str>>,
    /// The date of the commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<jiff::Timestamp>,
}

impl Version {
    /// Returns the version of this program.
    pub fn current() -> Version {
        Version {
            version: env!("CARGO_PKG_VERSION").into(),
            commit: option_env!("HOOKSTREAM_BUILD_COMMIT").map(Into::into),
            date: option_env!("HOOKSTREAM_BUILD_DATE").and_then(parse_epoch),
        }
    }
}

/// Parses the seconds since 1970.
fn parse_epoch(seconds: &str) -> Option<jiff::Timestamp> {
    jiff::Timestamp::from_second(seconds.parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_dates_and_versions() {
        assert_eq!(parse_epoch("1764374400").unwrap().to_string(), "2025-11-29T00:00:00Z");
        assert_eq!(parse_epoch("now"), None);
        let old: Version = serde_json::from_str(r#"{"version": "0.1.0", "later": 1}"#).unwrap();
        assert_eq!(old, Version { version: "0.1.0".into(), commit: None, date: None });
        let text = serde_json::to_string(&Version::current()).unwrap();
        assert_eq!(serde_json::from_str::<Version>(&text).unwrap(), Version::current());
    }
}
