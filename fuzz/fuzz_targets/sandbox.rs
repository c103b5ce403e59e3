//! The pipe between the worker and a sandbox child, both ways: the first byte says who reads, the rest is what comes. A
//! child that was taken over writes anything; what its reader accepts is within the bounds.
#![no_main]

use bytes::BytesMut;
use hookstream::sandbox::protocol::{
    self, Answer, Failed, MAX_ERROR, MAX_HELLO, MAX_LOG, MAX_LOGS, MAX_REPLY, MAX_REQUEST, MAX_TEXT,
    MAX_VALUE,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((who, rest)) = bytes.split_first() else { return };
    match who % 5 {
        // The worker, with and without the frame.
        0 => messages(rest, MAX_REPLY, reply),
        1 => reply(rest),
        2 => messages(rest, MAX_HELLO, |body| drop(protocol::hello(body))),
        // The child.
        3 => drop(protocol::listen(rest, 1 << 16).map(|body| request(&body))),
        _ => request(rest),
    }
});

/// In pieces, as pipes give them.
fn messages(bytes: &[u8], max: usize, read: impl Fn(&[u8])) {
    let mut came = BytesMut::new();
    for piece in bytes.chunks(7) {
        came.extend_from_slice(piece);
        loop {
            match protocol::take(&mut came, max) {
                Ok(Some(message)) => {
                    assert!(message.len() <= max);
                    read(&message);
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

fn reply(body: &[u8]) {
    let Ok(reply) = protocol::reply(body) else { return };
    assert!(reply.logs.len() <= MAX_LOGS && reply.logs.iter().all(|log| log.text.len() <= MAX_LOG));
    match &reply.outcome {
        Ok(Answer::Texts(texts)) => assert!(texts.iter().map(String::len).sum::<usize>() <= MAX_TEXT),
        Ok(Answer::Value(value)) => assert!(value.get().len() <= MAX_VALUE),
        Err(Failed::Error(text) | Failed::TooBig(text)) => assert!(text.len() <= MAX_ERROR),
        Err(Failed::Timeout | Failed::Memory) => {}
    }
    // What was read can be written and read again.
    let frame = protocol::frame(&reply, MAX_REPLY).unwrap();
    assert!(protocol::reply(&frame[4..]).is_ok());
    reply.logs.iter().for_each(|log| log.tell("hook"));
}

fn request(body: &[u8]) {
    if let Some((budget, job)) = protocol::asked(body) {
        let mut frame = protocol::request(&job).unwrap();
        protocol::set_budget(&mut frame, budget);
        assert_eq!(protocol::asked(&frame[4..]).unwrap().0, budget);
        assert!(frame.len() <= MAX_REQUEST + 4);
    }
}
