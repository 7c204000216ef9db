"""``libra synth translate``: a data set's English rows into Chinese, questions and answers, checked on the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from libra_guard.cli.options import spare_inputs
from libra_guard.cli.synth import ConfigArgument, SetOption, bar_of_step, read_config
from libra_guard.errors import UsageError


def translate(
    config: ConfigArgument,
    name: Annotated[str, typer.Option("--name", help="A set of `libra data list`.")],
    source: Annotated[str, typer.Option("--from", help="Its file or folder, or hf://owner/name.")],
    out: Annotated[Path, typer.Option(help="A JSONL file; rejects and the store of calls stand beside it.")],
    store: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where calls are kept; by default OUT-STEM.calls.sqlite beside OUT."),
    ] = None,
    settings: SetOption = None,
) -> None:
    """Translate an English set with the writer of CONFIG; placeholders, code and addresses stay as they are.

    Of a set in two languages the Chinese rows stay too. Each text is translated back and compared with the original;
    what has become another text is a reject, and so is sexual talk of minors. Exits with 1 if there are any. Stopped
    and called again, it pays for nothing twice.
    """
    from libra_guard.data.registry import load_dataset_rows, load_importer
    from libra_guard.io import BadRow, dumps, write_atomic
    from libra_guard.predict.show import bars
    from libra_guard.synth.language.translate import translate as into_chinese
    from libra_guard.synth.seats.cast import Cast
    from libra_guard.synth.seats.store import CallStore
    from libra_guard.synth.steps.imports import not_translated
    from libra_guard.synth.work import Reject, pieces

    found = read_config(config, settings)
    seat = found.seats.writer
    if seat not in found.models:
        raise UsageError(f"{config}: no model sits as the writer to translate")
    if load_importer(name).info.language == "zh":
        raise UsageError(f"'{name}' is Chinese: there is nothing to translate")
    rejects_file, calls_file = (
        out.with_name(f"{out.stem}.rejects.jsonl"),
        store or out.with_name(f"{out.stem}.calls.sqlite"),
    )
    spare_inputs((out, rejects_file, calls_file), (source,))
    read = list(load_dataset_rows(name, source))
    rows = [row for row in read if not isinstance(row, BadRow)]
    rejects = [Reject(row.reason, row._asdict()) for row in read if isinstance(row, BadRow)]
    done = []
    with CallStore(calls_file) as calls, bars() as bar:
        cast = Cast(found, calls, config.parent)
        writer = cast.writer(seat)
        with bar_of_step(bar)("translate", len(rows)) as advance:
            for piece in pieces(rows):
                told, failed = into_chinese(piece, found.translate, writer)
                done += told
                rejects += [not_translated(name, row, failure) for row, failure in failed]
                advance(len(piece))
    rejects_file.unlink(missing_ok=True)
    if rejects:
        write_atomic(rejects_file, "".join(dumps(reject._asdict()) + "\n" for reject in rejects))
    write_atomic(out, "".join(dumps(row.model_dump(mode="json")) + "\n" for row in done))
    translated = sum("original" in (row.model_extra or {}) for row in done)
    kept = f", {len(done) - translated} Chinese already" if len(done) > translated else ""
    typer.echo(f"{name}: {translated} translated{kept}, {len(rejects)} rejects", err=True)
    if rejects:
        raise typer.Exit(1)
