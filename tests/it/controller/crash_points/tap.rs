//! Counts the writes of a controller, and stops it at one of them.

use std::future::pending;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The fate of the chosen write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The controller is stopped before the write.
    Before,
    /// The write is done, and the controller is stopped before it gets the answer.
    After,
    /// The write is done, its answer is lost, and the controller goes on.
    LostAnswer,
}

#[derive(Default)]
pub struct Tap {
    /// The names of the writes so far.
    points: Mutex<Vec<String>>,
    fate: Option<(usize, Fate)>,
    stopped: Notify,
}

impl Tap {
    pub fn new(fate: Option<(usize, Fate)>) -> Self {
        Tap { fate, ..Tap::default() }
    }

    pub fn points(&self) -> Vec<String> {
        self.points.lock().clone()
    }

    /// Waits until the controller must stop.
    pub async fn stopped(&self) {
        self.stopped.notified().await;
    }

    /// Runs a write with its fate. `name` is recorded; `lost_answer` makes the error of a lost answer.
    pub async fn around<T>(
        &self,
        name: &str,
        write: impl Future<Output = T>,
        lost_answer: impl FnOnce() -> T,
    ) -> T {
        let number = {
            let mut points = self.points.lock();
            points.push(name.to_owned());
            points.len()
        };
        match self.fate.filter(|(at, _)| *at == number).map(|(_, fate)| fate) {
            None => write.await,
            Some(Fate::LostAnswer) => {
                write.await;
                lost_answer()
            }
            Some(fate) => {
                if fate == Fate::After {
                    write.await;
                }
                self.stopped.notify_one();
                pending().await
            }
        }
    }
}
