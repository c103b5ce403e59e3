//! Bytes whose memory stays reserved as long as they exist.

use bytes::Bytes;

use super::Reservation;

struct CountedBytes<B> {
    bytes: B,
    _reserved: Reservation,
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for CountedBytes<B> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

/// Keeps the memory reserved until the last copy of the returned bytes is dropped.
pub fn counted_bytes<B: AsRef<[u8]> + Send + 'static>(bytes: B, reserved: Reservation) -> Bytes {
    Bytes::from_owner(CountedBytes { bytes, _reserved: reserved })
}
