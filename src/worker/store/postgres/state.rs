//! The column `finished.state`.

use super::super::DeliveryState;
use super::failure::DbError;

pub(super) const DELIVERED: i16 = 1;
/// The texts of partial indexes contain 2: keep them equal.
pub(super) const DEAD: i16 = 2;
pub(super) const DROPPED: i16 = 3;
pub(super) const CANCELLED: i16 = 4;

/// Returns the number of a finished state. None: pending deliveries are in a table of their own.
pub(super) fn number(state: DeliveryState) -> Option<i16> {
    match state {
        DeliveryState::Pending => None,
        DeliveryState::Delivered => Some(DELIVERED),
        DeliveryState::Dead => Some(DEAD),
        DeliveryState::Dropped => Some(DROPPED),
        DeliveryState::Cancelled => Some(CANCELLED),
    }
}

/// Reads a finished state.
pub(super) fn read(number: i16) -> Result<DeliveryState, DbError> {
    match number {
        DELIVERED => Ok(DeliveryState::Delivered),
        DEAD => Ok(DeliveryState::Dead),
        DROPPED => Ok(DeliveryState::Dropped),
        CANCELLED => Ok(DeliveryState::Cancelled),
        other => Err(DbError::Unreadable(format!("{other} is no state of a delivery"))),
    }
}
