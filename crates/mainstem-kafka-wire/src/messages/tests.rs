use super::*;
use crate::frame::{next_frame, parse_request};

fn unframed(frame: Bytes) -> Bytes {
    next_frame(&mut frame.into(), 1_000).unwrap().unwrap()
}

#[test]
fn a_request_and_its_response_come_back_in_every_version() {
    let names = [Some("a"), None];
    for version in 0..=13 {
        let topics = names.map(|name| {
            let name = name.filter(|_| version < 10).unwrap_or("b");
            metadata_request::MetadataRequestTopic::default()
                .with_name(Some(TopicName(StrBytes::from_static_str(name))))
        });
        let request = MetadataRequest::default().with_topics(Some(topics.to_vec()));
        let frame = encode_request(version, 5, Some("tests"), &request).unwrap();
        let (header, message) = parse_request(unframed(frame)).unwrap();
        assert_eq!((header.api_key, header.version, header.correlation_id), (ApiKey::Metadata, version, 5));
        assert_eq!(decode_request::<MetadataRequest>(version, message).unwrap(), request);

        let broker = metadata_response::MetadataResponseBroker::default()
            .with_node_id(BrokerId(1))
            .with_host(StrBytes::from_static_str("localhost"))
            .with_port(9092);
        let response = MetadataResponse::default().with_brokers(vec![broker]);
        let frame = encode_response(version, 5, &response).unwrap();
        let (correlation_id, decoded) = decode_response::<MetadataRequest>(version, unframed(frame)).unwrap();
        assert_eq!((correlation_id, decoded.brokers), (5, response.brokers), "version {version}");
    }
}

#[test]
fn the_answer_to_an_api_versions_request_of_the_future_is_of_version_0() {
    let response = ApiVersionsResponse::default().with_error_code(ResponseError::UnsupportedVersion.code());
    let frame = encode_response(0, 9, &response).unwrap();
    assert_eq!(frame.as_ref(), [0, 0, 0, 10, 0, 0, 0, 9, 0, 35, 0, 0, 0, 0]);
}

#[test]
fn a_response_that_the_version_cannot_carry_is_an_error() {
    let response = FindCoordinatorResponse::default().with_coordinators(vec![Default::default()]);
    assert!(matches!(encode_response(0, 1, &response), Err(WireError::Encode(_))));
    assert!(matches!(encode_response(99, 1, &response), Err(WireError::Encode(_))));
}

#[test]
fn requests_without_a_shape_are_unsupported() {
    let error = decode_request::<kafka_protocol::messages::EndTxnRequest>(0, Bytes::new()).unwrap_err();
    assert_eq!(error, WireError::UnsupportedVersion { api_key: 26, version: 0 });
}
