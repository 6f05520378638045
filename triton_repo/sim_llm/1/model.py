"""A model without a model: plays the script in the request, for tests and for load."""

import collections
import heapq
import itertools
import threading
import time

import numpy as np
import script
import triton_python_backend_utils as pb_utils

# Cancellation is looked for this often, in so many scripts, by turns. One look is a round trip of about 0.05 ms to the
# server, so that is a tenth of a core. Where more scripts run, each is looked at less often, and before each response.
_POLL_S = 0.03
_POLL_SCRIPTS = 60
# Many leave at once: where one in so many was cancelled, the next are looked at now.
_POLL_ON = 10


class TritonPythonModel:
    """Plays scripted chat completions.

    Inputs:
        request: BYTES [1], the JSON body of an OpenAI chat-completions request. The script is the JSON after `#sim `
            on one line of its last user message; without one, a fixed answer of four deltas is played.

    Outputs:
        chunk: BYTES [1] per response, as of the model `llm`.

    Script fields (README.md has examples): `deltas`, `text`, `tokens`, `tool_calls`, `echo`, `forever`, `delay_ms`,
    `first_ms`, `error`, `error_after`, `usage`, `finish_reason`, and `then`, the script of the turn's next call.
    """

    def initialize(self, args):
        """Starts the one thread that plays scripts with delays."""
        self._numbers = itertools.count(1)
        self._stage = _Stage(_Metrics(args["model_name"]))

    def execute(self, requests):
        """Plays scripts without delays at once, on this thread, and hands the others to the stage."""
        for request in requests:
            sender = request.get_response_sender()
            raw = pb_utils.get_input_tensor_by_name(request, "request").as_numpy().reshape(-1)[0]
            try:
                steps, waits = script.read(raw, next(self._numbers))
            except script.BadRequest as error:
                _fail(sender, f"invalid_request: {error}", pb_utils.TritonError.INVALID_ARG)
                continue
            if waits:
                self._stage.add(steps, sender)
            else:
                for step in steps:
                    _send(sender, step)
        return None

    def finalize(self):
        """Ends the scripts that still run."""
        self._stage.close()


class _Stage:
    """Plays all scripts with delays on one thread: ten thousand slow streams need no ten thousand threads."""

    def __init__(self, metrics):
        self._metrics = metrics
        self._changed = threading.Condition()
        self._arrived = []
        self._closing = False
        self._tickets = itertools.count()
        self._due = []
        """Heap of (time, ticket) of the running scripts' next steps."""
        self._running = {}
        """Ticket → (sender, steps, next step). A ticket that is not here any more was cancelled."""
        self._unseen = collections.deque()
        """Tickets whose turn to be looked at is yet to come."""
        # A daemon, so that this process ends with a server that was killed and will never ask it to.
        self._thread = threading.Thread(target=self._play, daemon=True)
        self._thread.start()

    def add(self, steps, sender):
        """Begins a script."""
        with self._changed:
            self._arrived.append((time.monotonic(), steps, sender))
            self._changed.notify()

    def close(self):
        """Ends all scripts and the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _play(self):
        look_at = 0.0
        while self._wait(look_at):
            now = time.monotonic()
            if now >= look_at:
                look_at = time.monotonic() + self._look()
            while self._due and self._due[0][0] <= now:
                due, ticket = heapq.heappop(self._due)
                if ticket in self._running:
                    self._step(due, ticket)
        self._end(list(self._running), cancelled=True)

    def _look(self):
        """Ends those that are cancelled of the next scripts by turns; returns how long to wait before the next look."""
        if not self._unseen:
            self._unseen.extend(self._running)
        turn = [self._unseen.popleft() for _ in range(min(_POLL_SCRIPTS, len(self._unseen)))]
        cancelled = [ticket for ticket in turn if ticket in self._running and self._running[ticket][0].is_cancelled()]
        self._end(cancelled, cancelled=True)
        return 0.0 if cancelled and len(cancelled) * _POLL_ON >= len(turn) else _POLL_S

    def _wait(self, look_at):
        """Sleeps until there is something to do; returns False when the stage closes."""
        with self._changed:
            wake = min([look_at] * bool(self._running) + [due for due, _ in self._due[:1]], default=None)
            if not self._arrived and not self._closing:
                self._changed.wait(None if wake is None else max(0.0, wake - time.monotonic()))
            arrived, self._arrived = self._arrived, []
        for start, steps, sender in arrived:
            ticket = next(self._tickets)
            self._running[ticket] = (sender, steps, None)
            self._schedule(start, ticket)
        if arrived:
            self._metrics.running.increment(len(arrived))
        return not self._closing

    def _schedule(self, since, ticket):
        """Takes a script's next step. Its time counts from when the last one was due, so that delays do not add up."""
        sender, steps, _ = self._running[ticket]
        step = next(steps)
        self._running[ticket] = (sender, steps, step)
        heapq.heappush(self._due, (since + step.wait_s, ticket))

    def _step(self, due, ticket):
        sender, _, step = self._running[ticket]
        if sender.is_cancelled():
            self._end([ticket], cancelled=True)
            return
        _send(sender, step)
        if step.final:
            self._end([ticket], cancelled=False)
        else:
            self._schedule(due, ticket)

    def _end(self, tickets, cancelled):
        senders = [self._running.pop(ticket)[0] for ticket in tickets]
        if not senders:
            return
        self._metrics.running.increment(-len(senders))
        if cancelled:
            self._metrics.cancelled.increment(len(senders))
            for sender in senders:
                sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


class _Metrics:
    """What the model shows beside Triton's own metrics; scripts without delays do not appear.

    Changed by the stage's thread alone: two threads that change metrics at once crash the whole server (2.51).
    """

    def __init__(self, model):
        running = pb_utils.MetricFamily(
            name="myriad_sim_running", description="Scripts with delays running", kind=pb_utils.MetricFamily.GAUGE
        )
        cancelled = pb_utils.MetricFamily(
            name="myriad_sim_cancelled", description="Scripts ended by cancellation", kind=pb_utils.MetricFamily.COUNTER
        )
        # A family lives as long as Python holds it.
        self._families = (running, cancelled)
        self.running = running.Metric(labels={"model": model})
        self.cancelled = cancelled.Metric(labels={"model": model})


def _send(sender, step):
    if step.error:
        _fail(sender, step.error, pb_utils.TritonError.INTERNAL)
        return
    response = pb_utils.InferenceResponse([pb_utils.Tensor("chunk", np.array([step.chunk.encode()], dtype=np.object_))])
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if step.final else 0)


def _fail(sender, text, code):
    response = pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
