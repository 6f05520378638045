// What a browser does with Myriad, over gRPC-Web: a turn, a broken stream taken up again, a cancel, an error.
// The code is a browser's: fetch and AbortController. Only the command line at the end is Node's.
// Usage: node client.mjs ADDRESS AGENT QUESTION
// MYRIAD_TOKEN: bearer token, if the edge wants one. MYRIAD_CA: file of the roots to trust, PEM; if set, TLS is spoken,
// and NODE_EXTRA_CA_CERTS must name the file, too: fetch takes its roots from there.

import { enumToJson } from '@bufbuild/protobuf';
import { ConnectError, createClient } from '@connectrpc/connect';
import { createGrpcWebTransport } from '@connectrpc/connect-web';
import { ErrorInfoSchema } from './gen/google/rpc/error_details_pb.js';
import { OrchestratorService } from './gen/myriad/orchestrator/v1/orchestrator_pb.js';
import { OnDisconnect, RunStateSchema } from './gen/myriad/orchestrator/v1/run_pb.js';

const UNARY_MS = 10_000;
const TURN_MS = 120_000;

function connect(baseUrl, token) {
  const authorize = (next) => (request) => {
    if (token) request.header.set('authorization', `Bearer ${token}`);
    return next(request);
  };
  const transport = createGrpcWebTransport({ baseUrl, interceptors: [authorize], defaultTimeoutMs: UNARY_MS });
  return createClient(OrchestratorService, transport);
}

// The events of a stream. Leaving the loop hangs up. A heartbeat only says that the run is alive: it has no sequence.
async function* events(method, request) {
  const hangUp = new AbortController();
  const signal = AbortSignal.any([hangUp.signal, AbortSignal.timeout(TURN_MS)]);
  try {
    const stream = method(request, { signal, timeoutMs: 0 }); // the default is for unary calls
    for await (const event of stream) if (event.sequence > 0) yield event;
  } finally {
    hangUp.abort();
  }
}

// The answer so far. A run that another replica took over may take a part of it back.
function answer(log) {
  let kept = [];
  for (const { sequence, event } of log) {
    if (event.case === 'restarted') kept = kept.filter((part) => part.sequence < event.value.discardFromSequence);
    if (event.case === 'textDelta') kept.push({ sequence, text: event.value.text });
  }
  return kept.map((part) => part.text).join('');
}

const sequences = (log) => log.map((event) => event.sequence);
const last = (log) => log.at(-1).event.case;

// The request id makes the turn safe to send again: it attaches to the run that the first one began.
const turn = (sessionId, input, more = {}) => ({ sessionId, input, requestId: crypto.randomUUID(), ...more });

async function ask(client, sessionId, question, show) {
  const log = [];
  for await (const event of events(client.runTurn, turn(sessionId, question))) {
    log.push(event);
    if (event.event.case === 'textDelta') show(event.event.value.text);
  }
  const deltas = log.filter((event) => event.event.case === 'textDelta').length;
  return { run_id: log[0].runId, answer: answer(log), deltas, sequences: sequences(log), last: last(log) };
}

// The run goes on without its client, and WatchRun shows the rest: all that came after the cursor.
async function resume(client, sessionId, question) {
  const log = [];
  const request = turn(sessionId, question, { onDisconnect: OnDisconnect.CONTINUE });
  for await (const event of events(client.runTurn, request)) {
    log.push(event);
    if (event.event.case === 'textDelta') break;
  }
  const { runId, sequence: cursor } = log.at(-1);
  for await (const event of events(client.watchRun, { runId, afterSequence: cursor })) log.push(event);
  return { run_id: runId, cursor, answer: answer(log), sequences: sequences(log), last: last(log) };
}

// CancelRun returns when the run was told. The log says when it has ended.
async function cancel(client, sessionId, question) {
  const log = [];
  let told = false;
  for await (const event of events(client.runTurn, turn(sessionId, question))) {
    log.push(event);
    if (event.event.case !== 'textDelta' || told) continue;
    told = true;
    await client.cancelRun({ runId: event.runId });
  }
  const { run } = await client.getRun({ runId: log[0].runId });
  return { run_id: run.runId, answer: answer(log), last: last(log), state: enumToJson(RunStateSchema, run.state) };
}

// What to do about an error depends on its code and its reason, never on its text.
async function refused(client) {
  try {
    await client.createSession({ agent: 'no-such-agent' });
  } catch (error) {
    const refusal = ConnectError.from(error);
    const [{ reason, domain }] = refusal.findDetails(ErrorInfoSchema);
    return { code: refusal.code, reason, domain };
  }
  throw new Error('a session with an unknown agent was opened');
}

async function main([address, agent, question], { MYRIAD_TOKEN, MYRIAD_CA }) {
  if (!question) throw new Error('usage: node client.mjs ADDRESS AGENT QUESTION');
  const client = connect(`${MYRIAD_CA ? 'https' : 'http'}://${address}`, MYRIAD_TOKEN);
  const { session } = await client.createSession({ agent, requestId: crypto.randomUUID() });
  const { sessionId } = session;
  const answered = await ask(client, sessionId, question, (text) => process.stderr.write(text));
  process.stderr.write('\n');
  const resumed = await resume(client, sessionId, question);
  const cancelled = await cancel(client, sessionId, question);
  console.log(JSON.stringify({ session_id: sessionId, answered, resumed, cancelled, error: await refused(client) }));
}

main(process.argv.slice(2), process.env).catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
