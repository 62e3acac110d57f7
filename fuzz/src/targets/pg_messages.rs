//! What PostgreSQL's clients send: startup packets while none has named parameters, then messages.

use bytes::BytesMut;
use mainstem_pg_wire::{Startup, next_message, next_startup};

pub(super) fn run(data: &[u8]) {
    let mut received = BytesMut::from(data);
    loop {
        match next_startup(&mut received) {
            Ok(Some(Startup::Parameters { .. })) => break,
            Ok(Some(Startup::Encryption)) => {}
            Ok(Some(Startup::Cancel { .. }) | None) | Err(_) => return,
        }
    }
    while let Ok(Some(_)) = next_message(&mut received) {}
}

fn startup(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("seeds are small");
    [&length.to_be_bytes(), body].concat()
}

pub(super) fn seeds() -> Vec<(String, Vec<u8>)> {
    let parameters = startup(b"\0\x03\0\0user\0me\0database\0d\0application_name\0psql\0\0");
    let message = |kind: u8, body: &[u8]| [&[kind], &startup(body)[..]].concat();
    let bind = [&b"p\0s\0\0\x01\0\x01\0\x02\0\0\0\x01x"[..], &[255; 4], &[0, 1, 0, 0]].concat();
    let messages = [
        ("query", message(b'Q', b"SELECT 1\0")),
        ("parse", message(b'P', b"s\0SELECT $1\0\0\x01\0\0\0\x17")),
        ("bind", message(b'B', &bind)),
        ("describe", message(b'D', b"Sname\0")),
        ("execute", message(b'E', b"p\0\0\0\0\x05")),
        ("close", message(b'C', b"Pp\0")),
        ("copy", [message(b'd', b"1\t2\n"), message(b'f', b"no\0"), message(b'c', b"")].concat()),
        ("end", [message(b'H', b""), message(b'S', b""), message(b'F', b""), message(b'X', b"")].concat()),
    ];
    let all: Vec<u8> = messages.iter().flat_map(|(_, message)| message.clone()).collect();
    let mut seeds = vec![
        ("tls".to_owned(), [startup(&80_877_103i32.to_be_bytes()), parameters.clone()].concat()),
        ("cancel".to_owned(), startup(&[80_877_102i32, 7, 9].map(i32::to_be_bytes).concat())),
        ("all".to_owned(), [&parameters[..], &all].concat()),
    ];
    seeds.extend(messages.map(|(name, message)| (name.to_owned(), [&parameters[..], &message].concat())));
    seeds
}
