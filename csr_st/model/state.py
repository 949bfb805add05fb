"""What a head has: its settings, its weights, and how both are saved and loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.base.modules import Module
from torch import Tensor, nn

from csr_st.model import files, settings, token_pooling
from csr_st.model.coding import Coding

if TYPE_CHECKING:
    from typing_extensions import Self


K_TOKEN = 8
TOKEN_SETTINGS = ("level", "pooling", "k_token", "skipped_tokens", "saturation", "text_share")


class HeadState(Coding, Module):
    """The settings and weights of `csr_st.head.SparseCSRHead`, which says what they are."""

    config_keys = [  # noqa: RUF012 - the base class declares it as an instance-typed attribute
        "input_dim", "hidden_dim", "k", "query_k", "normalize", "tied", "power", "dtype",
        "modalities", "short_ks", "residual_seed", "debias", "residual_basis",
        *TOKEN_SETTINGS,
    ]  # fmt: skip

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
