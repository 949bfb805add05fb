"""sentence-transformers' own `SparseAutoEncoder` layout, written and read.

A native model loads with no flag and without this package. Its `SparseAutoEncoder` computes the
same TopK_k(ReLU(W_enc (v - b_pre) + b_enc)) as a `SparseCSRHead` and decodes with W_encᵀ.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, Literal, cast

import torch
from huggingface_hub import ModelCard, ModelCardData
from safetensors import SafetensorError
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Module
from sentence_transformers.sentence_transformer.modules import Normalize
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

from csr_st._io.files import sync_directory
from csr_st.attaching import name_of
from csr_st.convert.weights import head_of
from csr_st.head import SparseCSRHead

NATIVE_CLASS = ".SparseAutoEncoder"  # its folder within sentence-transformers has moved before
K_AUX = 512  # what sentence-transformers' CSRLoss asks a module for; no part of a code
Kind = Literal["SentenceTransformer", "SparseEncoder"]


def losses_of_native(head: SparseCSRHead) -> list[str]:
    """What the native layout cannot hold of a head, a sentence each; the codes are never lost.

    Args:
        head: The head that is to be converted.

    Returns:
        Sentences; the first two, on the name of k and on precision, hold for every head.

    Raises:
        ValueError: If the head has a mean for each modality: its codes would be lost.
    """
    if head.modalities is not None:
        raise ValueError(
            f"the head has means of its own for {', '.join(head.modalities)}, which the native "
            "layout cannot hold: its codes would be others; publish it as it is"
        )
    lost = [
        "the name k: encode(..., k=16) is encode(..., max_active_dims=16), and the functions of "
        "csr_st do not know the model",
        "its own precision: under a half-precision backbone sentence-transformers casts the native "
        "module too, which rounds codes",
    ]
    if not head.tied:
        lost.append(
            "the decoder: the native one is the encoder's transpose, so decode, rescoring through "
            "the decoder and further training give other results"
        )
    if head.short_ks:
        lost.append(f"the decoder's maps of short codes, up to k={head.short_ks[-1]}")
    if head.power != 1:
        lost.append(
            f"power={head.power}: the native codes have the same latents with magnitudes as they "
            "are, equal to the head's at power=1, and their similarity weighs the largest more"
        )
    if head.query_k is not None:
        lost.append(f"query_k={head.query_k}: queries get k={head.k} unless max_active_dims says")
    if head.normalize:
        lost.append(
            "the codes' raw magnitudes: a Normalize module scales them to unit length, as the "
            "head did, and nothing keeps the lengths"
        )
    return lost


def to_native(
    model: SentenceTransformer, folder: str | Path, kind: Kind = "SentenceTransformer"
) -> list[str]:
    """Write a model that plain sentence-transformers loads with no flag and without this package.

    Raw codes are bit-equal to the head's at every k, where its ``power`` is 1. A head that
    normalises gets a `Normalize` module behind it, equal to the last bits of float32.

    Args:
        model: A model that ends in a `SparseCSRHead`.
        folder: New or empty folder; it appears whole or not at all.
        kind: The class that loads it. `SparseEncoder` stacks a second, untrained autoencoder on a
            folder of the other class, and `SentenceTransformer` drops the first.

    Returns:
        What the layout cannot hold, as `losses_of_native` says; the card in the folder says it too.

    Raises:
        ValueError: If the model does not end in a head, the folder is not empty, kind is unknown,
            or the head's weights are no float32.
    """
    classes = {"SentenceTransformer": SentenceTransformer, "SparseEncoder": SparseEncoder}
    if kind not in classes:
        raise ValueError(f"kind={kind!r} must be one of {', '.join(map(repr, classes))}")
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
    converted = classes[kind](
        modules=[*modules[:-1], *_native_modules(head)],
        device=str(model.device),
        prompts={name: text for name, text in model.prompts.items() if text is not None},
        default_prompt_name=model.default_prompt_name,
        similarity_fn_name="dot" if head.normalize else "cosine",
    )
    converted.module_kwargs = model.module_kwargs
    lost = losses_of_native(head)
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        converted.save(str(staged), create_model_card=False)
        (staged / "README.md").write_text(_card(model, head, kind, lost), encoding="utf-8")
        for file in staged.rglob("*"):
            if file.is_file():
                with file.open("rb+") as opened:
                    os.fsync(opened.fileno())
        staged.chmod(0o755)  # mkdtemp gives 0o700
        staged.replace(target)
        sync_directory(target.parent)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return lost


def head_from_native(
    source: str | Path | SparseAutoEncoder, *, normalize: bool = False, **hub: Any
) -> SparseCSRHead:
    """The head whose codes equal those of a `SparseAutoEncoder`, bit for bit at every k.

    Args:
        source: A module, or the folder or Hub id of a model that has one; only its weights are
            read then, as safetensors.
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
        subfolder = _find_native(str(source), hub)
        where = str(Path(str(source)) / subfolder)
        settings = _json(str(source), "config.json", {**hub, "subfolder": subfolder})
        weights = _weights(str(source), {**hub, "subfolder": subfolder}, where)
    if not isinstance(settings, dict) or "k" not in settings:
        raise ValueError(f"{where} has no setting k; download or save the model again")
    if settings.get("normalize"):
        raise ValueError(
            f"{where} has normalize=True: it standardises each vector, (v - mean) / std, which a "
            "SparseCSRHead does not do; only normalize=False can be converted"
        )
    head = head_of(weights, settings["k"], where, normalize=normalize)
    stated = (settings.get("input_dim"), settings.get("hidden_dim"))
    if stated != (head.input_dim, head.hidden_dim):
        raise ValueError(
            f"{where} states (input_dim, hidden_dim)={stated}, its weights have "
            f"{(head.input_dim, head.hidden_dim)}; download or save the model again"
        )
    return head


def from_native(
    source: str | Path,
    *,
    trust_remote_code: bool = False,
    device: str | None = None,
    **hub: Any,
) -> SentenceTransformer:
    """A native model, such as the papers' authors published, as one that ends in a head.

    Prompts and similarity stay. Codes are bit-equal, or with a `Normalize` module behind the
    autoencoder equal to the last bits of float32.

    Args:
        source: Folder or Hub id of a `SparseEncoder` or `SentenceTransformer` model.
        trust_remote_code: Run code that the model brings.
        device: Where to load it.
        hub: As for `head_from_native`.

    Returns:
        The model.

    Raises:
        ValueError: As for `head_from_native`, or if modules other than `Normalize` follow the
            autoencoder.
    """
    config = _json(str(source), "config_sentence_transformers.json", hub)
    kind = SparseEncoder if config.get("model_type") == "SparseEncoder" else SentenceTransformer
    head_from_native(source, **hub)  # refuses what is damaged before the backbone is loaded
    native = kind(str(source), trust_remote_code=trust_remote_code, device=device, **hub)
    modules = list(native.children())
    at = next(i for i, module in enumerate(modules) if isinstance(module, SparseAutoEncoder))
    behind = modules[at + 1 :]
    if any(not isinstance(module, Normalize) for module in behind):
        raise ValueError(
            f"{source} has {[type(m).__name__ for m in behind]} behind its SparseAutoEncoder; only "
            "Normalize can be converted"
        )
    autoencoder = cast(SparseAutoEncoder, modules[at])
    converted = SentenceTransformer(
        modules=OrderedDict(  # type: ignore[arg-type] # a dict keeps the names, see its __init__
            [
                *((str(i), module) for i, module in enumerate(modules[:at])),
                (str(at), head_from_native(autoencoder, normalize=bool(behind))),
            ]
        ),
        device=str(native.device),
        prompts={name: text for name, text in native.prompts.items() if text is not None},
        default_prompt_name=native.default_prompt_name,
        similarity_fn_name=native.similarity_fn_name,
    )
    converted.module_kwargs = native.module_kwargs
    converted.model_card_data.base_model = name_of(native)  # type: ignore[arg-type] # needs but the two attributes that both kinds have
    return converted


def _native_modules(head: SparseCSRHead) -> list[Module]:
    if head.dtype != "float32":
        raise ValueError(
            f"the head computes in {head.dtype}, the native module in the backbone's type; set up "
            "the head with dtype='float32' to convert it"
        )
    native = SparseAutoEncoder(
        head.input_dim, head.hidden_dim, k=head.k, k_aux=min(K_AUX, head.hidden_dim)
    )
    with torch.no_grad():
        native.pre_bias.copy_(head.pre_bias)
        native.latent_bias.copy_(head.latent_bias)
        native.encoder.weight.copy_(head.encoder_weight)  # type: ignore[operator] # a Linear, typed as a Module
    return [native, Normalize()] if head.normalize else [native]


def _card(model: SentenceTransformer, head: SparseCSRHead, kind: Kind, lost: list[str]) -> str:
    base = model.model_card_data.base_model or name_of(model)
    data = ModelCardData(
        library_name="sentence-transformers",
        tags=["sentence-transformers", "csr", "sparse", "sparse-autoencoder"],
        base_model=base,
        license=model.model_card_data.license,
    )
    k = min(16, head.hidden_dim)
    text = [
        f"---\n{data.to_yaml()}\n---",
        "# Sparse adaptive embeddings, in sentence-transformers' own layout",
        f"Converted by csr-st from a model with a `SparseCSRHead` ({head.input_dim} dimensions to "
        f"{head.hidden_dim:,} latents, k={head.k}). It needs sentence-transformers and no other "
        "package.",
        f"```python\nfrom sentence_transformers import {kind}\n\n"
        f'model = {kind}("path or org/name")\n'
        f"model.encode(texts, max_active_dims={k})  # at most {k} non-zeros a row\n```",
        "What this layout does not hold of the original:\n\n"
        + "\n".join(f"- {sentence}" for sentence in lost),
    ]
    return str(ModelCard("\n\n".join(text))).rstrip() + "\n"


def _find_native(source: str, hub: dict[str, Any]) -> str:
    """Folder of the autoencoder within the model, after its modules.json."""
    modules = _json(source, "modules.json", hub)
    kinds = [str(module.get("type", "")) for module in modules]
    found = [
        i
        for i, kind in enumerate(kinds)
        if kind.startswith("sentence_transformers.") and kind.endswith(NATIVE_CLASS)
    ]
    if len(found) != 1:
        raise ValueError(
            f"{source} has {len(found)} SparseAutoEncoder modules where one is needed; its modules "
            f"are {[kind.split('.')[-1] for kind in kinds]}"
        )
    path = str(modules[found[0]].get("path", ""))
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise ValueError(f"{source} names the module path {path!r}, which leads out of the model")
    return path


def _json(source: str, name: str, hub: dict[str, Any]) -> Any:
    path = Module.load_file_path(source, filename=name, **hub)
    if path is None:
        raise ValueError(f"{source} has no {name}: it is no saved sentence-transformers model")
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def _weights(source: str, hub: dict[str, Any], where: str) -> dict[str, torch.Tensor]:
    path = Module.load_file_path(source, filename="model.safetensors", **hub)
    if path is None:
        raise ValueError(
            f"{where} has no model.safetensors; load the model with sentence-transformers and save "
            "it again to have one"
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut short: {error}") from error
