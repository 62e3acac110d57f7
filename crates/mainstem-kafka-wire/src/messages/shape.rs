//! The shapes of requests: enough to walk over one without building anything.
//!
//! Whether a version is flexible follows from its request header. No request here has tagged fields of its own.

use bytes::Bytes;
use kafka_protocol::messages::ApiKey;

use crate::wire::{Reader, WireError};

/// A field, present from one version to another.
struct Field(Kind, i16, i16);

enum Kind {
    /// A value of so many bytes.
    Fixed(usize),
    Text,
    Bytes,
    /// An array of values of so many bytes.
    FixedArray(usize),
    TextArray,
    Array(&'static [Field]),
}

use Kind::{Array, Bytes as Blob, Fixed, FixedArray, Text, TextArray};

const LAST: i16 = i16::MAX;

const fn always(kind: Kind) -> Field {
    Field(kind, 0, LAST)
}

const fn from(version: i16, kind: Kind) -> Field {
    Field(kind, version, LAST)
}

/// Walks over a message. `None` if the request type has no shape here.
pub(super) fn check(api_key: ApiKey, version: i16, message: Bytes) -> Option<Result<(), WireError>> {
    let fields = shape(api_key)?;
    let is_flexible = api_key.request_header_version(version) >= 2;
    Some(walk(fields, version, &mut Reader::new(message, is_flexible)))
}

fn walk(fields: &[Field], version: i16, reader: &mut Reader) -> Result<(), WireError> {
    for Field(kind, first, last) in fields {
        if version < *first || version > *last {
            continue;
        }
        match kind {
            Fixed(count) => reader.skip_fixed(*count)?,
            Text => drop(reader.nullable_string("string")?),
            Blob => drop(reader.nullable_bytes("bytes")?),
            FixedArray(count) => drop(reader.nullable_array("array", *count, |reader| reader.skip_fixed(*count))?),
            TextArray => drop(reader.nullable_array("array", 1, |reader| reader.nullable_string("string").map(drop))?),
            Array(element) => drop(reader.nullable_array("array", 1, |reader| walk(element, version, reader))?),
        }
    }
    reader.skip_tagged()
}

fn shape(api_key: ApiKey) -> Option<&'static [Field]> {
    Some(match api_key {
        ApiKey::ListOffsets => LIST_OFFSETS,
        ApiKey::Metadata => METADATA,
        ApiKey::OffsetCommit => OFFSET_COMMIT,
        ApiKey::OffsetFetch => OFFSET_FETCH,
        ApiKey::FindCoordinator => FIND_COORDINATOR,
        ApiKey::JoinGroup => JOIN_GROUP,
        ApiKey::Heartbeat => HEARTBEAT,
        ApiKey::LeaveGroup => LEAVE_GROUP,
        ApiKey::SyncGroup => SYNC_GROUP,
        ApiKey::DescribeGroups => DESCRIBE_GROUPS,
        ApiKey::ListGroups => LIST_GROUPS,
        ApiKey::ApiVersions => API_VERSIONS,
        ApiKey::CreateTopics => CREATE_TOPICS,
        ApiKey::DeleteTopics => DELETE_TOPICS,
        ApiKey::DeleteRecords => DELETE_RECORDS,
        ApiKey::InitProducerId => INIT_PRODUCER_ID,
        ApiKey::OffsetForLeaderEpoch => OFFSET_FOR_LEADER_EPOCH,
        ApiKey::DescribeConfigs => DESCRIBE_CONFIGS,
        ApiKey::CreatePartitions => CREATE_PARTITIONS,
        ApiKey::DeleteGroups => DELETE_GROUPS,
        ApiKey::IncrementalAlterConfigs => INCREMENTAL_ALTER_CONFIGS,
        ApiKey::DescribeCluster => DESCRIBE_CLUSTER,
        _ => return None,
    })
}

const API_VERSIONS: &[Field] = &[from(3, Text), from(3, Text)];

const METADATA: &[Field] = &[
    always(Array(&[from(10, Fixed(16)), always(Text)])),
    from(4, Fixed(1)),
    Field(Fixed(1), 8, 10),
    from(8, Fixed(1)),
];

const LIST_OFFSETS: &[Field] = &[
    always(Fixed(4)),
    from(2, Fixed(1)),
    always(Array(&[always(Text), always(Array(&[always(Fixed(4)), from(4, Fixed(4)), always(Fixed(8))]))])),
    from(10, Fixed(4)),
];

const INIT_PRODUCER_ID: &[Field] = &[always(Text), always(Fixed(4)), from(3, Fixed(8)), from(3, Fixed(2))];

const FIND_COORDINATOR: &[Field] = &[Field(Text, 0, 3), from(1, Fixed(1)), from(4, TextArray)];

const JOIN_GROUP: &[Field] = &[
    always(Text),
    always(Fixed(4)),
    from(1, Fixed(4)),
    always(Text),
    from(5, Text),
    always(Text),
    always(Array(&[always(Text), always(Blob)])),
    from(8, Text),
];

const SYNC_GROUP: &[Field] = &[
    always(Text),
    always(Fixed(4)),
    always(Text),
    from(3, Text),
    from(5, Text),
    from(5, Text),
    always(Array(&[always(Text), always(Blob)])),
];

const HEARTBEAT: &[Field] = &[always(Text), always(Fixed(4)), always(Text), from(3, Text)];

const LEAVE_GROUP: &[Field] =
    &[always(Text), Field(Text, 0, 2), from(3, Array(&[always(Text), always(Text), from(5, Text)]))];

const OFFSET_COMMIT: &[Field] = &[
    always(Text),
    always(Fixed(4)),
    always(Text),
    from(7, Text),
    Field(Fixed(8), 0, 4),
    always(Array(&[
        always(Text),
        always(Array(&[always(Fixed(4)), always(Fixed(8)), from(6, Fixed(4)), always(Text)])),
    ])),
];

const OFFSET_FETCH: &[Field] = &[
    Field(Text, 0, 7),
    Field(Array(&[always(Text), always(FixedArray(4))]), 0, 7),
    from(
        8,
        Array(&[always(Text), from(9, Text), from(9, Fixed(4)), always(Array(&[always(Text), always(FixedArray(4))]))]),
    ),
    from(7, Fixed(1)),
];

const OFFSET_FOR_LEADER_EPOCH: &[Field] =
    &[from(3, Fixed(4)), always(Array(&[always(Text), always(Array(&[always(Fixed(12))]))]))];

const CREATE_TOPICS: &[Field] = &[
    always(Array(&[
        always(Text),
        always(Fixed(6)),
        always(Array(&[always(Fixed(4)), always(FixedArray(4))])),
        always(Array(&[always(Text), always(Text)])),
    ])),
    always(Fixed(5)),
];

const DELETE_TOPICS: &[Field] =
    &[from(6, Array(&[always(Text), always(Fixed(16))])), Field(TextArray, 0, 5), always(Fixed(4))];

const CREATE_PARTITIONS: &[Field] =
    &[always(Array(&[always(Text), always(Fixed(4)), always(Array(&[always(FixedArray(4))]))])), always(Fixed(5))];

const DESCRIBE_GROUPS: &[Field] = &[always(TextArray), from(3, Fixed(1))];

const LIST_GROUPS: &[Field] = &[from(4, TextArray), from(5, TextArray)];

const DELETE_RECORDS: &[Field] =
    &[always(Array(&[always(Text), always(Array(&[always(Fixed(4)), always(Fixed(8))]))])), always(Fixed(4))];

const DELETE_GROUPS: &[Field] = &[always(TextArray)];

const DESCRIBE_CONFIGS: &[Field] =
    &[always(Array(&[always(Fixed(1)), always(Text), always(TextArray)])), always(Fixed(1)), from(3, Fixed(1))];

const INCREMENTAL_ALTER_CONFIGS: &[Field] = &[
    always(Array(&[always(Fixed(1)), always(Text), always(Array(&[always(Text), always(Fixed(1)), always(Text)]))])),
    always(Fixed(1)),
];

const DESCRIBE_CLUSTER: &[Field] = &[always(Fixed(1)), from(1, Fixed(1)), from(2, Fixed(1))];

#[cfg(test)]
mod tests;
