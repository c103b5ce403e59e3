//! The pipe between the worker and a sandbox child, in both directions. The first byte selects the reader, the rest is its
//! input. A compromised child may write anything; the worker must accept only messages within the bounds.
#![no_main]

use bytes::BytesMut;
use hookstream::sandbox::protocol::{
    self, InvocationError, InvocationOutput, MAX_ERROR, MAX_HANDSHAKE, MAX_LOG, MAX_LOGS, MAX_REPLY,
    MAX_REQUEST, MAX_TEXT, MAX_VALUE,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((reader, rest)) = bytes.split_first() else { return };
    match reader % 5 {
        // The worker, with and without framing.
        0 => messages(rest, MAX_REPLY, reply),
        1 => reply(rest),
        2 => messages(rest, MAX_HANDSHAKE, |body| drop(protocol::parse_handshake(body))),
        // The child.
        3 => drop(protocol::read_message(rest, 1 << 16).map(|body| request(&body))),
        _ => request(rest),
    }
});

/// Feeds the bytes in small chunks, as a pipe may deliver them.
fn messages(bytes: &[u8], max: usize, read: impl Fn(&[u8])) {
    let mut buffer = BytesMut::new();
    for chunk in bytes.chunks(7) {
        buffer.extend_from_slice(chunk);
        loop {
            match protocol::split_message(&mut buffer, max) {
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
    let Ok(reply) = protocol::parse_reply(body) else { return };
    assert!(reply.logs.len() <= MAX_LOGS && reply.logs.iter().all(|log| log.text.len() <= MAX_LOG));
    match &reply.outcome {
        Ok(InvocationOutput::Texts(texts)) => {
            assert!(texts.iter().map(String::len).sum::<usize>() <= MAX_TEXT)
        }
        Ok(InvocationOutput::Value(value)) => assert!(value.get().len() <= MAX_VALUE),
        Err(InvocationError::Error(text) | InvocationError::TooBig(text)) => assert!(text.len() <= MAX_ERROR),
        Err(InvocationError::Timeout | InvocationError::Memory) => {}
    }
    // An accepted reply must survive a round trip.
    let frame = protocol::encode(&reply, MAX_REPLY).unwrap();
    assert!(protocol::parse_reply(&frame[4..]).is_ok());
    reply.logs.iter().for_each(|log| log.emit("hook"));
}

fn request(body: &[u8]) {
    if let Some((budget, job)) = protocol::parse_request(body) {
        let mut frame = protocol::encode_request(&job).unwrap();
        protocol::set_budget(&mut frame, budget);
        assert_eq!(protocol::parse_request(&frame[4..]).unwrap().0, budget);
        assert!(frame.len() <= MAX_REQUEST + 4);
    }
}
