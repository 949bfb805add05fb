"""The sparse adaptive head: a sentence-transformers module that turns dense vectors into a code.

Only the head: training, attaching it to a model and evaluation are elsewhere. `csr_st.model.coding`
has its equations, `csr_st.model.state` its settings, weights and files. The path
``csr_st.head.SparseCSRHead`` is in every published model's ``modules.json`` and never moves.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from csr_st.model import encode_options
from csr_st.model.coding import Code
from csr_st.model.state import HeadState


class SparseCSRHead(HeadState):
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
        pooling: For token-level heads: "sum" over the tokens of a text, or "max".
        k_token: For token-level heads: active latents of each token, 8 (at most hidden_dim) when
            None.
        skipped_tokens: For token-level heads: ids of tokens to leave out, such as special ones.
        saturation: For token-level heads: the pooled value that gives half of the highest weight.
        text_share: For token-level heads that sum: the mean of a text's tokens counts as this share
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

    forward_kwargs = {  # noqa: RUF012 - typed as of an instance in the base class
        "k", "max_active_dims", "task", "packed", "with_dense", "pursuit",
    }  # fmt: skip

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
