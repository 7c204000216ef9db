"""A backend that reads its answers from a script: for tests, demos and dry runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError

from libra_guard.backends._options import at_least
from libra_guard.backends.base import Backend, Prompt, Text
from libra_guard.configuration import read_object
from libra_guard.errors import BackendError, UsageError
from libra_guard.io import bytes_hash
from libra_guard.records import Method

Script = Callable[..., Any] | Mapping[str, Any] | Sequence[Any]
"""What is answered.

- A function of the prompt (``generate``), of the prompt and the choices (``choose``), of the text (``logits``);
- a mapping: the first key that the text contains gives the answer (the key ``""`` is in every text);
- a list: the answers in order, over all calls.
"""


class Call(NamedTuple):
    """What was asked."""

    method: Method
    item: Prompt | Text
    options: dict[str, Any]


class ScriptedBackend(Backend):
    """Answers from a script and records what it was asked.

    A score for ``choose`` is a list in the order of the choices, or a mapping from choice to probability in which
    a choice that is missing has probability 0; NaN is a probability that the server did not tell.

    Args:
        model: A JSON file with any of the keys ``generate``, ``choose``, ``logits``; None where they are given here.
        generate: Script of texts.
        choose: Script of probabilities.
        logits: Script of rows of numbers.
        context: Tokens that the model is said to take.

    Raises:
        UsageError: The file cannot be read, an answer in it is none, or no capability is scripted.
    """

    name: ClassVar[str] = "scripted"

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        generate: Script | None = None,
        choose: Script | None = None,
        logits: Script | None = None,
        context: int | None = None,
    ) -> None:
        at_least(1, context=context)
        self._about: dict[str, Any] = {"model": None if model is None else str(model)}
        scripts = {Method.GENERATE: generate, Method.CHOOSE: choose, Method.LOGITS: logits}
        if model is not None:
            read = _read(Path(model))
            self._about["model_hash"] = bytes_hash(Path(model).read_bytes())
            scripts = {method: read.get(method.value) if s is None else s for method, s in scripts.items()}
        self._scripts: dict[Method, Script] = {method: s for method, s in scripts.items() if s is not None}
        if not self._scripts:
            raise UsageError("the script is empty; give generate, choose or logits")
        self.capabilities = frozenset(self._scripts)
        self.context = context
        self.calls: list[Call] = []
        self._spoken = dict.fromkeys(Method, 0)

    def generate(
        self, prompts: Sequence[Prompt], *, max_tokens: int = 256, temperature: float = 0.0, seed: int = 42
    ) -> list[str]:
        """The script's texts; see the base class."""
        if Method.GENERATE not in self.capabilities:
            return super().generate(prompts)
        options = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        return [str(self._answer(Method.GENERATE, p, _text(p), (), options)) for p in prompts]

    def choose(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> NDArray[np.float64]:
        """The script's probabilities; see the base class."""
        if Method.CHOOSE not in self.capabilities:
            return super().choose(prompts, choices)
        scores = np.zeros((len(prompts), len(choices)))
        for row, prompt in zip(scores, prompts, strict=True):
            said = self._answer(Method.CHOOSE, prompt, _text(prompt), (choices,), {"choices": tuple(choices)})
            row[:] = _scores(said, choices)
        return scores

    def logits(self, texts: Sequence[Text]) -> NDArray[np.float64]:
        """The script's numbers; see the base class."""
        if Method.LOGITS not in self.capabilities:
            return super().logits(texts)
        flat = [text if isinstance(text, str) else "\n".join(text) for text in texts]
        rows = [self._answer(Method.LOGITS, t, f, (), {}) for t, f in zip(texts, flat, strict=True)]
        try:
            return np.asarray(rows, dtype=np.float64).reshape(len(rows), -1 if rows else 0)
        except (TypeError, ValueError) as error:
            raise BackendError(f"the script's logits are no table of numbers: {error}") from None

    def provenance(self) -> dict[str, Any]:
        """The script's file, if there is one."""
        return {"backend": self.name, **self._about}

    def _answer(
        self, method: Method, item: Prompt | Text, text: str, more: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        self.calls.append(Call(method, item, options))
        script = self._scripts[method]
        if callable(script):
            return script(item, *more)
        if isinstance(script, Mapping):
            for key, value in script.items():
                if key in text:
                    return value
            raise BackendError(f"the script has no answer to {method.value} for the text {text[:60]!r}")
        turn = self._spoken[method]
        if turn >= len(script):
            raise BackendError(f"the script for {method.value} ends after {len(script)} answers")
        self._spoken[method] = turn + 1
        return script[turn]


def _text(prompt: Prompt) -> str:
    if prompt.parts:
        return prompt.raw_text(str)
    return "\n".join(m.content for m in prompt.messages) + prompt.prefix


def _scores(said: Any, choices: Sequence[str]) -> NDArray[np.float64]:
    """What a script says as one probability a choice."""
    values = [said.get(c, 0.0) for c in choices] if isinstance(said, Mapping) else said
    try:
        scores = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        scores = np.empty(0)
    # A comparison with NaN is false: it may stand here.
    if scores.shape != (len(choices),) or ((scores < 0) | (scores > 1)).any():
        wanted = f"a probability in [0, 1] for each of {', '.join(choices)}"
        raise BackendError(f"the script chooses {said!r:.80}, and not {wanted}")
    return scores


def _probability(number: float) -> float:
    if not (0 <= number <= 1 or math.isnan(number)):
        raise ValueError("a probability lies in [0, 1]")
    return number


_Probability = Annotated[float, AfterValidator(_probability)]
_STRICT = ConfigDict(strict=True)
_TEXT: TypeAdapter[Any] = TypeAdapter(str, config=_STRICT)
_NUMBERS: TypeAdapter[Any] = TypeAdapter(list[float], config=_STRICT)
_IN_ORDER: TypeAdapter[Any] = TypeAdapter(list[_Probability], config=_STRICT)
_BY_NAME: TypeAdapter[Any] = TypeAdapter(dict[str, _Probability], config=_STRICT)


def _read(path: Path) -> dict[str, Any]:
    script = read_object(path)
    for name, answers in script.items():
        if name not in [method.value for method in Method]:
            raise UsageError(f"{path}: a script has generate, choose and logits, and no '{name}'")
        if answers is not None and not isinstance(answers, list | dict):
            raise UsageError(f"{path}: {name}: a list or an object of answers is needed, not {answers!r:.80}")
        for key, answer in answers.items() if isinstance(answers, dict) else enumerate(answers or ()):
            try:
                _form(Method(name), answer).validate_python(answer)
            except ValidationError as error:
                first = error.errors()[0]
                place = ", ".join(repr(part) for part in (key, *first["loc"]))
                raise UsageError(f"{path}: {name}: {place}: {first['msg']}, not {first['input']!r:.80}") from None
    return script


def _form(method: Method, answer: Any) -> TypeAdapter[Any]:
    if method is Method.CHOOSE:
        return _BY_NAME if isinstance(answer, dict) else _IN_ORDER
    return _TEXT if method is Method.GENERATE else _NUMBERS
