"""From prompts to token ids: templates, control tokens, choices, places of tokens."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import jinja2

from libra_guard.backends.base import Prompt, Span, Text
from libra_guard.backends.control_tokens import neutralise
from libra_guard.errors import UsageError

_PROBE = "Is this text printed?"


class Row(NamedTuple):
    """A model input from which choices of one prompt are read."""

    prompt: int
    ids: list[int]
    start: int
    """Position whose logits tell a choice's first token."""
    choices: dict[int, list[int]]
    """Number of a choice → its tokens."""


class Encoder:
    """A tokenizer seen from a backend.

    Args:
        tokenizer: Of transformers.
        model: Its name, for messages.
    """

    def __init__(self, tokenizer: Any, model: str) -> None:
        self._tokenizer = tokenizer
        self._model = model
        added = tokenizer.added_tokens_decoder
        # Tokenizers that come with code of their own, such as Qwen-14B-Chat's, may keep theirs in a list beside.
        further = getattr(tokenizer, "special_tokens", None) or ()
        names = {*(token.content for token in added.values()), *tokenizer.all_special_tokens, *further}
        self._control = tuple(sorted(name for name in names if isinstance(name, str)))
        self._control_ids = frozenset(added)
        # Such tokens are looked for after normalising, which may make them out of other characters.
        self._folds = (
            tokenizer.is_fast
            and tokenizer.backend_tokenizer.normalizer is not None
            and any(token.normalized for token in added.values())
        )
        bos = tokenizer.bos_token_id
        # Some tokenizers close a text as well, which would end the prompt; only the beginning is wanted.
        self._lead = [bos] if bos is not None and tokenizer("")["input_ids"][:1] == [bos] else []

    def inert(self, text: str) -> str:
        """The text without anything that this tokenizer reads as a control token."""
        text = neutralise(text, self._control)
        for _ in range(8 if self._folds else 0):
            found = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            pairs = zip(found["input_ids"], found["offset_mapping"], strict=True)
            cuts = [begin + 1 for token, (begin, end) in pairs if token in self._control_ids and end - begin > 1]
            if not cuts:
                break
            for cut in reversed(cuts):
                text = text[:cut] + " " + text[cut:]
        return text

    @property
    def lead(self) -> list[int]:
        """Tokens that stand before a raw prompt."""
        return list(self._lead)

    def prompts(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of each prompt, its template and prefix included."""
        return self._encode(prompts, [self.render(prompt) for prompt in prompts])

    def rows(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[Row]:
        """Inputs from which every choice can be read.

        One for each prompt, and more only where two choices of several tokens part before their last.
        A choice's tokens are those that follow what the prompt and all choices have in common, so a tokenizer may
        merge the prompt's end with a choice's beginning.
        """
        endings = ("", *choices)
        texts = [text + ending for text in map(self.render, prompts) for ending in endings]
        encoded = self._encode([prompt for prompt in prompts for _ in endings], texts)
        rows = []
        for i in range(len(prompts)):
            with_choice = encoded[i * len(endings) : (i + 1) * len(endings)]
            rows.extend(_rows(i, with_choice, choices))
        return rows

    def classified(self, texts: Sequence[Text]) -> list[dict[str, list[int]]]:
        """A classifier's inputs, special tokens included."""
        pairs = [(text,) if isinstance(text, str) else text for text in texts]
        return [dict(self._tokenizer(*map(self.inert, pair), verbose=False)) for pair in pairs]

    def spans(self, texts: Sequence[str]) -> list[list[Span]] | None:
        """Where each token stands; None where the tokenizer cannot tell.

        A control token in the text counts as the pieces into which it is broken.
        """
        if not self._tokenizer.is_fast:
            return None
        if not texts:
            return []
        inert = [self.inert(text) for text in texts]
        found = self._tokenizer(inert, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        pairs = zip(texts, inert, found["offset_mapping"], strict=True)
        return [_in_original(text, changed, [Span(*offset) for offset in offsets]) for text, changed, offsets in pairs]

    def decode(self, generated: Sequence[list[int]], stops: Collection[int]) -> list[str]:
        """Texts of generated ids up to the first stop, control tokens left out."""
        ends = (next((i for i, token in enumerate(ids) if token in stops), len(ids)) for ids in generated)
        texts: list[str] = self._tokenizer.batch_decode(
            [ids[:end] for ids, end in zip(generated, ends, strict=True)],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        return texts

    def render(self, prompt: Prompt) -> str:
        """The text of a prompt, its template and prefix included."""
        if prompt.raw:
            return prompt.raw_text(self.inert)
        if not self._tokenizer.chat_template:
            raise UsageError(
                f"'{self._model}' has no chat template, so it is no chat model: ask it with raw prompts, "
                "or put a chat_template.jinja into its folder"
            )
        texts = prompt.texts(self.inert)
        contents = map(_parts, texts) if self._takes_parts else texts
        messages = [{"role": m.role.value, "content": c} for m, c in zip(prompt.messages, contents, strict=True)]
        try:
            return self._templated(messages, **prompt.template_options) + prompt.prefix
        except jinja2.TemplateError as error:
            raise UsageError(f"the chat template of '{self._model}' refuses the messages: {error}") from error

    @cached_property
    def _takes_parts(self) -> bool:
        """Whether the chat template prints a text only in a list of parts, as those of models that read images may.

        It would drop any other in silence, and nothing would be judged.
        """

        def printed(content: Any) -> bool:
            try:
                return _PROBE in self._templated([{"role": "user", "content": content}])
            except (jinja2.TemplateError, TypeError):
                return False

        return not printed(_PROBE) and printed(_parts(_PROBE))

    def _templated(self, messages: list[dict[str, Any]], **options: Any) -> str:
        text: str = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
        return text

    def _encode(self, prompts: Sequence[Prompt], texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        ids = self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        # A chat template writes the special tokens itself, and so do parts.
        return [(self._lead if p.raw and not p.parts else []) + row for p, row in zip(prompts, ids, strict=True)]


def _parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def common_length(rows: Sequence[list[int]]) -> int:
    """Number of tokens with which all rows begin."""
    # What the first and the last in order share, all between them share.
    first, last = min(rows), max(rows)
    for i, (a, b) in enumerate(zip(first, last, strict=False)):
        if a != b:
            return i
    return min(len(first), len(last))


def batches(lengths: Sequence[int], budget: int, kinds: Sequence[int] | None = None) -> Iterator[list[int]]:
    """Numbers of rows that go together: of like length, of one kind, padded size within the budget."""
    kinds = kinds or [0] * len(lengths)
    batch: list[int] = []
    # The longest go first: if memory does not suffice, it shows at once.
    for i in sorted(range(len(lengths)), key=lambda i: (kinds[i], -lengths[i])):
        if batch and (kinds[i] != kinds[batch[0]] or (len(batch) + 1) * lengths[batch[0]] > budget):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _rows(prompt: int, encoded: Sequence[list[int]], choices: Sequence[str]) -> list[Row]:
    start = common_length(encoded)
    if start == 0:
        raise UsageError("the prompt is empty: there is nothing that a choice could follow")
    answers = [ids[start:] for ids in encoded[1:]]
    if not all(answers):
        raise UsageError(f"the choice {choices[answers.index([])]!r} adds no token to the prompt")
    rows: list[Row] = []
    # The longest go first: a causal model's row also tells every choice that begins as the row goes on.
    for j in sorted(range(len(answers)), key=lambda j: -len(answers[j])):
        read = answers[j][:-1]
        home = next((row for row in rows if row.ids[start : start + len(read)] == read), None)
        if home is None:
            home = Row(prompt, encoded[0][:start] + read, start - 1, {})
            rows.append(home)
        home.choices[j] = answers[j]
    return rows


def _in_original(text: str, changed: str, spans: list[Span]) -> list[Span]:
    """Spans in a text to which separators were added, as spans in the text without them."""
    if text == changed:
        return spans
    origin, i = [], 0
    for character in changed:
        origin.append(i)
        i += i < len(text) and character == text[i]
    origin.append(len(text))
    return [Span(origin[span.start], origin[span.end]) for span in spans]
