use kafka_protocol::messages::RequestHeader as TheirHeader;
use kafka_protocol::protocol::Encodable;

use super::*;

#[test]
fn served_versions_are_in_order_and_what_is_outside_them_is_not_served() {
    assert!(SERVED.windows(2).all(|pair| (pair[0].0 as i16) < pair[1].0 as i16));
    for &(api_key, min, max) in served_versions() {
        let min = if api_key == ApiKey::Produce { PRODUCE_VERSION_MIN } else { min };
        assert!(is_served(api_key, min) && is_served(api_key, max));
        assert!(!is_served(api_key, min - 1) && !is_served(api_key, max + 1));
    }
    assert_eq!((*crate::produce::VERSIONS.start(), *crate::produce::VERSIONS.end()), (PRODUCE_VERSION_MIN, 13));
    assert_eq!((*crate::fetch::VERSIONS.start(), *crate::fetch::VERSIONS.end()), (4, 18));
    assert!(!is_served(ApiKey::EndTxn, 0));
}

#[test]
fn request_headers_of_another_implementation_are_read() {
    for &(api_key, min, max) in served_versions() {
        for version in min..=max {
            for client_id in [None, Some(""), Some("client ü")] {
                let theirs = TheirHeader::default()
                    .with_request_api_key(api_key as i16)
                    .with_request_api_version(version)
                    .with_correlation_id(-7)
                    .with_client_id(client_id.map(StrBytes::from_static_str))
                    .with_unknown_tagged_field(3, Bytes::from_static(b"ignored"));
                let mut frame = BytesMut::new();
                theirs.encode(&mut frame, api_key.request_header_version(version)).unwrap();
                frame.extend_from_slice(b"message");
                let (header, message) = parse_request(frame.freeze()).unwrap();
                let client_id = client_id.map(StrBytes::from_static_str);
                assert_eq!(header, RequestHeader { api_key, version, correlation_id: -7, client_id });
                assert_eq!(message, b"message".as_slice(), "{api_key:?} {version}");
            }
        }
    }
}

#[test]
fn our_request_headers_are_read_back() {
    for (api_key, version) in [(ApiKey::Metadata, 8), (ApiKey::Metadata, 9), (ApiKey::ApiVersions, 3)] {
        let mut frame = begin_request(api_key, version, 9, Some("me")).out;
        finish_frame(&mut frame, 0);
        let mut received = BytesMut::from(frame.as_slice());
        let (header, message) = parse_request(next_frame(&mut received, 100).unwrap().unwrap()).unwrap();
        assert_eq!((header.api_key, header.version, header.correlation_id), (api_key, version, 9));
        assert_eq!((header.client_id.as_deref(), message.len(), received.len()), (Some("me"), 0, 0));
    }
}

#[test]
fn requests_of_the_future_have_a_header_and_unknown_ones_an_error() {
    let frame = |api_key: i16, version: i16| {
        let mut bytes = vec![];
        bytes.extend_from_slice(&api_key.to_be_bytes());
        bytes.extend_from_slice(&version.to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 0, 5, 0xff, 0xff, 0, 1, 2, 3]);
        parse_request(bytes.into())
    };
    let (header, _) = frame(18, 99).unwrap();
    assert_eq!((header.api_key, header.version, header.correlation_id), (ApiKey::ApiVersions, 99, 5));
    assert!(!is_served(header.api_key, header.version));
    assert_eq!(frame(999, 0), Err(WireError::UnknownApi(999)));
    assert_eq!(frame(-1, 0), Err(WireError::UnknownApi(-1)));
}

#[test]
fn the_answer_to_api_versions_has_the_oldest_header() {
    for (api_key, version, expected) in [
        (ApiKey::ApiVersions, 0, 8),
        (ApiKey::ApiVersions, 4, 8),
        (ApiKey::Metadata, 8, 8),
        (ApiKey::Metadata, 9, 9),
        (ApiKey::Produce, 9, 9),
    ] {
        let mut frame = response_header(api_key, version, 1);
        assert_eq!(frame.len(), expected, "{api_key:?} {version}");
        finish_frame(&mut frame, 10);
        assert_eq!(frame[..4], (expected as i32 + 6).to_be_bytes(), "{api_key:?} {version}");
    }
}

#[test]
fn frames_are_taken_when_they_are_whole_and_refused_early() {
    let mut received = BytesMut::new();
    let stream: Vec<u8> = [&[0, 0, 0, 8][..], b"12345678", &[0, 0, 0, 9], b"123456789"].concat();
    let mut frames = vec![];
    for byte in stream {
        received.extend_from_slice(&[byte]);
        frames.extend(next_frame(&mut received, 9).unwrap());
    }
    assert_eq!(frames, [&b"12345678"[..], b"123456789"]);
    for (prefix, error) in [
        ([0, 0, 0, 10], WireError::FrameTooLarge { bytes: 10, bytes_max: 9 }),
        ([0x7f, 0xff, 0xff, 0xff], WireError::FrameTooLarge { bytes: i64::from(i32::MAX), bytes_max: 9 }),
        ([0, 0, 0, 7], WireError::BadLength { field: "frame", length: 7 }),
        ([0xff, 0xff, 0xff, 0xff], WireError::BadLength { field: "frame", length: -1 }),
    ] {
        assert_eq!(next_frame(&mut BytesMut::from(&prefix[..]), 9), Err(error));
    }
    // An HTTP request on the Kafka port.
    assert!(next_frame(&mut BytesMut::from("GET / HTTP/1.1\r\n"), FRAME_BYTES_MAX).is_err());
}
