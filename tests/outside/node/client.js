// kafkajs behind the contract of ../clients.py. kafkajs itself has no codecs but gzip; the others are its users' to add.
'use strict';
const fs = require('fs');
const { Kafka, CompressionTypes, CompressionCodecs, logLevel } = require('kafkajs');
const snappy = require('snappyjs');
const lz4 = require('lz4js');
const { hash: xxh32 } = require('lz4js/xxh32.js');
const zstd = require('@bokuweb/zstd-wasm');

const XERIAL = Buffer.from([0x82, 0x53, 0x4e, 0x41, 0x50, 0x50, 0x59, 0x00]);

// Kafka's snappy is a row of blocks in the framing of snappy-java, or one bare block.
function unsnappy(buffer) {
  if (buffer.compare(XERIAL, 0, 8, 0, 8) !== 0) return Buffer.from(snappy.uncompress(buffer));
  const blocks = [];
  for (let at = 16; at < buffer.length; ) {
    const length = buffer.readInt32BE(at);
    blocks.push(Buffer.from(snappy.uncompress(buffer.subarray(at + 4, at + 4 + length))));
    at += 4 + length;
  }
  return Buffer.concat(blocks);
}

CompressionCodecs[CompressionTypes.Snappy] = () => ({
  compress: async (encoder) => Buffer.from(snappy.compress(encoder.buffer)),
  decompress: async (buffer) => unsnappy(buffer),
});
// lz4js says that blocks depend on one another, which Kafka's Java client refuses. Here they do not: a batch is smaller than
// a block of lz4js (4 MiB), so there is one block. Bit 5 of the flags says so; the header's checksum follows.
function lz4Frame(buffer) {
  const frame = Buffer.from(lz4.compress(buffer));
  frame[4] |= 0x20;
  frame[6] = (xxh32(0, frame, 4, 2) >> 8) & 0xff;
  return frame;
}

CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async (encoder) => lz4Frame(encoder.buffer),
  decompress: async (buffer) => Buffer.from(lz4.decompress(buffer)),
});
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async (encoder) => Buffer.from(zstd.compress(encoder.buffer)),
  decompress: async (buffer) => Buffer.from(zstd.decompress(buffer, { defaultHeapSize: 16 * 1024 * 1024 })),
});

const CODECS = {
  none: CompressionTypes.None,
  gzip: CompressionTypes.GZIP,
  snappy: CompressionTypes.Snappy,
  lz4: CompressionTypes.LZ4,
  zstd: CompressionTypes.ZSTD,
};

function options(words) {
  const found = { first: '0', 'session-timeout-ms': '6000', 'commit-every': '100', log: '/dev/stdout' };
  for (let i = 0; i < words.length; i += 2) found[words[i].replace(/^--/, '')] = words[i + 1];
  return found;
}

function line(partition, message) {
  return `R\t${partition}\t${message.offset}\t${message.key || ''}\t${message.value || ''}\n`;
}

async function produce(kafka, asked) {
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 });
  await producer.connect();
  const [first, count, partitions] = [Number(asked.first), Number(asked.count), Number(asked.partitions)];
  let acknowledged = 0;
  for (let start = first; start < first + count; start += 3000) {
    const messages = [];
    for (let n = start; n < Math.min(start + 3000, first + count); n++) {
      const partition = n % partitions;
      const value = JSON.stringify({ client: 'kafkajs', run: asked['run-id'], n, partition });
      messages.push({ partition, key: `k${n}`, value });
    }
    await producer.send({ topic: asked.topic, acks: -1, compression: CODECS[asked.codec], messages });
    acknowledged += messages.length;
  }
  await producer.disconnect();
  console.log(`acknowledged ${acknowledged}`);
}

// kafkajs reads in groups only: a reader of everything is a group of its own that commits nothing.
async function consume(kafka, asked) {
  const log = fs.openSync(asked.log, 'a');
  const consumer = kafka.consumer({ groupId: `alone-${process.pid}-${Date.now()}` });
  let left = Number(asked.count);
  let done;
  const finished = new Promise((resolve) => (done = resolve));
  await consumer.connect();
  await consumer.subscribe({ topics: [asked.topic], fromBeginning: true });
  await consumer.run({
    autoCommit: false,
    eachBatch: async ({ batch }) => {
      const taken = batch.messages.slice(0, left);
      left -= taken.length;
      fs.writeSync(log, taken.map((message) => line(batch.partition, message)).join(''));
      if (left === 0) done();
    },
  });
  await finished;
  await consumer.disconnect();
}

async function consumeInGroup(kafka, asked) {
  const log = fs.openSync(asked.log, 'a');
  const every = Number(asked['commit-every']);
  const consumer = kafka.consumer({
    groupId: asked.group,
    sessionTimeout: Number(asked['session-timeout-ms']),
    heartbeatInterval: 1000,
    maxWaitTimeInMs: 500,
  });
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
    const partitions = payload.memberAssignment[asked.topic] || [];
    fs.writeSync(log, `A\t${partitions.join(',')}\n`);
  });
  await consumer.connect();
  await consumer.subscribe({ topics: [asked.topic], fromBeginning: true });
  process.on('SIGTERM', () => consumer.disconnect().then(() => process.exit(0)));
  await consumer.run({
    autoCommit: false,
    eachBatchAutoResolve: false,
    eachBatch: async ({ batch, heartbeat, resolveOffset, isRunning, isStale }) => {
      for (let i = 0; i < batch.messages.length && isRunning() && !isStale(); i += every) {
        const taken = batch.messages.slice(i, i + every);
        fs.writeSync(log, taken.map((message) => line(batch.partition, message)).join(''));
        const last = taken[taken.length - 1].offset;
        const offset = (BigInt(last) + 1n).toString();
        await consumer.commitOffsets([{ topic: asked.topic, partition: batch.partition, offset }]);
        resolveOffset(last);
        fs.writeSync(log, `C\t${batch.partition}\t${offset}\n`);
        await heartbeat();
      }
    },
  });
}

async function main() {
  const command = process.argv[2];
  const asked = options(process.argv.slice(3));
  await zstd.init();
  const kafka = new Kafka({ brokers: [asked.bootstrap], clientId: 'outside', logLevel: logLevel.ERROR });
  if (command === 'produce') await produce(kafka, asked);
  else if (command === 'consume') await (asked.group ? consumeInGroup : consume)(kafka, asked);
  else throw new Error(`unknown command ${command}`);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
