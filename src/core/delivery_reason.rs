//! The stable reasons that a delivery and an attempt carry in the store, the API, the metrics and the documentation.
//!
//! Two sets: a `DeliveryReason` explains the state of a delivery, an `AttemptFailure` explains one failed attempt. Their
//! texts are stored and shown, so they never change.

/// Why a delivery is dead, dropped or undecided. A delivered, cancelled or ordinary pending delivery has no reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::EnumString, strum::IntoStaticStr)]
pub enum DeliveryReason {
    /// Dead: the receiver answered with a status of `retry.terminalStatuses`.
    TerminalStatus,
    /// Dead: the receiver answered 410.
    Gone,
    /// Dead: no attempt succeeded within `retry.maxAge`.
    MaxAge,
    /// Dead: `retry.maxAttempts` attempts failed.
    MaxAttempts,
    /// Dead: the egress policy denies the receiver's address.
    EgressDenied,
    /// Dead: a header that was rendered from the event is not valid in HTTP.
    HeaderRefused,
    /// Dead: headers and body that were rendered from the event exceed the output limit.
    OutputTooLarge,
    /// Dead: the handler has no address to send a request to.
    NoTarget,
    /// Dead: the hook's filter, edited since the event was accepted, rejects the event.
    Filtered,
    /// Dead: the hook was deleted and not recreated within the grace period.
    HookDeleted,
    /// Dead at once: the hook's backlog uses its whole share of the disk.
    BacklogFull,
    /// Dropped by `snooze`: another delivery of the group was sent within the period.
    Snoozed,
    /// Dropped by `onChange`: the compared fields have the values of the last accepted event.
    Unchanged,
    /// Dropped: a newer event replaced this trailing candidate.
    Superseded,
    /// Pending: the hook's filter or spec cannot be evaluated for this event.
    Undecided,
}

impl DeliveryReason {
    /// Returns the stored text.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Why an attempt failed in a way that another attempt may overcome.
///
/// A failure that no attempt can overcome ends the delivery with a `DeliveryReason`: `EgressDenied`, `HeaderRefused`,
/// `OutputTooLarge` or `NoTarget`. The text of that reason is then also the error of the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::EnumString, strum::IntoStaticStr)]
pub enum AttemptFailure {
    /// The receiver answered with a status outside 2xx.
    Status,
    /// The receiver's name could not be resolved.
    Resolve,
    /// No connection could be opened.
    Connect,
    /// The proxy refused or failed to reach the receiver.
    Proxy,
    /// The receiver did not answer within the timeout.
    Timeout,
    /// The TLS handshake failed.
    Tls,
    /// The response was not valid HTTP, or the connection closed before its end.
    Protocol,
    /// The receiver did not permit deliveries in the webhook handshake.
    HandshakeRefused,
    /// A lambda returned something other than `true`.
    NotDelivered,
    /// The log line could not be written.
    LogFailed,
    /// The stored data of the event cannot be read.
    DataUnreadable,
    ScriptFailed,
    ScriptTimeout,
    ScriptMemory,
    ScriptCrashed,
    ScriptTooBig,
}

impl AttemptFailure {
    /// Returns the stored text.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Why a hook's condition `Delivering` is false although its deliveries are not held: attempts are made and fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::EnumString, strum::IntoStaticStr)]
pub enum DeliveringFault {
    /// The receiver fails or does not answer.
    ReceiverFailing,
    /// The hook's own templates or lambda fail.
    HandlerFailing,
    /// The receiver does not permit deliveries in the webhook handshake.
    HandshakeRefused,
    /// The egress policy denies the receiver's address.
    EgressDenied,
    /// The filter failed on an event.
    Undecided,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_stored_as_their_names() {
        assert_eq!(DeliveryReason::BacklogFull.as_str(), "BacklogFull");
        assert_eq!("MaxAge".parse(), Ok(DeliveryReason::MaxAge));
        assert!("FromANewerVersion".parse::<DeliveryReason>().is_err());
        assert_eq!(AttemptFailure::ScriptTooBig.as_str(), "ScriptTooBig");
    }
}
