// What a client of Myriad does, over gRPC: a turn, a broken stream taken up again, a cancel, an error.
// Usage: java -cp 'classes:lib/*' Client ADDRESS AGENT QUESTION
// MYRIAD_TOKEN: bearer token, if the edge wants one. MYRIAD_CA: file of the roots to trust, PEM; if set, TLS is spoken.

import com.google.gson.Gson;
import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import io.grpc.ChannelCredentials;
import io.grpc.Context;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.MetadataUtils;
import java.io.File;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import java.util.function.Predicate;
import java.util.stream.Collectors;
import myriad.orchestrator.v1.CancelRunRequest;
import myriad.orchestrator.v1.CreateSessionRequest;
import myriad.orchestrator.v1.GetRunRequest;
import myriad.orchestrator.v1.OnDisconnect;
import myriad.orchestrator.v1.OrchestratorServiceGrpc;
import myriad.orchestrator.v1.OrchestratorServiceGrpc.OrchestratorServiceBlockingStub;
import myriad.orchestrator.v1.Run;
import myriad.orchestrator.v1.RunEvent;
import myriad.orchestrator.v1.RunTurnRequest;
import myriad.orchestrator.v1.WatchRunRequest;

final class Client {
  private static final long UNARY_SECONDS = 10;
  private static final long TURN_SECONDS = 120;

  private final OrchestratorServiceBlockingStub stub;

  private Client(OrchestratorServiceBlockingStub stub) {
    this.stub = stub;
  }

  public static void main(String[] arguments) throws Exception {
    if (arguments.length != 3) {
      System.err.println("usage: Client ADDRESS AGENT QUESTION");
      System.exit(2);
    }
    ManagedChannel channel = Grpc.newChannelBuilder(arguments[0], credentials()).build();
    try {
      Client client = new Client(authorized(OrchestratorServiceGrpc.newBlockingStub(channel)));
      System.out.println(new Gson().toJson(client.everything(arguments[1], arguments[2])));
    } catch (StatusRuntimeException error) {
      System.err.println(error.getMessage());
      System.exit(1);
    } finally {
      channel.shutdownNow();
    }
  }

  private static ChannelCredentials credentials() throws IOException {
    String roots = System.getenv("MYRIAD_CA");
    return roots == null
        ? InsecureChannelCredentials.create()
        : TlsChannelCredentials.newBuilder().trustManager(new File(roots)).build();
  }

  private static OrchestratorServiceBlockingStub authorized(OrchestratorServiceBlockingStub stub) {
    String token = System.getenv("MYRIAD_TOKEN");
    if (token == null) {
      return stub;
    }
    Metadata metadata = new Metadata();
    metadata.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + token);
    return stub.withInterceptors(MetadataUtils.newAttachHeadersInterceptor(metadata));
  }

  private Map<String, Object> everything(String agent, String question) throws InvalidProtocolBufferException {
    String session = openSession(agent);
    return fields(
        "session_id", session,
        "answered", ask(session, question),
        "resumed", resume(session, question),
        "cancelled", cancel(session, question),
        "error", refused());
  }

  private OrchestratorServiceBlockingStub unary() {
    return stub.withDeadlineAfter(UNARY_SECONDS, TimeUnit.SECONDS);
  }

  private OrchestratorServiceBlockingStub streaming() {
    return stub.withDeadlineAfter(TURN_SECONDS, TimeUnit.SECONDS);
  }

  private String openSession(String agent) {
    var request = CreateSessionRequest.newBuilder().setAgent(agent).setRequestId(UUID.randomUUID().toString());
    return unary().createSession(request.build()).getSession().getSessionId();
  }

  /** A turn's request id makes it safe to send again: it attaches to the run that the first one began. */
  private static RunTurnRequest turn(String session, String question, OnDisconnect onDisconnect) {
    return RunTurnRequest.newBuilder()
        .setSessionId(session)
        .setInput(question)
        .setRequestId(UUID.randomUUID().toString())
        .setOnDisconnect(onDisconnect)
        .build();
  }

  private Map<String, Object> ask(String session, String question) {
    Log log = new Log();
    log.read(
        streaming().runTurn(turn(session, question, OnDisconnect.ON_DISCONNECT_CANCEL)),
        event -> {
          System.err.print(event.getTextDelta().getText());
          return false;
        });
    System.err.println();
    long deltas = log.events.stream().filter(RunEvent::hasTextDelta).count();
    return fields(
        "run_id", log.runId(),
        "answer", log.answer(),
        "deltas", deltas,
        "sequences", log.sequences(),
        "last", log.last());
  }

  /** Hangs up in the middle. The run goes on without its client; WatchRun shows what came after the cursor. */
  private Map<String, Object> resume(String session, String question) {
    Log log = new Log();
    Context.CancellableContext call = Context.current().withCancellation();
    call.run(
        () ->
            log.read(
                streaming().runTurn(turn(session, question, OnDisconnect.ON_DISCONNECT_CONTINUE)),
                RunEvent::hasTextDelta));
    call.cancel(null);

    int cursor = log.cursor();
    var request = WatchRunRequest.newBuilder().setRunId(log.runId()).setAfterSequence(cursor).build();
    log.read(streaming().watchRun(request), event -> false);
    return fields(
        "run_id", log.runId(),
        "cursor", cursor,
        "answer", log.answer(),
        "sequences", log.sequences(),
        "last", log.last());
  }

  /** Stops a run in the middle. CancelRun returns when the run was told; the log says when it has ended. */
  private Map<String, Object> cancel(String session, String question) {
    Log log = new Log();
    Iterator<RunEvent> stream =
        streaming().runTurn(turn(session, question, OnDisconnect.ON_DISCONNECT_CANCEL));
    log.read(stream, RunEvent::hasTextDelta);
    unary().cancelRun(CancelRunRequest.newBuilder().setRunId(log.runId()).build());
    log.read(stream, event -> false);
    Run run = unary().getRun(GetRunRequest.newBuilder().setRunId(log.runId()).build()).getRun();
    return fields(
        "run_id", run.getRunId(), "answer", log.answer(), "last", log.last(), "state", run.getState().name());
  }

  /** Shows an error. What to do about one depends on its code and its reason, never on its text. */
  private Map<String, Object> refused() throws InvalidProtocolBufferException {
    try {
      openSession("no-such-agent");
    } catch (StatusRuntimeException error) {
      com.google.rpc.Status status = StatusProto.fromThrowable(error);
      for (Any detail : status.getDetailsList()) {
        if (detail.is(ErrorInfo.class)) {
          ErrorInfo info = detail.unpack(ErrorInfo.class);
          return fields("code", status.getCode(), "reason", info.getReason(), "domain", info.getDomain());
        }
      }
      throw error;
    }
    throw new IllegalStateException("a session with an unknown agent was opened");
  }

  private static Map<String, Object> fields(Object... namesAndValues) {
    Map<String, Object> fields = new LinkedHashMap<>();
    for (int i = 0; i < namesAndValues.length; i += 2) {
      fields.put((String) namesAndValues[i], namesAndValues[i + 1]);
    }
    return fields;
  }

  /** What was read of a run. */
  private static final class Log {
    private final List<RunEvent> events = new ArrayList<>();

    /**
     * Reads a stream to its end, or until `enough` has seen enough. A heartbeat only says that the run is alive: it
     * has no sequence and is not part of the log.
     */
    void read(Iterator<RunEvent> stream, Predicate<RunEvent> enough) {
      while (stream.hasNext()) {
        RunEvent event = stream.next();
        if (event.getSequence() == 0) {
          continue;
        }
        events.add(event);
        if (enough.test(event)) {
          return;
        }
      }
    }

    /** The answer so far. A run that another replica took over may take a part of it back. */
    String answer() {
      List<RunEvent> kept = new ArrayList<>();
      for (RunEvent event : events) {
        if (event.hasRestarted()) {
          kept.removeIf(delta -> delta.getSequence() >= event.getRestarted().getDiscardFromSequence());
        } else if (event.hasTextDelta()) {
          kept.add(event);
        }
      }
      return kept.stream().map(delta -> delta.getTextDelta().getText()).collect(Collectors.joining());
    }

    String runId() {
      return events.get(0).getRunId();
    }

    int cursor() {
      return events.get(events.size() - 1).getSequence();
    }

    List<Integer> sequences() {
      return events.stream().map(RunEvent::getSequence).collect(Collectors.toList());
    }

    String last() {
      return events.get(events.size() - 1).getEventCase().name().toLowerCase(Locale.ROOT);
    }
  }
}
