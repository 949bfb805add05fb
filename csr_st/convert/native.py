"""sentence-transformers' own `SparseAutoEncoder` layout, written and read.

A native model loads with no flag and without this package. Its `SparseAutoEncoder` computes the
same TopK_k(ReLU(W_enc (v - b_pre) + b_enc)) as a `SparseCSRHead` and decodes with W_encᵀ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

import torch
from huggingface_hub import ModelCard, ModelCardData
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Module
from sentence_transformers.sentence_transformer.modules import Normalize
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

from csr_st._io.files import read_json, sync_directory
from csr_st._io.staging import staging, sync_files
from csr_st.attaching import name_of
from csr_st.convert.checkpoints import head_of, read_tensors
from csr_st.head import SparseCSRHead

NATIVE_CLASS = ".SparseAutoEncoder"  # its folder within sentence-transformers has moved before
K_AUX = 512  # sentence-transformers' CSRLoss needs it; codes do not depend on it
Kind = Literal["SentenceTransformer", "SparseEncoder"]
CLASSES: dict[str, Any] = {one.__name__: one for one in (SentenceTransformer, SparseEncoder)}


def losses_of_native(head: SparseCSRHead) -> list[str]:
    """What the native layout cannot store of a head, one sentence each.

    The first two, on the name of k and on precision, apply to every head.

    Raises:
        ValueError: If the head is of tokens, which the layout has not, or has a mean for each
            modality, without which its codes differ.
    """
    if head.level == "token":
        raise ValueError(
            "a head with level='token' pools the latents of tokens, which the native layout does "
            "not do; publish the model as it is"
        )
    if head.modalities is not None:
        raise ValueError(
            f"the head has means of its own for {', '.join(head.modalities)}, which the native "
            "layout cannot store: codes would differ; publish the model as it is"
        )
    lost = [
        "the name k: pass max_active_dims=16 in place of k=16; csr_st's functions need a head",
        "its own precision: a half-precision backbone casts the native module and rounds codes",
    ]
    if not head.tied:
        lost.append("the decoder, here the encoder's transpose: decoding and rescoring differ")
    if head.short_ks:
        lost.append(f"the decoder's maps of short codes, up to k={head.short_ks[-1]}")
    if head.debias:
        lost.append("debias: magnitudes weight the decoder's rows as they are")
    if head.power != 1:
        lost.append(f"power={head.power}: the native codes are those of power=1, latents unchanged")
    if head.query_k is not None:
        lost.append(f"query_k={head.query_k}: pass max_active_dims={head.query_k} for queries")
    if head.normalize:
        lost.append("the codes' raw magnitudes: a Normalize module scales them to unit length")
    return lost


def to_native(
    model: SentenceTransformer, folder: str | Path, kind: Kind = "SentenceTransformer"
) -> list[str]:
    """Write a model that plain sentence-transformers loads with no flag and without this package.

    Raw codes are bit-equal to the head's at every k if its ``power`` is 1. A head that normalises
    gets a `Normalize` module after it; codes are then equal up to float32 rounding.

    Args:
        model: A model that ends in a `SparseCSRHead`.
        folder: New or empty folder; it is written completely or not at all.
        kind: The class that loads it. A folder of the other class does not work: `SparseEncoder`
            appends an untrained autoencoder, `SentenceTransformer` drops the trained one.

    Returns:
        What `losses_of_native` gives; it is on the card in the folder too.

    Raises:
        ValueError: If the model does not end in a head, the folder is not empty, kind is unknown,
            or the head's weights are not float32; else as `losses_of_native`.
    """
    if kind not in CLASSES:
        raise ValueError(f"kind={kind!r} must be one of {', '.join(map(repr, CLASSES))}")
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and is not empty; give a new folder")
    modules = list(model.children())
    head = modules[-1] if modules else None
    if not isinstance(head, SparseCSRHead):
        raise ValueError(
            f"the model ends in {type(head).__name__}, not in a SparseCSRHead; there is no head to "
            "convert"
        )
    lost = losses_of_native(head)
    similarity = "dot" if head.normalize else "cosine"
    converted = _as_class(CLASSES[kind], model, [*modules[:-1], *_native_modules(head)], similarity)
    with staging(target.parent, f".{target.name}.converting-") as beside:
        staged = beside / "model"
        converted.save(str(staged), create_model_card=False)
        (staged / "README.md").write_text(_card(model, head, kind, lost), encoding="utf-8")
        sync_files(staged)
        staged.replace(target)
    sync_directory(target.parent)
    return lost


def head_from_native(
    source: str | Path | SparseAutoEncoder, *, normalize: bool = False, **hub: Any
) -> SparseCSRHead:
    """The head whose codes equal those of a `SparseAutoEncoder`, bit for bit at every k.

    Args:
        source: A module, or the folder or Hub id of a model with one, of which only this module's
            files are read.
        normalize: Scale codes to unit length; the native module does not.
        hub: ``revision``, ``token``, ``cache_folder`` and ``local_files_only`` of the Hub.

    Returns:
        A tied head with the source's k.

    Raises:
        ValueError: If there is no such module, its weights do not fit its settings, or it
            standardises its input (``normalize=True`` in its own settings).
    """
    if isinstance(source, SparseAutoEncoder):
        settings, weights = source.get_config_dict(), source.state_dict()
        where = "the SparseAutoEncoder"
    else:
        model = str(source)
        hub = {**hub, "subfolder": _find_native(model, hub)}
        where = str(Path(model) / hub["subfolder"])
        settings = read_json(_file(model, "config.json", hub))
        weights = read_tensors(_file(model, "model.safetensors", hub))
    if settings.get("normalize"):
        raise ValueError(
            f"{where} has normalize=True: it standardises each vector, (v - mean) / std, which a "
            "SparseCSRHead does not do; only normalize=False can be converted"
        )
    if "k" not in settings:
        raise ValueError(f"{where} has no setting k; download or save the model again")
    head = head_of(weights, settings["k"], where, normalize=normalize)
    stated = (settings.get("input_dim"), settings.get("hidden_dim"))
    if stated != (head.input_dim, head.hidden_dim):
        raise ValueError(
            f"{where} states (input_dim, hidden_dim)={stated}, its weights have "
            f"{(head.input_dim, head.hidden_dim)}; download or save the model again"
        )
    return head


def from_native(
    source: str | Path, *, trust_remote_code: bool = False, device: str | None = None, **hub: Any
) -> SentenceTransformer:
    """A native model, such as the CSR authors published, as one that ends in a head.

    Prompts and similarity are kept. Codes are equal, as for `to_native`.

    Args:
        source: Folder or Hub id of a `SparseEncoder` or `SentenceTransformer` model.
        trust_remote_code: Run code that comes with the model.
        device: Where to load it.
        hub: As for `head_from_native`.

    Raises:
        ValueError: As `head_from_native`, or if modules other than `Normalize` follow the
            autoencoder.
    """
    config = read_json(_file(str(source), "config_sentence_transformers.json", hub))
    head = head_from_native(source, **hub)  # refuses damaged files before the backbone is loaded
    kind = CLASSES.get(config.get("model_type"), SentenceTransformer)
    native = kind(str(source), trust_remote_code=trust_remote_code, device=device, **hub)
    modules = list(native.children())
    at = next(i for i, module in enumerate(modules) if isinstance(module, SparseAutoEncoder))
    after = modules[at + 1 :]
    if not all(isinstance(module, Normalize) for module in after):
        raise ValueError(
            f"{source} has {[type(m).__name__ for m in after]} after its SparseAutoEncoder; only "
            "Normalize can be converted"
        )
    head.normalize = bool(after)
    kept = [*modules[:at], head]
    converted = _as_class(SentenceTransformer, native, kept, native.similarity_fn_name)
    converted.model_card_data.base_model = name_of(native)
    return cast(SentenceTransformer, converted)


def _as_class(kind: Any, model: Any, modules: list[Any], similarity: str | None) -> Any:
    """A model of a class from modules, on the device and with the prompts of ``model``."""
    made = kind(
        modules=modules,
        device=str(model.device),
        prompts={name: text for name, text in model.prompts.items() if text is not None},
        default_prompt_name=model.default_prompt_name,
        similarity_fn_name=similarity,
    )
    made.module_kwargs = model.module_kwargs
    return made


def _native_modules(head: SparseCSRHead) -> list[Module]:
    if head.dtype != "float32":
        raise ValueError(
            f"the head computes in {head.dtype}, the native module in the backbone's type; only a "
            "head with dtype='float32' can be converted"
        )
    k_aux = min(K_AUX, head.hidden_dim)
    native = SparseAutoEncoder(head.input_dim, head.hidden_dim, k=head.k, k_aux=k_aux)
    with torch.no_grad():
        native.pre_bias.copy_(head.pre_bias)
        native.latent_bias.copy_(head.latent_bias)
        native.encoder.weight.copy_(head.encoder_weight)  # type: ignore[operator] # a Linear, typed as a Module
    return [native, Normalize()] if head.normalize else [native]


def _card(model: SentenceTransformer, head: SparseCSRHead, kind: Kind, lost: list[str]) -> str:
    data = ModelCardData(
        library_name="sentence-transformers",
        tags=["sentence-transformers", "csr", "sparse", "sparse-autoencoder"],
        base_model=name_of(model),
        license=model.model_card_data.license,
    )
    k = min(16, head.hidden_dim)
    sentences = "\n".join(f"- {sentence}" for sentence in lost)
    text = f"""---
{data.to_yaml()}
---

# Sparse adaptive embeddings, in sentence-transformers' own layout

Converted by csr-st from a model with a `SparseCSRHead` ({head.input_dim} dimensions to \
{head.hidden_dim:,} latents, k={head.k}). It needs only sentence-transformers.

```python
from sentence_transformers import {kind}

model = {kind}("path or org/name")
model.encode(texts, max_active_dims={k})  # at most {k} non-zeros per row
```

What this layout does not store of the original:

{sentences}
"""
    return str(ModelCard(text)).rstrip() + "\n"


def _find_native(source: str, hub: dict[str, Any]) -> str:
    """Folder of the autoencoder within the model, as its modules.json names it."""
    listed = read_json(_file(source, "modules.json", hub), list)
    modules = [(str(module.get("type")), str(module.get("path"))) for module in listed]
    found = [
        path
        for name, path in modules
        if name.startswith("sentence_transformers.") and name.endswith(NATIVE_CLASS)
    ]
    if len(found) != 1:
        raise ValueError(
            f"{source} has {len(found)} SparseAutoEncoder modules where one is needed; its modules "
            f"are {[name.split('.')[-1] for name, _ in modules]}"
        )
    if Path(found[0]).is_absolute() or ".." in Path(found[0]).parts:
        raise ValueError(f"{source} has the module path {found[0]!r}, which is outside the model")
    return found[0]


def _file(source: str, name: str, hub: dict[str, Any]) -> str:
    path = Module.load_file_path(source, filename=name, **hub)
    if path is None:
        raise ValueError(
            f"{source} has no {name}; load the model with sentence-transformers and save it again"
        )
    return path
