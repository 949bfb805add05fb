"""How many tokens a text has, with its prompt: for what is too long, and for what is reported."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

from csr_st.encoding import Role
from csr_st.serving.errors import Refused
from csr_st.sparse_encoders import AnyModel

# In the order in which sentence-transformers looks for the prompt of a role.
_PROMPTS: dict[Role | None, tuple[str, ...]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
    None: (),
}


class Tokens:
    """Counts tokens as the model's tokenizer does, without cutting texts.

    Not safe for threads, as the tokenizers are not.

    Args:
        model: The model.

    Attributes:
        most: Tokens that the model reads of a text, None if it reads all.
    """

    def __init__(self, model: AnyModel) -> None:
        self._model = model
        most = getattr(model, "max_seq_length", None)
        self.most = most if isinstance(most, int) and most < 10**9 else None

    def count(self, texts: Sequence[str], role: Role | None, prompt_name: str | None) -> list[int]:
        """Tokens of each text with its prompt, special ones included; 0 without a tokenizer."""
        prompt = self._prompt(role, prompt_name)
        whole = [prompt + text for text in texts]
        tokenizer = getattr(self._model, "tokenizer", None)
        if isinstance(tokenizer, Tokenizer):
            return [len(one.ids) for one in tokenizer.encode_batch(whole, add_special_tokens=False)]
        if not callable(tokenizer):
            return [0] * len(whole)
        found = tokenizer(whole, truncation=False, padding=False, verbose=False)
        return [len(ids) for ids in found["input_ids"]]

    def refuse_longer(
        self, texts: Sequence[str], role: Role | None, prompt_name: str | None
    ) -> None:
        """Refuse texts of which the model would not read the end.

        Raises:
            Refused: If there is one.
        """
        if self.most is None:
            return
        for place, tokens in enumerate(self.count(texts, role, prompt_name)):
            if tokens > self.most:
                raise Refused(
                    413,
                    f"inputs[{place}] has {tokens:,} tokens, and the model reads {self.most:,}; "
                    "shorten it, or leave out truncate: false to have its end ignored",
                )

    def _prompt(self, role: Role | None, prompt_name: str | None) -> str:
        prompts = self._model.prompts or {}
        names = _PROMPTS[role] if prompt_name is None else (prompt_name,)
        default = getattr(self._model, "default_prompt_name", None)
        for name in (*names, default):
            if name is not None and prompts.get(name) is not None:
                return str(prompts[name])
        return ""
