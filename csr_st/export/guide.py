"""The README of an exported model: how to run it with this package and without."""

from __future__ import annotations

from csr_st.export.agreement import Agreement
from csr_st.export.files import DESCRIPTION, EXTRAS, GRAPHS, TOKENIZER, Description

LOADING = {
    "onnx": (
        "onnxruntime",
        'session = onnxruntime.InferenceSession("{graph}", providers=["CPUExecutionProvider"])',
        'indices, values = session.run(["indices", "values"], feed)',
    ),
    "openvino": (
        "openvino",
        'session = openvino.compile_model("{graph}", "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})',
        'found = session(feed)\nindices, values = found["indices"], found["values"]',
    ),
}
TEMPLATE = """# Sparse codes without torch

One graph, `{graph}`, from token ids to the active latents of each text and their values. Written
by csr-st. {agreement}

With csr-st (`pip install "csr-st[{extra}]"`):

```python
import csr_st

model = csr_st.ExportedModel(".")
codes = model.encode(["how do planes fly?"], k=16, role="query")
```

Without it (`pip install tokenizers numpy {package}`), in this folder:

```python
import numpy as np
import {package}
from tokenizers import Tokenizer

{load}
texts = ["how do planes fly?", "Wings push air down."]
tokens = Tokenizer.from_file("{tokenizer}").encode_batch(texts{special})
feed = {{"k": np.array(16)}}
feed["input_ids"] = np.array([one.ids for one in tokens])
feed["attention_mask"] = np.array([one.attention_mask for one in tokens])
{more}{run}
```

`k` is any number up to {hidden_dim:,}. Rows are sorted by falling value; zeros at the end of a row
are no latents. {unit}
`{description}` has what is outside of the graph: `prompts` to put before a text, by role, and the
default `k` and `query_k`{lengths}. The third output, `norms`, is what csr-st needs to rebuild dense
vectors from codes.
"""
TYPES = 'feed["token_type_ids"] = np.array([one.type_ids for one in tokens])\n'
LENGTH = 'feed["prompt_length"] = np.array(0)  # tokens of the prompt, see prompt_lengths\n'


def guide(described: Description, agreement: Agreement) -> str:
    """The text of the README."""
    package, load, run = LOADING[described.graph_format]
    graph = GRAPHS[described.graph_format]
    has_length = "prompt_length" in described.inputs
    return TEMPLATE.format(
        graph=graph,
        agreement=("The backbone has 8 bits a weight. " if described.int8 else "") + str(agreement),
        extra=EXTRAS[described.graph_format],
        package=package,
        load=load.format(graph=graph),
        run=run,
        tokenizer=TOKENIZER,
        special="" if described.add_special_tokens else ", add_special_tokens=False",
        more=(TYPES if "token_type_ids" in described.inputs else "") + (LENGTH * has_length),
        hidden_dim=described.hidden_dim,
        unit="Values have unit L2 norm: dot product is cosine." if described.normalize else "",
        description=DESCRIPTION,
        lengths=", and `prompt_lengths`, of tokens that are not pooled" if has_length else "",
    )
