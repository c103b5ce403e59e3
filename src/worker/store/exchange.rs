//! The request and the response of a delivery's last attempt, kept for users who look for the cause of a failure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which attempts keep their request and response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeepResponses {
    /// Those that did not deliver.
    #[default]
    Failed,
    All,
    None,
}

/// What a settlement does to the delivery's kept exchange.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ExchangeChange {
    /// There is none, and the attempt keeps none.
    #[default]
    Nothing,
    Replace(Box<Exchange>),
    /// Removes that of an earlier attempt.
    Remove,
}

/// The request and the response of one attempt: bounded, and without secrets. Stored as JSON, so the names of the members
/// are part of the format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Exchange {
    pub request: SentRequest,
    /// Null: there was no response.
    pub response: Option<ReceivedResponse>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SentRequest {
    pub method: String,
    pub url: String,
    pub headers: Vec<KeptHeader>,
    pub body: KeptBody,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReceivedResponse {
    pub status: u16,
    pub headers: Vec<KeptHeader>,
    pub body: KeptBody,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeptHeader {
    pub name: String,
    pub value: String,
}

/// The beginning of a body as text. Bytes that are no UTF-8 are replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeptBody {
    pub text: String,
    /// True if the body goes on.
    pub truncated: bool,
}
