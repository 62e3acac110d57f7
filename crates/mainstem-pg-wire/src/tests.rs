use super::*;

fn startup(body: &[u8]) -> BytesMut {
    let length = u32::try_from(body.len() + 4).unwrap();
    BytesMut::from([&length.to_be_bytes(), body].concat().as_slice())
}

fn message(kind: u8, body: &[u8]) -> BytesMut {
    let mut bytes = BytesMut::from([kind].as_slice());
    bytes.extend_from_slice(&startup(body));
    bytes
}

#[test]
fn a_startup_message_is_its_parameters() {
    let mut received = startup(b"\0\x03\0\x02user\0me\0database\0d\0\0");
    received.extend_from_slice(b"rest");
    let parameters = [("user", "me"), ("database", "d")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let expected = Startup::Parameters { minor: 2, parameters: parameters.to_vec() };
    assert_eq!(next_startup(&mut received), Ok(Some(expected)));
    assert_eq!(received, b"rest".as_slice());
    assert_eq!(next_startup(&mut startup(&SSL_REQUEST.to_be_bytes())), Ok(Some(Startup::Encryption)));
    let cancel = [CANCEL_REQUEST, 7, -8].map(i32::to_be_bytes).concat();
    assert_eq!(next_startup(&mut startup(&cancel)), Ok(Some(Startup::Cancel { process: 7, secret: -8 })));
}

#[test]
fn a_bind_message_is_its_fields_and_no_cut_of_it_passes() {
    let body =
        [b"p\0s\0".as_slice(), &[0, 1, 0, 1], &[0, 2, 0, 0, 0, 1, b'x', 255, 255, 255, 255], &[0, 2, 0, 0, 0, 1]]
            .concat();
    let bind = Bind {
        portal: "p".to_owned(),
        statement: "s".to_owned(),
        formats: vec![Format::Binary],
        values: vec![Some(Bytes::from_static(b"x")), None],
        result_formats: vec![Format::Text, Format::Binary],
    };
    assert_eq!(next_message(&mut message(b'B', &body)), Ok(Some(Message::Bind(bind))));
    for cut in 0..body.len() {
        assert!(next_message(&mut message(b'B', &body[..cut])).is_err(), "cut at {cut}");
    }
}

#[test]
fn what_is_not_whole_waits_and_an_impossible_length_does_not() {
    let whole = message(b'Q', b"SELECT 1\0");
    for cut in 0..whole.len() {
        let mut received = BytesMut::from(&whole[..cut]);
        assert_eq!(next_message(&mut received), Ok(None), "cut at {cut}");
        assert_eq!(received.len(), cut, "nothing is taken");
    }
    assert!(next_message(&mut BytesMut::from([b'Q', 0, 0, 0, 3].as_slice())).is_err());
    assert!(next_message(&mut BytesMut::from([b'Q', 127, 255, 255, 255].as_slice())).is_err());
    assert!(next_startup(&mut BytesMut::from([0, 0, 0, 7].as_slice())).is_err());
    assert!(next_startup(&mut BytesMut::from([0, 1, 0, 0].as_slice())).is_err());
    assert!(next_message(&mut message(b'!', b"")).is_err());
}
