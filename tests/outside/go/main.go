// Command outside puts franz-go behind the contract of ../clients.py.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sort"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

type options struct {
	bootstrap, topic, codec, run, group, log       string
	partitions, count, first, session, commitEvery int
}

func parse(words []string) options {
	var o options
	flags := flag.NewFlagSet("outside", flag.ExitOnError)
	flags.StringVar(&o.bootstrap, "bootstrap", "", "")
	flags.StringVar(&o.topic, "topic", "", "")
	flags.StringVar(&o.codec, "codec", "none", "")
	flags.StringVar(&o.run, "run-id", "", "")
	flags.StringVar(&o.group, "group", "", "")
	flags.StringVar(&o.log, "log", "/dev/stdout", "")
	flags.IntVar(&o.partitions, "partitions", 1, "")
	flags.IntVar(&o.count, "count", 0, "")
	flags.IntVar(&o.first, "first", 0, "")
	flags.IntVar(&o.session, "session-timeout-ms", 6000, "")
	flags.IntVar(&o.commitEvery, "commit-every", 100, "")
	check(flags.Parse(words))
	return o
}

func main() {
	if len(os.Args) < 2 {
		check(fmt.Errorf("produce or consume?"))
	}
	o := parse(os.Args[2:])
	switch {
	case os.Args[1] == "produce":
		produce(o)
	case os.Args[1] == "consume" && o.group != "":
		consumeInGroup(o)
	case os.Args[1] == "consume":
		consume(o)
	default:
		check(fmt.Errorf("unknown command %s", os.Args[1]))
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// produce writes idempotently with acks=all, which are franz-go's defaults.
func produce(o options) {
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(o.bootstrap),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(codecs[o.codec]),
		kgo.ProducerLinger(20*time.Millisecond),
	)
	check(err)
	defer client.Close()
	var acknowledged atomic.Int64
	for n := o.first; n < o.first+o.count; n++ {
		partition := n % o.partitions
		value := fmt.Sprintf(`{"client": "franz-go", "run": "%s", "n": %d, "partition": %d}`, o.run, n, partition)
		record := &kgo.Record{
			Topic: o.topic, Partition: int32(partition), Key: []byte(fmt.Sprintf("k%d", n)), Value: []byte(value),
		}
		client.Produce(context.Background(), record, func(_ *kgo.Record, err error) {
			check(err)
			acknowledged.Add(1)
		})
	}
	check(client.Flush(context.Background()))
	fmt.Printf("acknowledged %d\n", acknowledged.Load())
}

func consume(o options) {
	file, err := os.OpenFile(o.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	check(err)
	out := bufio.NewWriterSize(file, 1<<20)
	client, err := kgo.NewClient(
		kgo.SeedBrokers(o.bootstrap),
		kgo.ConsumeTopics(o.topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	)
	check(err)
	defer client.Close()
	for left := o.count; left > 0; {
		fetches := client.PollRecords(context.Background(), left)
		check(fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) { writeRecord(out, r) })
		left -= fetches.NumRecords()
	}
	check(out.Flush())
}

func writeRecord(out *bufio.Writer, r *kgo.Record) {
	fmt.Fprintf(out, "R\t%d\t%d\t%s\t%s\n", r.Partition, r.Offset, r.Key, r.Value)
}

// member is one of a group. What is read is in the file before it is committed.
type member struct {
	o           options
	out         *bufio.Writer
	uncommitted []*kgo.Record
}

func consumeInGroup(o options) {
	file, err := os.OpenFile(o.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	check(err)
	m := &member{o: o, out: bufio.NewWriter(file)}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(o.bootstrap),
		kgo.ConsumeTopics(o.topic),
		kgo.ConsumerGroup(o.group),
		kgo.SessionTimeout(time.Duration(o.session)*time.Millisecond),
		kgo.HeartbeatInterval(time.Second),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, assigned map[string][]int32) { m.assigned(assigned) }),
		kgo.OnPartitionsRevoked(func(ctx context.Context, client *kgo.Client, _ map[string][]int32) { m.commit(ctx, client) }),
	)
	check(err)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	for ctx.Err() == nil {
		fetches := client.PollRecords(ctx, 50)
		if ctx.Err() == nil {
			check(fetches.Err())
		}
		fetches.EachRecord(func(r *kgo.Record) {
			writeRecord(m.out, r)
			m.uncommitted = append(m.uncommitted, r)
		})
		check(m.out.Flush())
		if len(m.uncommitted) >= o.commitEvery {
			m.commit(context.Background(), client)
		}
		client.AllowRebalance()
	}
	client.CloseAllowingRebalance()
	check(m.out.Flush())
}

// assigned is called with what is added only: the group is cooperative.
func (m *member) assigned(added map[string][]int32) {
	partitions := added[m.o.topic]
	sort.Slice(partitions, func(i, j int) bool { return partitions[i] < partitions[j] })
	words := []string{}
	for _, partition := range partitions {
		words = append(words, fmt.Sprint(partition))
	}
	fmt.Fprintf(m.out, "A\t%s\n", strings.Join(words, ","))
	check(m.out.Flush())
}

func (m *member) commit(ctx context.Context, client *kgo.Client) {
	check(m.out.Flush())
	if len(m.uncommitted) == 0 {
		return
	}
	check(client.CommitRecords(ctx, m.uncommitted...))
	last := map[int32]int64{}
	for _, r := range m.uncommitted {
		last[r.Partition] = max(last[r.Partition], r.Offset+1)
	}
	for partition, offset := range last {
		fmt.Fprintf(m.out, "C\t%d\t%d\n", partition, offset)
	}
	check(m.out.Flush())
	m.uncommitted = nil
}
