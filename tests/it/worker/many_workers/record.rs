//! The record of a long test, in a file of the build folder: it survives a lost output, and a test run that was killed.

use std::any::Any;
use std::fs::File;
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Mutex;

use futures::FutureExt;

/// Writes a file while a test runs. The file of a test that passed is removed.
pub struct Record {
    path: PathBuf,
    file: Mutex<File>,
}

impl Record {
    fn create(name: &str) -> Record {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.log"));
        let file = File::create(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Record { path, file: Mutex::new(file) }
    }

    /// Prints a line and writes it to the file.
    pub fn note(&self, line: &str) {
        println!("{line}");
        let line = format!("{} {line}\n", jiff::Timestamp::now());
        self.file.lock().unwrap_or_else(|e| e.into_inner()).write_all(line.as_bytes()).expect("the record");
    }
}

/// Runs a test with a record. A failure is written to the record, and its message names the file.
pub async fn recorded(name: &str, test: impl AsyncFnOnce(&Record)) {
    let record = Record::create(name);
    let path = record.path.display();
    match AssertUnwindSafe(test(&record)).catch_unwind().await {
        Ok(()) => std::fs::remove_file(&record.path).expect("the record"),
        Err(panic) => {
            let message = message_of(&*panic);
            record.note(&format!("failed: {message}"));
            panic!("{message}\nrecord: {path}");
        }
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".into())
}

#[tokio::test]
#[should_panic = "three is too much\nrecord: "]
async fn a_failure_is_in_the_record_and_names_it() {
    recorded("record-of-a-failure", async |record| {
        record.note("two");
        panic!("{} is too much", "three");
    })
    .await;
}
