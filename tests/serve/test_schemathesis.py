"""What the OpenAPI document says is what the server does; and what it forbids is refused, with an error that fits."""

import json
import urllib.request

import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

REFUSALS = ["400", "401", "404", "405", "413", "415"]
CHECKS = {
    # That there is a text to judge, and which fields go together, no schema can say.
    "positive_data_acceptance": {"enabled": False},
    "negative_data_rejection": {"expected-statuses": REFUSALS},
}


def reply(asked):
    """An upstream that answers what it is asked, in few words."""
    if asked.get("stream") is True:
        return 200, {"content-type": "text/event-stream"}, "data: [DONE]\n\n"
    message = {"role": "assistant", "content": "水温八十度。"}
    return 200, {}, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


def without_large_lists(node):
    """The document without its limits of thousands: lists that are just too long take a minute to be made."""
    if isinstance(node, list):
        return [without_large_lists(one) for one in node]
    if not isinstance(node, dict):
        return node
    return {k: without_large_lists(v) for k, v in node.items() if k != "maxItems" or not isinstance(v, int) or v < 1000}


def found(url, document, examples):
    """What all phases find, edge cases of each field, chance and sequences of requests; and the number of requests.

    Models are passed through from the upstream, which has none here.
    """
    generation = {"deterministic": True, "max-examples": examples, "database": "none"}
    told = {"seed": 1, "base-url": url, "generation": generation, "checks": CHECKS}
    schema = schemathesis.openapi.from_dict(document, config=SchemathesisConfig.from_dict(told))
    count, faults = 0, []
    for event in from_schema(schema.exclude(path_regex="^/v1/models")).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            faults.append(event)
        elif isinstance(event, events.ScenarioFinished):
            count += len(event.recorder.interactions)
            checks = [check for some in event.recorder.checks.values() for check in some]
            faults += [(c.name, *fault(c.failure_info)) for c in checks if c.failure_info is not None]
    return count, faults


def fault(info):
    return str(info.failure), info.code_sample


@pytest.fixture
def url(live, server):
    server.reply = reply
    return live(upstream=f"{server.url}/v1").url


@pytest.fixture
def document(url):
    with urllib.request.urlopen(f"{url}/openapi.json") as answer:
        return json.load(answer)


def test_the_document_is_kept(url, document):
    count, faults = found(url, without_large_lists(document), examples=10)
    assert faults == []
    assert count > 300


@pytest.mark.slow
def test_the_document_is_kept_in_thousands_of_requests(url, document):
    count, faults = found(url, document, examples=300)
    assert faults == []
    assert count > 1000
