use bytes::{Bytes, BytesMut};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::frame::served_versions;
use crate::messages::*;
use crate::testing::{damaged, random_text, seed};
use crate::varint;

/// Runs `$check::<T>()` for the request type of every served key but Produce and Fetch.
macro_rules! for_each_request {
    ($check:ident($($argument:expr),*)) => {{
        $check::<ListOffsetsRequest>($($argument),*);
        $check::<MetadataRequest>($($argument),*);
        $check::<OffsetCommitRequest>($($argument),*);
        $check::<OffsetFetchRequest>($($argument),*);
        $check::<FindCoordinatorRequest>($($argument),*);
        $check::<JoinGroupRequest>($($argument),*);
        $check::<HeartbeatRequest>($($argument),*);
        $check::<LeaveGroupRequest>($($argument),*);
        $check::<SyncGroupRequest>($($argument),*);
        $check::<DescribeGroupsRequest>($($argument),*);
        $check::<ListGroupsRequest>($($argument),*);
        $check::<ApiVersionsRequest>($($argument),*);
        $check::<CreateTopicsRequest>($($argument),*);
        $check::<DeleteTopicsRequest>($($argument),*);
        $check::<InitProducerIdRequest>($($argument),*);
        $check::<OffsetForLeaderEpochRequest>($($argument),*);
        $check::<DescribeConfigsRequest>($($argument),*);
        $check::<CreatePartitionsRequest>($($argument),*);
        $check::<DeleteRecordsRequest>($($argument),*);
        $check::<DeleteGroupsRequest>($($argument),*);
        $check::<IncrementalAlterConfigsRequest>($($argument),*);
        $check::<DescribeClusterRequest>($($argument),*);
    }};
}

/// Writes random values of a shape.
struct Generator<'a> {
    rng: &'a mut SmallRng,
    version: i16,
    is_flexible: bool,
    out: Vec<u8>,
}

impl Generator<'_> {
    fn length(&mut self, length: usize, is_short: bool) {
        match (self.is_flexible, is_short) {
            (true, _) => varint::write_u32(&mut self.out, length as u32 + 1),
            (false, true) => self.out.extend_from_slice(&(length as i16).to_be_bytes()),
            (false, false) => self.out.extend_from_slice(&(length as i32).to_be_bytes()),
        }
    }

    /// Bytes of 0 and 1, which are numbers and booleans alike.
    fn fixed(&mut self, count: usize) {
        self.out.extend((0..count).map(|_| self.rng.random_range(0..2)));
    }

    fn text(&mut self) {
        let text = random_text(self.rng);
        self.length(text.len(), true);
        self.out.extend_from_slice(text.as_bytes());
    }

    fn fields(&mut self, fields: &[Field]) {
        for Field(kind, first, last) in fields {
            if self.version < *first || self.version > *last {
                continue;
            }
            let count = self.rng.random_range(0..4);
            match kind {
                Fixed(count) => self.fixed(*count),
                Text => self.text(),
                Blob => {
                    self.length(count, false);
                    self.fixed(count);
                }
                FixedArray(size) => {
                    self.length(count, false);
                    self.fixed(size * count);
                }
                TextArray => {
                    self.length(count, false);
                    (0..count).for_each(|_| self.text());
                }
                Array(element) => {
                    self.length(count, false);
                    (0..count).for_each(|_| self.fields(element));
                }
            }
        }
        if self.is_flexible {
            let tagged: &[u8] = if self.rng.random_bool(0.1) { &[1, 99, 2, 7, 7] } else { &[0] };
            self.out.extend_from_slice(tagged);
        }
    }
}

fn random_message(rng: &mut SmallRng, api_key: ApiKey, version: i16) -> Vec<u8> {
    let is_flexible = api_key.request_header_version(version) >= 2;
    let mut generator = Generator { rng, version, is_flexible, out: vec![] };
    generator.fields(shape(api_key).unwrap());
    generator.out
}

fn served_range<T: Request>() -> (ApiKey, i16, i16) {
    *served_versions().iter().find(|(api_key, ..)| *api_key as i16 == T::KEY).unwrap()
}

fn check_versions<T: Request>(checked: &mut usize) {
    let (api_key, min, max) = served_range::<T>();
    let both = T::VERSIONS.intersect(&T::Response::VERSIONS);
    assert_eq!((min, max), (both.min, both.max), "{api_key:?}");
    *checked += 1;
}

#[test]
fn every_version_that_can_be_decoded_and_answered_is_served_and_no_other() {
    let mut checked = 0;
    for_each_request!(check_versions(&mut checked));
    assert_eq!(checked + 2, served_versions().len(), "the list above is complete but for Produce and Fetch");
}

fn check_shape<T: Request + PartialEq + std::fmt::Debug>(rng: &mut SmallRng) {
    let (api_key, min, max) = served_range::<T>();
    for version in min..=max {
        for _ in 0..20 {
            let message = Bytes::from(random_message(rng, api_key, version));
            let mut rest = message.clone();
            let theirs = T::decode(&mut rest, version).unwrap_or_else(|error| panic!("{api_key:?} {version}: {error}"));
            assert!(rest.is_empty(), "{api_key:?} {version}: {} bytes are not of the message", rest.len());
            let mut again = BytesMut::new();
            theirs.encode(&mut again, version).unwrap();
            assert_eq!(again, message, "{api_key:?} {version}");
            let ours: T = decode_request(version, message.clone()).unwrap();
            assert_eq!(ours, theirs, "{api_key:?} {version}");
            for cut in 0..message.len() {
                let outcome = check(api_key, version, message.slice(..cut)).unwrap();
                assert!(outcome.is_err(), "{api_key:?} {version}: {cut} of {} bytes", message.len());
            }
        }
    }
    let version = max + 1;
    let refused = decode_request::<T>(version, Bytes::new()).unwrap_err();
    if version > T::VERSIONS.max {
        assert_eq!(refused, WireError::UnsupportedVersion { api_key: T::KEY, version });
    }
}

#[test]
fn shapes_are_those_of_the_generated_decoders() {
    let mut rng = SmallRng::seed_from_u64(seed());
    for_each_request!(check_shape(&mut rng));
}

fn check_damage<T: Request>(rng: &mut SmallRng) {
    let (api_key, min, max) = served_range::<T>();
    for version in min..=max {
        for _ in 0..60 {
            let message = random_message(rng, api_key, version);
            let _ = decode_request::<T>(version, damaged(rng, &message));
        }
        // Lengths of two thousand million, wherever an array may begin: the generated decoder alone would ask for
        // hundreds of gigabytes and abort the process.
        for prefix in 0..12 {
            for length in [&[0x7f, 0xff, 0xff, 0xff][..], &[0xff, 0xff, 0xff, 0xff, 0x07]] {
                let mut message = vec![0; prefix];
                message.extend_from_slice(length);
                message.resize(64, 0);
                let _ = decode_request::<T>(version, message.into());
            }
        }
    }
}

#[test]
fn damaged_requests_are_errors_or_requests_but_never_panics() {
    let mut rng = SmallRng::seed_from_u64(seed());
    for_each_request!(check_damage(&mut rng));
}

#[test]
fn a_message_of_more_elements_than_any_needs_is_refused() {
    let count = crate::wire::ELEMENTS_MAX + 1;
    let mut topics = (count as i32).to_be_bytes().to_vec();
    topics.resize(4 + 2 * count, 0xff);
    let refused = decode_request::<MetadataRequest>(1, topics.into());
    assert_eq!(refused, Err(WireError::BadLength { field: "array", length: count as i64 }));
    // The same in tagged fields: one of ApiVersions, empty texts before it.
    let mut tagged = vec![1, 1];
    varint::write_u32(&mut tagged, count as u32);
    tagged.resize(tagged.len() + 2 * count, 0);
    let refused = decode_request::<ApiVersionsRequest>(3, tagged.into());
    assert_eq!(refused, Err(WireError::BadLength { field: "tagged field count", length: count as i64 }));
}

#[test]
fn arrays_that_claim_more_than_there_is_are_refused() {
    let mut message = vec![0x7f, 0xff, 0xff, 0xff];
    message.resize(1_000, 0);
    let error = decode_request::<MetadataRequest>(0, message.into()).unwrap_err();
    assert_eq!(error, WireError::BadLength { field: "array", length: i64::from(i32::MAX) });
}
