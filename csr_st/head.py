"""The sparse adaptive head: a sentence-transformers module that turns dense vectors into a code.

Only the head: training, attaching it to a model and evaluation are elsewhere. The path
``csr_st.head.SparseCSRHead`` is in every published model's ``modules.json`` and never moves.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.base.modules import Module
from torch import Tensor, nn

from csr_st.model import encode_options, files, settings, token_pooling
from csr_st.model.coding import Code, Coding

if TYPE_CHECKING:
    from typing_extensions import Self


K_TOKEN = 8
TOKEN_SETTINGS = ("level", "pooling", "k_token", "skipped_tokens", "saturation", "text_share")


class SparseCSRHead(Coding, Module):
    """Contrastive Sparse Representation head over a frozen embedding.

    z = TopK_k(ReLU(W_enc (v - b_pre) + b_enc)) and v̂ = W_dec z + b_pre, equations 2 and 3 of the
    CSR paper (arXiv 2503.01776). Top-k and ReLU commute, so both orders give the same code. The
    paper ties W_dec to W_enc; here ``tied=False`` trains both. With ``power`` p the code is z^p, by
    entry, and the decoder inverts it: the few largest magnitudes, which matter most in
    reconstruction, then weigh less in similarity (power normalisation, Perronnin et al., ECCV
    2010).

    With ``level="token"`` a text's code is not that of its pooled vector: the equations give each
    of its tokens ``k_token`` latents, and these are pooled and weighted as words are, see
    `csr_st.model.token_pooling`.

    As the last module of a `SentenceTransformer` it makes ``model.encode(texts, k=16)`` return
    (n, hidden_dim) rows of at most 16 non-zeros. A forward pass never writes state.

    Args:
        input_dim: Width d of the dense vectors.
        hidden_dim: Number h of latents, 4 * input_dim when None.
        k: Active latents of a call without k.
        query_k: Active latents of inputs encoded as queries (``encode_query``), ``k`` when None.
        normalize: Scale codes to unit L2 norm, so that dot product is cosine in every engine.
        tied: Decode with the encoder's own rows; halves the weights.
        power: What magnitudes are raised to, above 0 and at most 1; 1 leaves them.
        dtype: Name of the floating type that the head computes in, whatever the backbone's is.
        modalities: Modalities with a mean each, by sentence-transformers' names in
            ``features["modality"]``, such as ["text", "image"].
        short_ks: Rising k, such as [2, 4, 8]: codes up to each are decoded through a linear map,
            see `decode`.
        residual_seed: Seed of the rotation of residual bits, which must be equal for codes to fit
            each other; see `csr_st.residual`.
        debias: Decode with coefficients that correct what magnitudes lack, see
            `csr_st.model.coefficients`.
        residual_basis: Name of the head's own axes of residual bits, see
            `csr_st.model.residual_basis`; without them they are rotated at random.
        level: "text" for codes of ``sentence_embedding``, "token" for codes pooled from
            ``token_embeddings``.
        pooling: Of token-level heads: "sum" over the tokens of a text, or "max".
        k_token: Of token-level heads: active latents of each token, 8 (at most hidden_dim) when
            None.
        skipped_tokens: Of token-level heads: ids of tokens to leave out, such as special ones.
        saturation: Of token-level heads: the pooled value that gives half of the highest weight.
        text_share: Of token-level heads that sum: the mean of a text's tokens counts as this share
            of them, 0 for not at all.

    Attributes:
        encoder_weight: (hidden_dim, input_dim) W_enc.
        decoder_weight: (hidden_dim, input_dim) W_decᵀ: a row is what its latent adds to v̂.
        pre_bias: (input_dim,) b_pre, the mean of the data.
        latent_bias: (hidden_dim,) b_enc.
        modality_bias: (len(modalities), input_dim) differences of the modalities' means from b_pre;
            None without modalities.
        short_maps: (len(short_ks), input_dim, input_dim) the Aᵀ of `decode`, without gradient;
            None without short_ks.
        residual_axes, residual_deviations: (input_dim, input_dim) and (input_dim,), without
            gradient, see `csr_st.model.residual_basis`; None without residual_basis.
        latent_weights: (hidden_dim,) how rare each latent of a token-level head is, without
            gradient; None in text-level heads.

    Raises:
        ValueError: If a width, k, query_k, power or seed is out of bounds, dtype is unknown,
            modalities is not a list of distinct names, or short_ks not a rising list within
            1..hidden_dim, or residual_basis no name of axes, or a token-level head has what only
            text-level heads have.
        TypeError: If a width, k, query_k or seed is not an integer, power not a number, or
            normalize, tied or debias not a bool.
    """

    config_keys = [  # noqa: RUF012 - the base class declares it as an instance-typed attribute
        "input_dim", "hidden_dim", "k", "query_k", "normalize", "tied", "power", "dtype",
        "modalities", "short_ks", "residual_seed", "debias", "residual_basis",
        *TOKEN_SETTINGS,
    ]  # fmt: skip
    forward_kwargs = {  # noqa: RUF012 - as above
        "k", "max_active_dims", "task", "packed", "with_dense", "pursuit",
    }  # fmt: skip

    def __init__(  # one argument per key of the saved config.json
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
        residual_seed: int = 0,
        debias: bool = False,
        residual_basis: str | None = None,
        level: str = "text",
        pooling: str = "sum",
        k_token: int | None = None,
        skipped_tokens: list[int] | None = None,
        saturation: float = 1.0,
        text_share: float = 0.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # untyped in sentence-transformers
        self.input_dim = settings.width("input_dim", input_dim)
        latents = 4 * self.input_dim if hidden_dim is None else hidden_dim
        self.hidden_dim = settings.width("hidden_dim", latents)
        self.k = self.check_k(k)
        self.query_k = None if query_k is None else self.check_k(query_k, "query_k")
        self.normalize = settings.flag("normalize", normalize)
        self.tied = settings.flag("tied", tied)
        self.power = settings.exponent("power", power)
        self.dtype = dtype
        self.modalities = settings.distinct_names("modalities", modalities)
        self.debias = settings.flag("debias", debias)
        self.short_ks = settings.rising("short_ks", short_ks, self.hidden_dim)
        self.residual_seed = settings.integer("residual_seed", residual_seed, 0, 2**32 - 1)
        self.residual_basis = settings.checksum("residual_basis", residual_basis)
        self.level = settings.one_of("level", level, settings.LEVELS)
        self.pooling = settings.one_of("pooling", pooling, token_pooling.POOLINGS)
        each = min(K_TOKEN, self.hidden_dim) if k_token is None else k_token
        self.k_token = self.check_k(each, "k_token")
        self.skipped_tokens = settings.token_ids("skipped_tokens", skipped_tokens)
        self.saturation = settings.above_zero("saturation", saturation)
        self.text_share = settings.number("text_share", text_share, high=1)
        if self.text_share and self.pooling != "sum":
            raise ValueError(
                f"text_share={self.text_share} with pooling={self.pooling!r}: a share of the "
                "tokens adds to sums only; use pooling='sum' or text_share=0"
            )
        if self.level == "token":
            self._refuse_parts_of_text_level()
        floating = settings.floating_dtype(dtype)

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(shape, dtype=floating))

        d, h = self.input_dim, self.hidden_dim
        self.pre_bias = parameter(d)
        self.modality_bias = parameter(len(self.modalities), d) if self.modalities else None
        self.short_maps = parameter(len(self.short_ks), d, d) if self.short_ks else None
        if self.short_maps is not None:
            self.short_maps.requires_grad_(False)  # solved for, not trained
        self.residual_axes = parameter(d, d) if self.residual_basis else None
        self.residual_deviations = parameter(d) if self.residual_basis else None
        for solved in (self.residual_axes, self.residual_deviations):
            if solved is not None:
                solved.requires_grad_(False)
        self.latent_weights = parameter(h) if self.level == "token" else None
        if self.latent_weights is not None:
            self.latent_weights.requires_grad_(False)  # counted, not trained
        self.latent_bias = parameter(h)
        self.encoder_weight = parameter(h, d)
        self.decoder_weight = self.encoder_weight if self.tied else parameter(h, d)
        self.reset_parameters()

    def _refuse_parts_of_text_level(self) -> None:
        parts = "modalities", "short_ks", "residual_basis", "debias"
        found = [name for name in parts if getattr(self, name)]
        if found := found + ["power"] * (self.power != 1):
            raise ValueError(
                f"a head with level='token' has no {', '.join(found)}: they belong to a pooled "
                "vector; leave them out"
            )

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Random unit rows in the encoder, the decoder equal to it; nothing else has an effect."""
        with torch.no_grad():
            self.pre_bias.zero_()
            self.latent_bias.zero_()
            self.encoder_weight.normal_(0, 1 / math.sqrt(self.input_dim), generator=generator)
            norms = self.encoder_weight.norm(dim=1, keepdim=True)
            self.encoder_weight.div_(norms.clamp_min(torch.finfo(norms.dtype).tiny))
            self.decoder_weight.copy_(self.encoder_weight)
            if self.short_maps is not None:
                self.short_maps.copy_(torch.eye(self.input_dim))
            if self.residual_axes is not None and self.residual_deviations is not None:
                self.residual_axes.copy_(torch.eye(self.input_dim))
                self.residual_deviations.fill_(1)
            if self.latent_weights is not None:
                self.latent_weights.fill_(1)

    def resolve_k(
        self, k: int | None = None, max_active_dims: int | None = None, task: str | None = None
    ) -> int:
        """The k of a call: ``k`` or ``max_active_dims`` (the smaller of both), else the default.

        The default is ``query_k`` for ``task="query"`` where the head has one, else ``self.k``.
        Raises what `check_k` does.
        """
        given = {"k": k, "max_active_dims": max_active_dims}
        checked = [self.check_k(v, name) for name, v in given.items() if v is not None]
        if checked:
            return min(checked)
        if task == "query" and self.query_k is not None:
            return self.check_k(self.query_k, "query_k")
        return self.check_k(self.k)

    def drop_short_maps(self) -> None:
        """Decode codes of every k without a map from now on; further training outdates the maps."""
        self.short_ks = []
        self.short_maps = None

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Drop the maps if the state of a head, such as one that was trained further, has none."""
        keys = f"{prefix}encoder_weight", f"{prefix}short_maps"
        if keys[0] in state_dict and keys[1] not in state_dict:
            self.drop_short_maps()
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(  # type: ignore[override] # kwargs are spelt out: forward_kwargs filters them
        self,
        features: dict[str, Any],
        k: int | None = None,
        max_active_dims: int | None = None,
        task: str | None = None,
        packed: bool = False,
        with_dense: bool = False,
        pursuit: bool = False,
    ) -> dict[str, Any]:
        """Replace the dense ``sentence_embedding`` by its code, keep it as ``dense_embedding``.

        Args:
            features: With ``sentence_embedding``, (batch, input_dim); of a token-level head with
                ``token_embeddings``, see `csr_st.model.token_pooling.tokens_of`.
            k: Active latents of this call.
            max_active_dims: The same as k, by the name that `SparseEncoder` gives it.
            task: "query" or "document", as sentence-transformers passes it.
            packed: Return (batch, 2k + 1) float32 rows [values, indices, norm] in place of the
                (batch, hidden_dim) ones, for `unpack`.
            with_dense: Append the dense vectors, less their modality's shift, to packed rows, which
                are (batch, 2k + 1 + input_dim) then.
            pursuit: As for `encode`.

        Returns:
            The features with ``sentence_embedding`` (batch, hidden_dim), each row with at most k
            non-zeros. Raises what `encode` does. Outside of training, assigning a shorter
            ``sentence_embedding``, as ``truncate_dim`` does, raises a ValueError.
        """
        x = features.get("sentence_embedding")
        k = self.resolve_k(k, max_active_dims, task)
        if self.level == "token":
            self.refuse_reconstruction(pursuit=pursuit)
            values, indices = self.encode_tokens(self.tokens_of(features), k)
        else:
            assert x is not None
            values, indices = self.encode(x, k, features.get("modality"), pursuit)
        # In float32 at least: squares of float16 values overflow.
        wide = torch.promote_types(values.dtype, torch.float32)
        norm = torch.linalg.vector_norm(values, dim=-1, keepdim=True, dtype=wide)
        if self.normalize:
            values = (values / norm.clamp_min(torch.finfo(wide).tiny)).to(values.dtype)
        if packed:
            parts = [values, indices, norm]
            if with_dense:
                if x is None:
                    raise ValueError("there is no sentence_embedding; add a Pooling module")
                shift = self.shift(features.get("modality"))
                parts.append(x if shift is None else x - shift)
            embedding = torch.cat([part.float() for part in parts], dim=-1)
        else:
            embedding = values.new_zeros(*values.shape[:-1], self.hidden_dim)
            embedding = embedding.scatter(-1, indices, values)
        dense = {} if x is None else {"dense_embedding": x}  # of a token-level head, to compare
        found = {**features, **dense, "sentence_embedding": embedding}
        return found if self.training else encode_options.WholeCodes(found)

    def get_embedding_dimension(self) -> int:
        """Width of the output, hidden_dim; at most k entries per row are not zero."""
        return self.hidden_dim

    def extra_repr(self) -> str:
        """The settings, for `print(model)`."""
        return ", ".join(f"{key}={value}" for key, value in self.get_config_dict().items())

    def get_config_dict(self) -> dict[str, Any]:
        """The settings that are saved; some of them only where there are any."""
        optional = {
            "modalities", "short_ks", "residual_seed", "debias", "residual_basis", "text_share",
        }  # fmt: skip
        config = {key: getattr(self, key) for key in self.config_keys}
        if self.level == "text":
            config = {key: value for key, value in config.items() if key not in TOKEN_SETTINGS}
        return {key: value for key, value in config.items() if value or key not in optional}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move with the model but keep ``dtype``: a bf16 backbone must not round the weights."""

        def keep_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keep_dtype, recurse)  # type: ignore[no-untyped-call, no-any-return] # torch leaves _apply untyped

    def on_model_ready(self, model: Any) -> None:
        """Check the finished model and drop an untrained `SparseAutoEncoder` after this head.

        `SparseEncoder` appends one to any `SentenceTransformer` that it converts.

        Raises:
            ValueError: If the model has a ``truncate_dim``.
        """
        truncate_dim = getattr(model, "truncate_dim", None)
        if truncate_dim is not None:
            encode_options.refuse_truncation(truncate_dim, self.hidden_dim)
        encode_options.guard(model, has_head=True)
        modules = list(model._modules.items())
        if len(modules) < 2 or modules[-2][1] is not self:
            return
        from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

        last = modules[-1][1]
        if isinstance(last, SparseAutoEncoder) and last.input_dim == self.hidden_dim:
            # Assigned, not popped: the caller iterates over the old dict.
            model._modules = OrderedDict(modules[:-1])

    def save(
        self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any
    ) -> None:
        """Write config.json and model.safetensors into an existing folder; see `files.write`.

        Raises:
            ValueError: If ``safe_serialization`` is False; weights are never pickled.
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
        """Read a saved head from a folder or the Hub, onto the CPU.

        ``init_defaults`` are settings for keys that the saved config leaves out; the rest is as
        sentence-transformers' `Module.load` has it.

        Raises:
            ValueError: If the config or the weights are missing, damaged, of a newer format, or do
                not fit each other.
            TypeError: If the config has a value of the wrong type.
        """
        del kwargs
        hub: dict[str, Any] = {"subfolder": subfolder, "token": token, "revision": revision}
        hub |= {"cache_folder": cache_folder, "local_files_only": local_files_only}
        path = files.find(cls, files.CONFIG_NAME, model_name_or_path, **hub)
        weights_path = files.find(cls, files.WEIGHTS_NAME, model_name_or_path, **hub)
        required = {"input_dim", "hidden_dim", "k"}
        config = files.read_config(path, cls.config_keys, required, weights_path)
        with torch.device("meta"):  # memory is claimed only once the file's shapes are known to fit
            head = cls(**{**(init_defaults or {}), **config})
        weights = files.read_weights(weights_path, dict(head.named_parameters()))
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
