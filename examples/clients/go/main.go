// What a client of Myriad does, over gRPC: a turn, a broken stream taken up again, a cancel, an error.
//
// Usage: client ADDRESS AGENT QUESTION
//
// MYRIAD_TOKEN: bearer token, if the edge wants one. MYRIAD_CA: file of the roots to trust, PEM; if set, TLS is spoken.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "myriad-client/gen/myriad/orchestrator/v1"
)

const (
	unaryTimeout = 10 * time.Second
	turnTimeout  = 120 * time.Second
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: client ADDRESS AGENT QUESTION")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(address, agent, question string) error {
	channel, err := dial(address)
	if err != nil {
		return err
	}
	defer channel.Close()
	client := pb.NewOrchestratorServiceClient(channel)
	ctx := context.Background()
	if token := os.Getenv("MYRIAD_TOKEN"); token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}

	session, err := openSession(ctx, client, agent)
	if err != nil {
		return err
	}
	answered, err := ask(ctx, client, session, question)
	if err != nil {
		return err
	}
	resumed, err := resume(ctx, client, session, question)
	if err != nil {
		return err
	}
	cancelled, err := cancel(ctx, client, session, question)
	if err != nil {
		return err
	}
	refusal, err := refused(ctx, client)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"session_id": session, "answered": answered, "resumed": resumed, "cancelled": cancelled, "error": refusal,
	})
}

func dial(address string) (*grpc.ClientConn, error) {
	transport := insecure.NewCredentials()
	if roots := os.Getenv("MYRIAD_CA"); roots != "" {
		var err error
		if transport, err = credentials.NewClientTLSFromFile(roots, ""); err != nil {
			return nil, err
		}
	}
	return grpc.NewClient(address, grpc.WithTransportCredentials(transport))
}

func openSession(ctx context.Context, client pb.OrchestratorServiceClient, agent string) (string, error) {
	ctx, done := context.WithTimeout(ctx, unaryTimeout)
	defer done()
	reply, err := client.CreateSession(ctx, &pb.CreateSessionRequest{Agent: agent, RequestId: rand.Text()})
	return reply.GetSession().GetSessionId(), err
}

// A turn's request id makes it safe to send again: it attaches to the run that the first one began.
func turn(session, question string, then pb.OnDisconnect) *pb.RunTurnRequest {
	return &pb.RunTurnRequest{SessionId: session, Input: question, RequestId: rand.Text(), OnDisconnect: then}
}

// eventLog is what was read of a run.
type eventLog []*pb.RunEvent

// Answer is the answer so far. A run that another replica took over may take a part of it back.
func (log eventLog) Answer() (answer string) {
	var kept eventLog
	for _, event := range log {
		if restarted := event.GetRestarted(); restarted != nil {
			before := eventLog{}
			for _, delta := range kept {
				if delta.Sequence < restarted.DiscardFromSequence {
					before = append(before, delta)
				}
			}
			kept = before
		}
		if event.GetTextDelta() != nil {
			kept = append(kept, event)
		}
	}
	for _, delta := range kept {
		answer += delta.GetTextDelta().Text
	}
	return answer
}

func (log eventLog) Sequences() []uint32 {
	sequences := make([]uint32, len(log))
	for i, event := range log {
		sequences[i] = event.Sequence
	}
	return sequences
}

func (log eventLog) Last() string {
	event := log[len(log)-1].ProtoReflect()
	return string(event.WhichOneof(event.Descriptor().Oneofs().ByName("event")).Name())
}

// read reads a stream to its end, or until look has seen enough.
// A heartbeat only says that the run is alive: it has no sequence and is not part of the log.
func (log *eventLog) read(
	stream grpc.ServerStreamingClient[pb.RunEvent], look func(*pb.RunEvent) (enough bool, err error),
) error {
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if event.Sequence == 0 {
			continue
		}
		*log = append(*log, event)
		if enough, err := look(event); enough || err != nil {
			return err
		}
	}
}

func ask(ctx context.Context, client pb.OrchestratorServiceClient, session, question string) (any, error) {
	ctx, done := context.WithTimeout(ctx, turnTimeout)
	defer done()
	stream, err := client.RunTurn(ctx, turn(session, question, pb.OnDisconnect_ON_DISCONNECT_CANCEL))
	if err != nil {
		return nil, err
	}
	var log eventLog
	deltas := 0
	err = log.read(stream, func(event *pb.RunEvent) (bool, error) {
		if delta := event.GetTextDelta(); delta != nil {
			fmt.Fprint(os.Stderr, delta.Text)
			deltas++
		}
		return false, nil
	})
	if err != nil {
		return nil, err
	}
	fmt.Fprintln(os.Stderr)
	return map[string]any{
		"run_id": log[0].RunId, "answer": log.Answer(), "deltas": deltas, "sequences": log.Sequences(), "last": log.Last(),
	}, nil
}

// resume hangs up in the middle. The run goes on without its client, and WatchRun shows what came after the cursor.
func resume(ctx context.Context, client pb.OrchestratorServiceClient, session, question string) (any, error) {
	ctx, done := context.WithTimeout(ctx, turnTimeout)
	defer done()
	first, hangUp := context.WithCancel(ctx)
	defer hangUp()
	stream, err := client.RunTurn(first, turn(session, question, pb.OnDisconnect_ON_DISCONNECT_CONTINUE))
	if err != nil {
		return nil, err
	}
	var log eventLog
	err = log.read(stream, func(event *pb.RunEvent) (bool, error) { return event.GetTextDelta() != nil, nil })
	if err != nil {
		return nil, err
	}
	hangUp()

	cursor := log[len(log)-1]
	rest, err := client.WatchRun(ctx, &pb.WatchRunRequest{RunId: cursor.RunId, AfterSequence: cursor.Sequence})
	if err != nil {
		return nil, err
	}
	if err := log.read(rest, func(*pb.RunEvent) (bool, error) { return false, nil }); err != nil {
		return nil, err
	}
	return map[string]any{
		"run_id": cursor.RunId, "cursor": cursor.Sequence, "answer": log.Answer(),
		"sequences": log.Sequences(), "last": log.Last(),
	}, nil
}

// cancel stops a run in the middle. CancelRun returns when the run was told; the log says when it has ended.
func cancel(ctx context.Context, client pb.OrchestratorServiceClient, session, question string) (any, error) {
	ctx, done := context.WithTimeout(ctx, turnTimeout)
	defer done()
	stream, err := client.RunTurn(ctx, turn(session, question, pb.OnDisconnect_ON_DISCONNECT_CANCEL))
	if err != nil {
		return nil, err
	}
	var log eventLog
	told := false
	err = log.read(stream, func(event *pb.RunEvent) (bool, error) {
		if event.GetTextDelta() == nil || told {
			return false, nil
		}
		told = true
		short, done := context.WithTimeout(ctx, unaryTimeout)
		defer done()
		_, err := client.CancelRun(short, &pb.CancelRunRequest{RunId: event.RunId})
		return false, err
	})
	if err != nil {
		return nil, err
	}
	short, done := context.WithTimeout(ctx, unaryTimeout)
	defer done()
	reply, err := client.GetRun(short, &pb.GetRunRequest{RunId: log[0].RunId})
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"run_id": reply.Run.RunId, "answer": log.Answer(), "last": log.Last(), "state": reply.Run.State.String(),
	}, nil
}

// refused shows an error. What to do about one depends on its code and its reason, never on its text.
func refused(ctx context.Context, client pb.OrchestratorServiceClient) (any, error) {
	_, err := openSession(ctx, client, "no-such-agent")
	refusal := status.Convert(err)
	for _, detail := range refusal.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return map[string]any{"code": refusal.Code(), "reason": info.Reason, "domain": info.Domain}, nil
		}
	}
	return nil, fmt.Errorf("expected a refusal with a reason, got: %v", err)
}
