// What a client of Myriad does, over gRPC: a turn, a broken stream taken up again, a cancel, an error.
// Usage: node client.mjs ADDRESS AGENT QUESTION
// MYRIAD_TOKEN: bearer token, if the edge wants one. MYRIAD_CA: file of the roots to trust, PEM; if set, TLS is spoken.

import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';
import protobuf from 'protobufjs';

const UNARY_MS = 10_000;
const TURN_MS = 120_000;
const CONTRACTS = fileURLToPath(new URL('../contracts/', import.meta.url));
const SERVICE = 'myriad/orchestrator/v1/orchestrator.proto';
const ERRORS = ['google/rpc/status.proto', 'google/rpc/error_details.proto'];

const deadline = (ms) => ({ deadline: Date.now() + ms });

function connect(address) {
  const options = { keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true, includeDirs: [CONTRACTS] };
  const { myriad } = grpc.loadPackageDefinition(protoLoader.loadSync(SERVICE, options));
  const { MYRIAD_CA: ca } = process.env;
  const credentials = ca ? grpc.credentials.createSsl(readFileSync(ca)) : grpc.credentials.createInsecure();
  return new myriad.orchestrator.v1.OrchestratorService(address, credentials);
}

// Every call carries the token, and every call has a deadline.
function caller(client) {
  const metadata = new grpc.Metadata();
  const { MYRIAD_TOKEN: token } = process.env;
  if (token) metadata.set('authorization', `Bearer ${token}`);
  return {
    unary: (method, request) => promisify(client[method].bind(client))(request, metadata, deadline(UNARY_MS)),
    stream: (method, request) => client[method](request, metadata, deadline(TURN_MS)),
  };
}

// The events of a stream. Leaving the loop hangs up. A heartbeat only says that the run is alive: it has no sequence.
async function* events(call) {
  call.on('error', () => {}); // hanging up is an error, too, and nobody waits for it
  try {
    for await (const event of call) if (event.sequence > 0) yield event;
  } finally {
    call.cancel();
  }
}

// The answer so far. A run that another replica took over may take a part of it back.
function answer(log) {
  let kept = [];
  for (const event of log) {
    if (event.event === 'restarted') kept = kept.filter((e) => e.sequence < event.restarted.discard_from_sequence);
    if (event.event === 'text_delta') kept.push(event);
  }
  return kept.map((event) => event.text_delta.text).join('');
}

const sequences = (log) => log.map((event) => event.sequence);
const last = (log) => log.at(-1).event;

// The request id makes the turn safe to send again: it attaches to the run that the first one began.
const turn = (session_id, input, more = {}) => ({ session_id, input, request_id: randomUUID(), ...more });

async function ask({ stream }, sessionId, question) {
  const log = [];
  for await (const event of events(stream('RunTurn', turn(sessionId, question)))) {
    log.push(event);
    if (event.event === 'text_delta') process.stderr.write(event.text_delta.text);
  }
  process.stderr.write('\n');
  const deltas = log.filter((event) => event.event === 'text_delta').length;
  return { run_id: log[0].run_id, answer: answer(log), deltas, sequences: sequences(log), last: last(log) };
}

// The run goes on without its client, and WatchRun shows the rest: all that came after the cursor.
async function resume({ stream }, sessionId, question) {
  const log = [];
  const request = turn(sessionId, question, { on_disconnect: 'ON_DISCONNECT_CONTINUE' });
  for await (const event of events(stream('RunTurn', request))) {
    log.push(event);
    if (event.event === 'text_delta') break;
  }
  const { run_id, sequence: cursor } = log.at(-1);
  for await (const event of events(stream('WatchRun', { run_id, after_sequence: cursor }))) log.push(event);
  return { run_id, cursor, answer: answer(log), sequences: sequences(log), last: last(log) };
}

// CancelRun returns when the run was told. The log says when it has ended.
async function cancel({ unary, stream }, sessionId, question) {
  const log = [];
  let told = false;
  for await (const event of events(stream('RunTurn', turn(sessionId, question)))) {
    log.push(event);
    if (event.event !== 'text_delta' || told) continue;
    told = true;
    await unary('CancelRun', { run_id: event.run_id });
  }
  const { run } = await unary('GetRun', { run_id: log[0].run_id });
  return { run_id: run.run_id, answer: answer(log), last: last(log), state: run.state };
}

// What to do about an error depends on its code and its reason, never on its text.
async function refused({ unary }) {
  try {
    await unary('CreateSession', { agent: 'no-such-agent' });
  } catch (error) {
    const { reason, domain } = errorInfo(error);
    return { code: error.code, reason, domain };
  }
  throw new Error('a session with an unknown agent was opened');
}

function errorInfo(error) {
  const root = new protobuf.Root();
  root.resolvePath = (_origin, file) => CONTRACTS + file;
  root.loadSync(ERRORS);
  const [bytes] = error.metadata.get('grpc-status-details-bin');
  const { details } = root.lookupType('google.rpc.Status').decode(bytes);
  const info = details.find((detail) => detail.type_url.endsWith('/google.rpc.ErrorInfo'));
  return root.lookupType('google.rpc.ErrorInfo').decode(info.value);
}

async function main([address, agent, question]) {
  if (!question) throw new Error('usage: node client.mjs ADDRESS AGENT QUESTION');
  const client = connect(address);
  try {
    const calls = caller(client);
    const { session } = await calls.unary('CreateSession', { agent, request_id: randomUUID() });
    const { session_id } = session;
    const answered = await ask(calls, session_id, question);
    const resumed = await resume(calls, session_id, question);
    const cancelled = await cancel(calls, session_id, question);
    console.log(JSON.stringify({ session_id, answered, resumed, cancelled, error: await refused(calls) }));
  } finally {
    client.close();
  }
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
