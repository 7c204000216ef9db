"""The bundled guard on GuardBench, over libra-mini as a data set of one's own.

pip install guardbench
python examples/guardbench_mini.py

GuardBench keeps data sets in the folder that GUARDBENCH_DEV_PATH names, and scores in results/.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from guardbench import CustomDataset, benchmark

from libra_guard import Label, load_guard
from libra_guard.evaluate.guardbench import moderate

NAME = "libra_mini"


def main() -> None:
    samples = json.loads(Path(__file__).with_name("libra-mini.json").read_text(encoding="utf-8"))
    rows = [
        {
            "id": sample["id"],
            "label": sample["label"] == Label.UNSAFE,
            "conversation": [
                {"role": "user", "content": sample["question"]},
                {"role": "assistant", "content": sample["response"]},
            ],
        }
        for sample in samples
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        CustomDataset(NAME).load_data(path)
    benchmark(
        moderate=moderate(load_guard("mini")),
        model_name="mini",
        batch_size=32,
        datasets=[NAME],
        metrics=["precision", "recall", "f1", "auprc"],
    )


if __name__ == "__main__":
    main()
