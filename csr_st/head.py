"""The sparse adaptive head: a sentence-transformers module that turns a dense vector into a code.

Only the head: how it is trained, attached to a model or evaluated lives elsewhere. The path
``csr_st.head.SparseCSRHead`` stands in every published model's ``modules.json`` and never moves.
"""

from __future__ import annotations

import bisect
import math
import operator
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from sentence_transformers.base.modules import Module
from torch import Tensor, nn

from csr_st.model import files, settings
from csr_st.model.linear import centred_linear
from csr_st.model.top_k import top_k

if TYPE_CHECKING:
    from typing_extensions import Self


class Code(NamedTuple):
    """The active latents of a batch, sorted by falling value.

    Attributes:
        values: (..., k) activations, never negative; trailing zeros where fewer are positive.
        indices: (..., k) int64 latents, distinct within a row.
    """

    values: Tensor
    indices: Tensor


class SparseCSRHead(Module):
    """Contrastive sparse representation head over a frozen embedding.

    z = TopK_k(ReLU(W_enc (v - b_pre) + b_enc)) and v̂ = W_dec z + b_pre, equations 2 and 3 of the
    CSR paper (arXiv 2503.01776). Top-k and ReLU commute, so both orders give the same code. Where
    the paper ties W_dec to W_enc, the default here trains both. With ``power`` p the code is z^p,
    by entry, and the decoder undoes it: the few largest magnitudes, which reconstruct most, then
    count for less in similarity (power normalisation, Perronnin et al., ECCV 2010).

    As the last module of a `SentenceTransformer` it answers ``model.encode(texts, k=16)`` with
    (n, hidden_dim) rows of at most 16 non-zeros. State is never written by a forward pass.

    Args:
        input_dim: Width d of the dense vectors.
        hidden_dim: Number h of latents, 4 * input_dim when None.
        k: Active latents when a call names no k.
        query_k: Active latents of inputs encoded as queries (``encode_query``), ``k`` when None.
        normalize: Scale codes to unit L2 norm, so that dot product is cosine in every engine.
        tied: Decode with the encoder's own rows; halves the weights.
        power: What magnitudes are raised to, above 0 and at most 1; 1 leaves them.
        dtype: Name of the floating type that the head computes in, whatever the backbone's is.
        modalities: Names of modalities that have a mean of their own, as sentence-transformers
            gives them in ``features["modality"]``, such as ["text", "image"].
        short_ks: Rising k, such as [2, 4, 8], up to each of which a code is decoded through a
            linear map of its own, see `decode`.

    Attributes:
        encoder_weight: (hidden_dim, input_dim) W_enc.
        decoder_weight: (hidden_dim, input_dim) W_decᵀ: a row is what its latent adds to v̂.
        pre_bias: (input_dim,) b_pre, the mean of the data.
        latent_bias: (hidden_dim,) b_enc.
        modality_bias: (len(modalities), input_dim) what each modality's mean differs from b_pre;
            None without modalities.
        short_maps: (len(short_ks), input_dim, input_dim) the Aᵀ of `decode`, which have no
            gradient; None without short_ks.

    Raises:
        ValueError: If a width is not positive, k or query_k is not within 1..hidden_dim, power is
            not within 0..1, dtype is unknown, modalities is no list of distinct names, or short_ks
            no rising list within 1..hidden_dim.
        TypeError: If k or query_k is not an integer, power no number, or normalize or tied no bool.
    """

    config_keys = [  # noqa: RUF012 - the base class declares it as an instance-typed attribute
        "input_dim",
        "hidden_dim",
        "k",
        "query_k",
        "normalize",
        "tied",
        "power",
        "dtype",
        "modalities",
        "short_ks",
    ]
    forward_kwargs = {"k", "max_active_dims", "task", "packed"}  # noqa: RUF012 - as above

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int | None = None,
        k: int = 32,
        query_k: int | None = None,
        normalize: bool = True,
        tied: bool = False,
        power: float = 1.0,
        dtype: str = "float32",
        modalities: list[str] | None = None,
        short_ks: list[int] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # untyped in sentence-transformers
        self.input_dim = settings.positive("input_dim", input_dim)
        self.hidden_dim = settings.positive(
            "hidden_dim", 4 * input_dim if hidden_dim is None else hidden_dim
        )
        self.k = self.check_k(k)
        self.query_k = None if query_k is None else self.check_k(query_k, "query_k")
        self.normalize = settings.flag("normalize", normalize)
        self.tied = settings.flag("tied", tied)
        self.power = settings.power_within(power)
        self.dtype = dtype
        kind = settings.floating_dtype(dtype)
        self.modalities = settings.distinct_names("modalities", modalities)
        self.pre_bias = nn.Parameter(torch.zeros(self.input_dim, dtype=kind))
        sides = 0 if self.modalities is None else len(self.modalities)
        self.modality_bias = (
            nn.Parameter(torch.zeros(sides, self.input_dim, dtype=kind)) if sides else None
        )
        self.short_ks = settings.rising("short_ks", short_ks, self.hidden_dim)
        self.short_maps = (
            nn.Parameter(torch.eye(self.input_dim, dtype=kind).repeat(len(self.short_ks), 1, 1))
            if self.short_ks
            else None
        )
        if self.short_maps is not None:
            self.short_maps.requires_grad_(False)  # solved for, not trained
        self.latent_bias = nn.Parameter(torch.zeros(self.hidden_dim, dtype=kind))
        shape = (self.hidden_dim, self.input_dim)
        self.encoder_weight = nn.Parameter(torch.empty(shape, dtype=kind))
        self.decoder_weight = (
            self.encoder_weight if self.tied else nn.Parameter(torch.empty(shape, dtype=kind))
        )
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Random unit rows in the encoder, the decoder equal to it, no bias, no map."""
        with torch.no_grad():
            self.pre_bias.zero_()
            self.latent_bias.zero_()
            self.encoder_weight.normal_(0, 1 / math.sqrt(self.input_dim), generator=generator)
            norms = self.encoder_weight.norm(dim=1, keepdim=True)
            self.encoder_weight.div_(norms.clamp_min(torch.finfo(norms.dtype).tiny))
            self.decoder_weight.copy_(self.encoder_weight)
            if self.short_maps is not None:
                self.short_maps.copy_(torch.eye(self.input_dim))

    def check_k(self, k: Any, name: str = "k") -> int:
        """``k`` as an int within 1..hidden_dim.

        Raises:
            TypeError: If it is not an integer.
            ValueError: If it is out of bounds.
        """
        try:
            number = operator.index(k)
        except TypeError:
            number = None
        if number is None or isinstance(k, bool):
            raise TypeError(
                f"{name}={k!r} is not an integer; pass 1 <= {name} <= {self.hidden_dim}"
            )
        if number < 1:
            raise ValueError(f"{name}={number} is below 1; pass 1 <= {name} <= {self.hidden_dim}")
        if number > self.hidden_dim:
            raise ValueError(
                f"{name}={number} exceeds hidden_dim={self.hidden_dim}; "
                f"pass 1 <= {name} <= {self.hidden_dim}"
            )
        return number

    def resolve_k(
        self, k: int | None = None, max_active_dims: int | None = None, task: str | None = None
    ) -> int:
        """The k of a call: ``k`` or ``max_active_dims`` (the smaller of both), else the default.

        The default is ``query_k`` for ``task="query"`` where the head has one, else ``self.k``.

        Raises:
            TypeError: If a given k is not an integer.
            ValueError: If a given k is out of bounds.
        """
        asked = {"k": k, "max_active_dims": max_active_dims}
        checked = [self.check_k(v, name) for name, v in asked.items() if v is not None]
        if checked:
            return min(checked)
        if task == "query" and self.query_k is not None:
            return self.check_k(self.query_k, "query_k")
        return self.check_k(self.k)

    def pre_activations(self, x: Tensor) -> Tensor:
        """W_enc (v - b_pre) + b_enc: (..., input_dim) vectors to (..., hidden_dim)."""
        x = x.to(self.pre_bias.dtype)
        return centred_linear(x, self.encoder_weight, self.latent_bias, self.pre_bias)

    def shift(self, modality: Any) -> Tensor | None:
        """What a modality's mean differs from b_pre; None where the head has none for it."""
        if self.modality_bias is None or self.modalities is None:
            return None
        if modality not in self.modalities:
            return None
        return self.modality_bias[self.modalities.index(modality)]

    def encode(self, x: Tensor, k: int | None = None, modality: str | None = None) -> Code:
        """The raw codes of dense vectors: to the head's ``power``, not scaled to unit norm.

        Args:
            x: (..., input_dim) vectors of any floating type.
            k: Active latents, the head's default when None.
            modality: What the vectors are of, where the head has a mean for each modality.

        Returns:
            (..., k) values and indices, sorted by falling value: the code at a smaller k is a
            prefix.

        Raises:
            TypeError: If k is not an integer.
            ValueError: If k is out of bounds, the width of x is not input_dim, or x holds NaN or
                Inf.
        """
        k = self.check_k(self.k if k is None else k)
        self._check_input(x)
        shift = self.shift(modality)
        if shift is not None:
            x = x.to(shift.dtype) - shift
        values, indices = top_k(self.pre_activations(x), k)
        return Code(self.raised(values.relu()), indices)

    def raised(self, magnitudes: Tensor) -> Tensor:
        """Magnitudes, never negative, to ``power``; 0 stays 0 and has no gradient."""
        if self.power == 1:
            return magnitudes
        active = magnitudes > 0
        return torch.where(active, magnitudes, 1).pow(self.power).where(active, 0)

    def magnitudes(self, values: Tensor) -> Tensor:
        """What the decoder's rows are weighed by: raw code values, ``power`` undone."""
        return values if self.power == 1 else values.pow(1 / self.power)

    def decode(self, values: Tensor, indices: Tensor, modality: str | None = None) -> Tensor:
        """Dense vectors from raw codes, at a cost of O(k * input_dim) each.

        The few latents of a short code say more than their own directions: what tends to go with
        them is missing from the sum. Of a code of width k up to ``short_ks[i]`` the sum therefore
        goes through the map A_i, the regression of vectors on such sums, at O(input_dim²) more.

        Args:
            values: (..., k) raw values, as `encode` gives them.
            indices: (..., k) integer latents.
            modality: As for `encode`.

        Returns:
            (..., input_dim) reconstructions A W_dec z^(1/power) + b_pre, with the modality's own
            mean; A is the identity where the head has no map for k.
        """
        k = indices.shape[-1]
        flat = F.embedding_bag(
            indices.reshape(-1, k).long(),
            self.decoder_weight,
            per_sample_weights=self.magnitudes(values).reshape(-1, k).to(self.decoder_weight.dtype),
            mode="sum",
        )
        if self.short_maps is not None and k <= self.short_ks[-1]:
            flat = flat @ self.short_maps[bisect.bisect_left(self.short_ks, k)]
        shift = self.shift(modality)
        mean = self.pre_bias if shift is None else self.pre_bias + shift
        return flat.reshape(*indices.shape[:-1], self.input_dim) + mean

    def drop_short_maps(self) -> None:
        """Decode codes of every k alike from now on, as further training outdates the maps."""
        self.short_ks = []
        self.short_maps = None

    def forward(  # type: ignore[override] # kwargs are spelt out: forward_kwargs filters them
        self,
        features: dict[str, Any],
        k: int | None = None,
        max_active_dims: int | None = None,
        task: str | None = None,
        packed: bool = False,
    ) -> dict[str, Any]:
        """Replace the dense ``sentence_embedding`` by its code, keep it as ``dense_embedding``.

        Args:
            features: Holds ``sentence_embedding``, (batch, input_dim).
            k: Active latents of this call.
            max_active_dims: The same as k, by the name that `SparseEncoder` gives it.
            task: "query" or "document", as sentence-transformers passes it.
            packed: Give (batch, 2k + 1) float32 rows [values, indices, norm] in place of the
                (batch, hidden_dim) ones, for `unpack`.

        Returns:
            The features with ``sentence_embedding`` (batch, hidden_dim), at most k non-zeros a row.

        Raises:
            TypeError: If k is not an integer.
            ValueError: As for `encode`.
        """
        x = features["sentence_embedding"]
        code = self.encode(x, self.resolve_k(k, max_active_dims, task), features.get("modality"))
        values = code.values
        # In float32 at least: the squares of a half's entries are soon beyond its largest.
        wide = torch.promote_types(values.dtype, torch.float32)
        norm = torch.linalg.vector_norm(values, dim=-1, keepdim=True, dtype=wide)
        if self.normalize:
            values = (values / norm.clamp_min(torch.finfo(wide).tiny)).to(values.dtype)
        if packed:
            embedding = torch.cat([values.float(), code.indices.float(), norm.float()], dim=-1)
        else:
            embedding = values.new_zeros(*x.shape[:-1], self.hidden_dim)
            embedding = embedding.scatter(-1, code.indices, values)
        return {**features, "dense_embedding": x, "sentence_embedding": embedding}

    def _check_input(self, x: Tensor) -> None:
        if x.shape[-1] != self.input_dim:
            raise ValueError(
                f"vectors of width {x.shape[-1]} given to a head with input_dim={self.input_dim}; "
                "use the backbone that the head was trained on, or train a head for this one"
            )
        if not torch.isfinite(x).all():
            rows = (~torch.isfinite(x.reshape(-1, self.input_dim)).all(dim=1)).nonzero()[:5, 0]
            raise ValueError(
                f"NaN or Inf in the input vectors, first in batch rows {rows.tolist()}; check the "
                "backbone's output (fp16 overflow is the usual cause: load it in bf16 or fp32)"
            )

    def get_embedding_dimension(self) -> int:
        """Width of the output, hidden_dim; at most k entries of a row are not zero."""
        return self.hidden_dim

    def extra_repr(self) -> str:
        """The settings, for `print(model)`."""
        return ", ".join(f"{key}={value}" for key, value in self.get_config_dict().items())

    def get_config_dict(self) -> dict[str, Any]:
        """The settings that are saved; ``modalities`` and ``short_ks`` only where there are any."""
        config = {key: getattr(self, key) for key in self.config_keys}
        for key in ("modalities", "short_ks"):
            if not config[key]:
                del config[key]
        return config

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move with the model but keep ``dtype``: a bf16 backbone must not round the head."""

        def keep_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keep_dtype, recurse)  # type: ignore[no-untyped-call, no-any-return] # torch leaves _apply untyped

    def on_model_ready(self, model: Any) -> None:
        """Check the finished model and keep `SparseEncoder` from stacking a second autoencoder.

        `SparseEncoder` appends an untrained `SparseAutoEncoder` to any `SentenceTransformer` that
        it converts; behind this head it is dropped.

        Raises:
            ValueError: If the model has a ``truncate_dim``.
        """
        truncate_dim = getattr(model, "truncate_dim", None)
        if truncate_dim is not None:
            raise ValueError(
                f"truncate_dim={truncate_dim} would keep the first {truncate_dim} of "
                f"{self.hidden_dim} latents, an arbitrary few; load without it and pass "
                "encode(..., k=) for shorter codes"
            )
        modules = list(model._modules.items())
        if len(modules) < 2 or modules[-2][1] is not self:
            return
        from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

        last = modules[-1][1]
        if isinstance(last, SparseAutoEncoder) and last.input_dim == self.hidden_dim:
            # Rebound, not popped: the caller is iterating over the old dict.
            model._modules = OrderedDict(modules[:-1])

    def save(
        self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any
    ) -> None:
        """Write config.json and model.safetensors into a folder.

        Inside a saved model, its ``config_sentence_transformers.json`` also learns that the model
        needs this package, so that loading without it names the command that installs it.

        Args:
            output_path: Existing folder.
            args: Ignored.
            safe_serialization: Must be True; weights are never pickled.
            kwargs: Ignored.

        Raises:
            ValueError: If ``safe_serialization`` is False.
        """
        del args, kwargs
        if not safe_serialization:
            raise ValueError(
                "safe_serialization=False would pickle the weights; csr_st writes safetensors only"
            )
        weights = {name: tensor.detach() for name, tensor in self.named_parameters()}
        files.write(Path(output_path), self.get_config_dict(), weights)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        init_defaults: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Read a saved head from a folder or the Hub.

        Args:
            model_name_or_path: Folder or Hub id of the model.
            subfolder: The head's folder within it, such as "3_SparseCSRHead".
            token: Hub token.
            cache_folder: Folder to cache downloads in.
            revision: Revision of the model on the Hub.
            local_files_only: Never ask the Hub.
            init_defaults: Settings for keys that the saved config leaves out.
            kwargs: Ignored.

        Returns:
            The head, on the CPU.

        Raises:
            ValueError: If the config or the weights are missing, damaged, of a newer format, or do
                not fit each other.
            TypeError: If the config holds a value of the wrong type.
        """
        del kwargs
        where = str(Path(model_name_or_path) / subfolder)
        hub: dict[str, Any] = {
            "subfolder": subfolder,
            "token": token,
            "cache_folder": cache_folder,
            "revision": revision,
            "local_files_only": local_files_only,
        }
        names = (cls.config_file_name, files.WEIGHTS_NAME)
        paths = [cls.load_file_path(model_name_or_path, filename=name, **hub) for name in names]
        for name, path in zip(names, paths, strict=True):
            if path is None:
                raise ValueError(f"{where} has no {name}; download or save the model again")
        config = files.read_config(str(paths[0]), cls.config_keys)
        with torch.device("meta"):  # no memory is claimed before the file's shapes are known to fit
            head = cls(**{**(init_defaults or {}), **config})
        weights = files.read_weights(str(paths[1]), dict(head.named_parameters()))
        head.load_state_dict(weights, assign=True, strict=not head.tied)
        if head.tied:
            head.decoder_weight = head.encoder_weight
        return head


def unpack(packed: Tensor) -> tuple[Code, Tensor]:
    """Codes and raw norms (n, 1) out of the (n, 2k + 1) rows of ``forward(packed=True)``."""
    k = (packed.shape[-1] - 1) // 2
    return Code(packed[:, :k], packed[:, k:-1].long()), packed[:, -1:]


def find_head(model: nn.Module) -> SparseCSRHead:
    """The model's `SparseCSRHead`.

    Raises:
        ValueError: If it has none, or more than one.
    """
    heads = [module for module in model.modules() if isinstance(module, SparseCSRHead)]
    if len(heads) != 1:
        raise ValueError(
            f"the model has {len(heads)} SparseCSRHead modules where one is needed; "
            "csr_st.attach(model, head) gives a model with one at its end"
        )
    return heads[0]
