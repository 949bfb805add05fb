"""The bodies of requests. Unknown fields are refused, so that a misspelt one is not ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from csr_st.serving.errors import SHOWN, Refused, shown
from csr_st.serving.limits import Limits

Role = Literal["query", "document"]


def _texts(value: Any) -> Any:
    """Refuse what is no text and no list of texts, by its place."""
    if isinstance(value, list):
        if not value:
            raise ValueError("the list is empty; send one text or more")
        for place, one in enumerate(value):
            if not isinstance(one, str):
                raise ValueError(f"[{place}] is {shown(one)}; each must be a text")
    elif not isinstance(value, str):
        raise ValueError(f"it is {shown(value)}; send a text or a list of texts")
    return value


def _ids(value: Any) -> Any:
    """Refuse what is no list of ids of one kind, at the first wrong one: there may be many."""
    if value is None:
        return value
    if not isinstance(value, list):
        raise ValueError(f"it is {shown(value)}; send a list of ids")
    kind = str if value and isinstance(value[0], str) else int
    for place, one in enumerate(value):
        if type(one) is not kind:
            raise ValueError(
                f"[{place}] is {shown(one)}; send ids that are all whole numbers, or all texts"
            )
    return value


def _factors(value: Any) -> Any:
    """Refuse what is no mapping of latents to numbers, at the first wrong entry."""
    if value is None:
        return value
    if not isinstance(value, dict):
        raise ValueError(f"it is {shown(value)}; send an object, latents to factors")
    for latent, factor in value.items():
        if not (str(latent).isascii() and str(latent).isdecimal() and len(str(latent)) <= 10):
            raise ValueError(f"{shown(latent)} is no latent; send whole numbers as names")
        if isinstance(factor, bool) or not isinstance(factor, int | float) or factor - factor != 0:
            raise ValueError(f"{latent} is {shown(factor)}; a factor is a finite number")
    return value


Texts = Annotated[str | list[str], BeforeValidator(_texts)]
# A bool or a text in the place of a number is a mistake.
Whole = Annotated[int, Field(strict=True)]
Factor = Annotated[float, Field(allow_inf_nan=False, strict=True)]


class Form(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known(cls, content: Any) -> Any:
        """Refuse the first field that is unknown: an error for each would take long."""
        if isinstance(content, dict):
            for name in content:
                if name not in cls.model_fields:
                    raise PydanticCustomError(
                        "extra_forbidden", "{name}", {"name": str(name)[:SHOWN]}
                    )
        return content


class SparseForm(Form):
    """Body of ``/embed_sparse``: fields of text-embeddings-inference, plus ``k`` and ``role``."""

    inputs: Texts
    truncate: bool | None = Field(
        None, description="false: refuse texts longer than the model reads"
    )
    truncation_direction: Literal["right", "Right"] = Field(
        "right", description="the end of a long text is cut off"
    )
    prompt_name: str | None = None
    k: Whole | None = Field(None, description="active latents; the model's default if not given")
    role: Role | None = Field(None, description="use the prompt and the default k of this role")


class EmbeddingsForm(Form):
    """Body of ``/v1/embeddings``: fields of OpenAI, plus ``role`` and ``prompt_name``."""

    input: Texts
    model: str | None = Field(None, description="any name: there is one model")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Whole | None = Field(None, description="if given, it must be the model's")
    user: str | None = Field(None, description="not used")
    role: Role | None = None
    prompt_name: str | None = None


class SearchForm(Form):
    """Body of ``/search``: a query or several, with the options of `csr_st.Searcher`."""

    query: Texts
    top_k: Whole | None = Field(None, description="documents per query; 10 if not given")
    filter: Annotated[list[Whole] | list[str] | None, BeforeValidator(_ids)] = Field(
        None, description="ids of the documents to search; all if not given"
    )
    rescore: Annotated[Whole, Field(ge=0)] = Field(
        0, description="candidates to rank again through the decoder"
    )
    k: Whole | None = Field(None, description="latents per document to use; all if not given")
    query_k: Whole | None = Field(
        None, description="latents per query; the model's, else 4k, if not given"
    )
    weight: Factor | None = Field(None, description="weight of BM25; the index's if not given")
    approximate: Factor | None = Field(
        None, description="target recall, such as 0.95; exact if not given"
    )
    boost: Annotated[
        dict[Annotated[int, Field(ge=0)], Factor] | None, BeforeValidator(_factors)
    ] = Field(None, description="factor by latent of the query; 0 removes it")
    explain: bool = Field(False, description="add the share of each latent and word in each score")


def checked_texts(value: str | list[str], name: str, limits: Limits) -> list[str]:
    """The texts of a field as a list.

    Raises:
        Refused: If there are too many, or one is too long or no valid text.
    """
    texts = [value] if isinstance(value, str) else value
    if len(texts) > limits.inputs:
        raise Refused(
            413,
            f"{name} has {len(texts):,} texts, and {limits.inputs:,} is the most for one request; "
            "send several requests",
        )
    for place, text in enumerate(texts):
        which = name if isinstance(value, str) else f"{name}[{place}]"
        if len(text) > limits.characters:
            raise Refused(
                413,
                f"{which} has {len(text):,} characters, and {limits.characters:,} is the most; "
                "shorten it",
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise Refused(
                422,
                f"{which} has half of a surrogate pair at character {error.start}, which is no "
                "text; send it in UTF-8",
            ) from None
    return texts
