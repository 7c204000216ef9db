"""Builders of rows and files."""

import json
from pathlib import Path

import pytest

from libra_guard.evaluate.predictions import Key, Labelled, Matched, Prediction
from libra_guard.records import Label


@pytest.fixture(scope="session")
def published():
    return json.loads((Path(__file__).parent / "published.json").read_text("utf-8"))


@pytest.fixture(scope="session")
def matched():
    """Rows of (label, predicted label or None, score or None) as what the metrics take."""

    def build(rows, source="Real Data", scenario="Privacy and Property"):
        found = []
        for number, (label, predicted, score) in enumerate(rows):
            key = Key(str(number), None)
            prediction = Prediction(key, None if predicted is None else Label(predicted), score)
            found.append(Matched(Labelled(key, source, scenario, label == "不安全"), prediction))
        return found

    return build


@pytest.fixture
def write(tmp_path):
    """Writes rows as a JSON list (.json) or one a line, or a text as it is, and returns the path."""

    def build(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content, "utf-8")
        elif path.suffix == ".json":
            path.write_text(json.dumps(content, ensure_ascii=False), "utf-8")
        else:
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content), "utf-8")
        return path

    return build
