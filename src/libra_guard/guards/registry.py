"""The guards by name. A guard's module is imported when the guard is first asked for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from libra_guard.backends._options import checked, option_names, unknown_option
from libra_guard.backends.base import Backend
from libra_guard.backends.registry import backend_class, load_backend
from libra_guard.errors import UsageError
from libra_guard.guards.base import Guard
from libra_guard.guards.calibration import Calibration
from libra_guard.io import CALIBRATION


@dataclass(frozen=True)
class GuardEntry:
    """What can be said of a guard without loading it."""

    name: str
    summary: str
    factory: str
    """``module:Class``, the class taking a backend and its own options."""
    judges: tuple[str, ...]
    languages: tuple[str, ...]
    backends: tuple[str, ...]
    """Those it can run on, the default first."""
    model: str
    """What ``NAME:MODEL`` names, in words."""
    extra: str | None = None
    """The extra of this package that its default backend needs."""
    hub: tuple[str, ...] = ()
    """Names on the model hub; empty where MODEL is always the user's own."""
    licence: str = ""
    """Of the released or bundled models; empty where there are none."""
    size: str = ""
    """Parameters of the released or bundled models; empty where there are none."""
    bundled: str | None = None
    """Folder under ``assets/`` of the weights that ship inside; where there are any, MODEL can be left out."""
    bundled_on: tuple[str, ...] = ()
    """Of ``backends``, those that can run these weights; the others need a MODEL."""


_LOCAL_OR_SERVED = ("transformers", "openai", "scripted")
"""Of a guard model with a format of its own."""
_ANY_LANGUAGE_MODEL = ("transformers", "openai", "anthropic", "scripted")
"""Of a guard that any instruct model can be."""
_NAMED = "a folder or hub name, or the model's name at the server"

GUARDS: dict[str, GuardEntry] = {
    entry.name: entry
    for entry in (
        GuardEntry(
            name="mini",
            summary="Libra-Guard-Mini: the bundled classifier; unsafe score, seven scenarios, evidence",
            factory="libra_guard.guards.classifier:MiniGuard",
            judges=("prompt", "response"),
            languages=("zh",),
            backends=("onnx", "transformers"),
            model="a folder that `libra train classifier` wrote; the bundled guard where it is left out",
            licence="as its base and training data allow: see its card",
            size="25M",
            bundled="mini",
            bundled_on=("onnx",),
        ),
        GuardEntry(
            name="libra",
            summary="Libra-Guard: any causal language model with the Libra prompt, judged in one forward pass",
            factory="libra_guard.guards.libra:LibraGuard",
            judges=("response",),
            languages=("zh",),
            backends=_ANY_LANGUAGE_MODEL,
            model=_NAMED,
            extra="hf",
            hub=(
                "caskcsg/Libra-Guard-Qwen2.5-0.5B-Instruct",
                "caskcsg/Libra-Guard-Qwen2.5-1.5B-Instruct",
                "caskcsg/Libra-Guard-Qwen2.5-3B-Instruct",
                "caskcsg/Libra-Guard-Qwen2.5-7B-Instruct",
                "caskcsg/Libra-Guard-Qwen2.5-14B-Instruct",
                "caskcsg/Libra-Guard-Qwen-14B-Chat",
                "caskcsg/Libra-Guard-Yi-1.5-9B-Chat",
            ),
            licence="not stated; those of the base models",
            size="0.5B, 1.5B, 3B, 7B, 9B, 14B",
        ),
        GuardEntry(
            name="llama-guard",
            summary="Llama Guard 3 and 4: the last message by 14 hazard categories; no Chinese among its languages",
            factory="libra_guard.guards.llama_guard:LlamaGuard",
            judges=("prompt", "response"),
            languages=("en", "fr", "de", "hi", "it", "pt", "es", "th"),
            backends=_LOCAL_OR_SERVED,
            model=_NAMED,
            extra="hf",
            hub=("meta-llama/Llama-Guard-3-8B", "meta-llama/Llama-Guard-3-1B", "meta-llama/Llama-Guard-4-12B"),
            licence="Llama Community License",
            size="1B, 8B, 12B",
        ),
        GuardEntry(
            name="qwen3guard",
            summary="Qwen3Guard-Gen: safe, controversial or unsafe, with categories",
            factory="libra_guard.guards.qwen3guard:Qwen3Guard",
            judges=("prompt", "response"),
            languages=("zh", "en", "117 more"),
            backends=_LOCAL_OR_SERVED,
            model=_NAMED,
            extra="hf",
            hub=("Qwen/Qwen3Guard-Gen-0.6B", "Qwen/Qwen3Guard-Gen-4B", "Qwen/Qwen3Guard-Gen-8B"),
            licence="Apache-2.0",
            size="0.6B, 4B, 8B",
        ),
        GuardEntry(
            name="ngram",
            summary="baseline: logistic regression over hashed character n-grams",
            factory="libra_guard.guards.classifier:NgramGuard",
            judges=("prompt", "response"),
            languages=("zh",),
            backends=("onnx",),
            model="a folder that `libra train classifier` wrote",
        ),
        GuardEntry(
            name="words",
            summary="a list of sensitive words, found also where they are broken apart; no model",
            factory="libra_guard.guards.words:WordsGuard",
            judges=("prompt", "response"),
            languages=("any",),
            backends=("none",),
            model="a text file, a word a line, a tab and a category after it where there is one",
        ),
        GuardEntry(
            name="cascade",
            summary="two guards: a fast one decides the clear cases, a strong one the rest",
            factory="libra_guard.guards.cascade:CascadeGuard",
            judges=("prompt", "response"),
            languages=("those of its guards",),
            backends=("none",),
            model="a YAML file with both guards and the limits between them, as `libra cascade` writes",
        ),
        GuardEntry(
            name="ensemble",
            summary="several guards: the mean of their scores, or their vote",
            factory="libra_guard.guards.ensemble:EnsembleGuard",
            judges=("prompt", "response"),
            languages=("those of its guards",),
            backends=("none",),
            model="a YAML file with the guards and the rule",
        ),
        GuardEntry(
            name="policy",
            summary="a policy of your own, judged by any instruct or API model, or by gpt-oss-safeguard",
            factory="libra_guard.guards.policy:PolicyGuard",
            judges=("prompt", "response"),
            languages=("zh",),
            backends=_ANY_LANGUAGE_MODEL,
            model=_NAMED,
            extra="hf",
            hub=("openai/gpt-oss-safeguard-20b", "openai/gpt-oss-safeguard-120b"),
            licence="Apache-2.0",
            size="20B, 120B",
        ),
        GuardEntry(
            name="shieldlm",
            summary="ShieldLM: safe, controversial or unsafe, with an analysis; by rules of your own if you like",
            factory="libra_guard.guards.shieldlm:ShieldLM",
            judges=("response",),
            languages=("zh", "en"),
            backends=_LOCAL_OR_SERVED,
            model=_NAMED,
            extra="hf",
            hub=(
                "thu-coai/ShieldLM-14B-qwen",
                "thu-coai/ShieldLM-13B-baichuan2",
                "thu-coai/ShieldLM-7B-internlm2",
                "thu-coai/ShieldLM-6B-chatglm3",
            ),
            licence="those of the base models",
            size="6B, 7B, 13B, 14B",
        ),
        GuardEntry(
            name="xguard",
            summary="YuFeng-XGuard-Reason: 28 risks scored in one pass, explanation, categories of one's own (8B)",
            factory="libra_guard.guards.xguard:XGuard",
            judges=("prompt", "response"),
            languages=("zh", "en", "more"),
            backends=_LOCAL_OR_SERVED,
            model=_NAMED,
            extra="hf",
            hub=("Alibaba-AAIG/YuFeng-XGuard-Reason-0.6B", "Alibaba-AAIG/YuFeng-XGuard-Reason-8B"),
            licence="Apache-2.0",
            size="0.6B, 8B",
        ),
        GuardEntry(
            name="wildguard",
            summary="WildGuard: is the request harmful, is the response harmful, and is it a refusal",
            factory="libra_guard.guards.wildguard:WildGuard",
            judges=("prompt", "response"),
            languages=("en",),
            backends=_LOCAL_OR_SERVED,
            model=_NAMED,
            extra="hf",
            hub=("allenai/wildguard",),
            licence="Apache-2.0",
            size="7B",
        ),
        GuardEntry(
            name="polyguard",
            summary="PolyGuard: WildGuard's three questions in 17 languages, with 14 hazard categories",
            factory="libra_guard.guards.polyguard:PolyGuard",
            judges=("prompt", "response"),
            languages=("zh", "en", "15 more"),
            backends=_LOCAL_OR_SERVED,
            model=_NAMED,
            extra="hf",
            hub=(
                "ToxicityPrompts/PolyGuard-Qwen-Smol",
                "ToxicityPrompts/PolyGuard-Qwen",
                "ToxicityPrompts/PolyGuard-Ministral",
            ),
            licence="CC-BY-4.0",
            size="0.5B, 7B, 8B",
        ),
        GuardEntry(
            name="shieldgemma",
            summary="ShieldGemma: the last message by each of 4 policies, or by policies in your own words",
            factory="libra_guard.guards.shieldgemma:ShieldGemma",
            judges=("prompt", "response"),
            languages=("en",),
            backends=_LOCAL_OR_SERVED,
            model=_NAMED,
            extra="hf",
            hub=("google/shieldgemma-2b", "google/shieldgemma-9b", "google/shieldgemma-27b"),
            licence="Gemma Terms of Use",
            size="2B, 9B, 27B",
        ),
        GuardEntry(
            name="granite-guardian",
            summary="Granite Guardian 4.1: the last message by a criterion in your own words",
            factory="libra_guard.guards.granite_guardian:GraniteGuardian",
            judges=("prompt", "response"),
            languages=("en",),
            backends=_LOCAL_OR_SERVED,
            model=_NAMED,
            extra="hf",
            hub=("ibm-granite/granite-guardian-4.1-8b",),
            licence="Apache-2.0",
            size="8B",
        ),
        GuardEntry(
            name="duoguard",
            summary="DuoGuard: a small classifier with 12 categories; no Chinese among its languages",
            factory="libra_guard.guards.duoguard:DuoGuard",
            judges=("prompt", "response"),
            languages=("en", "fr", "es", "de"),
            backends=("transformers", "scripted"),
            model="a folder or hub name, its tokenizer with it",
            extra="hf",
            hub=(
                "DuoGuard/DuoGuard-0.5B",
                "DuoGuard/DuoGuard-1B-Llama-3.2-transfer",
                "DuoGuard/DuoGuard-1.5B-transfer",
            ),
            licence="Apache-2.0; 1B: Llama 3.2 Community License",
            size="0.5B, 1B, 1.5B",
        ),
    )
}

RESERVED = {
    "model": "a model is named behind the guard, as NAME:MODEL",
    "name": "the guard is named as NAME or NAME:MODEL",
    "backend": "it has an option of its own, --backend",
}
"""What looks like an option of a guard or backend, and where it is given instead."""


def load_guard(
    spec: str,
    /,
    *,
    backend: str | None = None,
    calibration: str | Path | bool | None = True,
    open_backend: Callable[..., Backend] | None = None,
    **options: Any,
) -> Guard:
    """Loads a guard.

    Args:
        spec: ``NAME`` or ``NAME:MODEL``.
        backend: Name of a backend the guard can run on; by default the entry's first.
        calibration: A file that ``libra calibrate`` wrote. True: ``calibration.json`` in the folder of the adapter or
            else of the model, where there is one and the guard gives scores. None or False: none.
        open_backend: Called in place of ``load_backend``, by callers who put something around a backend.
        **options: The guard's own options by name; all others go to the backend.

    Raises:
        TypeError: ``spec`` is no text.
        UsageError: An unknown guard, backend or option, an option of a wrong type or an impossible value, a model
            that is missing or not wanted, or a calibration of another guard or model.
        MissingExtraError: A library is missing.
        BackendError: The model cannot be loaded.
    """
    if not isinstance(spec, str):
        raise TypeError(f"a guard is named by a text, NAME or NAME:MODEL, not by a {type(spec).__name__}")
    name, _, model = spec.partition(":")
    entry = guard_entry(name)
    if not model and entry.bundled is None:
        raise UsageError(f"'{name}' needs a model: {name}:MODEL, where MODEL is {entry.model}")
    folder = model or str(files("libra_guard") / "assets" / str(entry.bundled))
    chosen = backend or entry.backends[0]
    if chosen not in entry.backends:
        raise UsageError(f"'{name}' runs on {', '.join(entry.backends)}, not on '{chosen}'")
    if not model and chosen not in entry.bundled_on:
        runs = ", ".join(entry.bundled_on)
        raise UsageError(f"the bundled '{name}' runs on {runs}; '{chosen}' needs a model of yours: {name}:MODEL")
    made = guard_class(name)
    own, further = option_names(made), option_names(backend_class(chosen))
    for option in options:
        if option in RESERVED:
            raise UsageError(f"'{option}' cannot be set as an option: {RESERVED[option]}")
        if option not in (*own, *further):
            known = [*own, "calibration"] if made.gives_scores else own
            raise unknown_option(option, {f"the guard '{name}'": known, f"the backend '{chosen}'": further})
    # The guard's first: a wrong one is told of before a model is loaded.
    taught = made.taught(folder)
    if options.get("adapter"):
        taught |= made.taught(str(options["adapter"]))
    asked = checked(made, taught | {k: v for k, v in options.items() if k in own})
    file = _calibration_file(calibration, options.get("adapter") or folder)
    scale = Calibration.read(file) if file else None
    runtime = (open_backend or load_backend)(chosen, folder, **{k: v for k, v in options.items() if k not in own})
    guard: Guard = made(runtime, **asked)
    if scale is None or (calibration is True and not guard.gives_scores):
        return guard
    try:
        return guard.calibrated(scale, keep_thresholds=options.get("threshold") is not None)
    except UsageError as error:
        fitting = "fit one with 'libra calibrate', or " if guard.gives_scores else ""
        raise UsageError(f"{file}: {error}; {fitting}leave it out with calibration=null") from None


def guard_class(name: str) -> Any:
    """The class of a guard, a subclass of ``Guard``; it takes a backend and its own options.

    Raises:
        UsageError: There is none of that name.
    """
    module, _, attribute = guard_entry(name).factory.partition(":")
    return getattr(importlib.import_module(module), attribute)


def guard_entry(name: str) -> GuardEntry:
    """The entry of a guard.

    Raises:
        UsageError: There is none; the message names the nearest.
    """
    if name in GUARDS:
        return GUARDS[name]
    near = difflib.get_close_matches(name, GUARDS, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise UsageError(f"no guard is called '{name}'; known are {', '.join(GUARDS)}{hint}")


def _calibration_file(asked: object, folder: object) -> Path | None:
    """The file to read; None where there is none to be read."""
    if asked is True:
        beside = Path(str(folder)).expanduser() / CALIBRATION
        return beside if beside.is_file() else None
    if asked is None or asked is False:
        return None
    if not isinstance(asked, str | Path):
        raise UsageError(f"calibration={asked}: write the name of a file, or null")
    return Path(asked).expanduser()
