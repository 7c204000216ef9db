import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from libra_guard import Label, Target, Verdict, __version__
from libra_guard.policy.decide import Decision
from libra_guard.serve.metrics import OTHER, Metrics, several_workers

SAFE = Verdict(label=Label.SAFE, unsafe_score=0.01)
BROKEN = Verdict(label=None, valid=False)


def samples(metrics):
    """What was rendered: name and labels → value."""
    body, _ = metrics.render()
    families = text_string_to_metric_families(body.decode())
    return {(s.name, *sorted(s.labels.values())): s.value for family in families for s in family.samples}


def decision(action="pass", would="pass", **fields):
    fields = {"policy": "default", "mode": "enforce", "reason": "it says so", **fields}
    return Decision(action=action, would=would, **fields)


def scope(path=None, method="POST"):
    return {
        "type": "http",
        "method": method,
        "path": "/v1/guard",
        **({"route": SimpleNamespace(path=path)} if path else {}),
    }


def test_requests_are_counted_by_the_template_of_their_route():
    metrics = Metrics()
    metrics.request(scope("/v1/models/{name}"), 200, 0.02)
    metrics.request(scope("/v1/models/{name}"), 200, 0.3)
    found = samples(metrics)
    assert found["libra_requests_total", "/v1/models/{name}", "200", "POST"] == 2
    # Sorted by value: the bound is before the route.
    assert found["libra_request_seconds_bucket", "/v1/models/{name}", "0.025"] == 1
    assert found["libra_request_seconds_sum", "/v1/models/{name}"] == pytest.approx(0.32)


def test_what_users_make_up_gets_no_series_of_its_own():
    metrics = Metrics()
    for i in range(300):
        metrics.request({**scope(method=f"M{i}"), "path": f"/{i}"}, 404, 0.001)
    found = samples(metrics)
    assert found["libra_requests_total", "404", OTHER, OTHER] == 300
    assert sum(name == "libra_requests_total" for name, *_ in found) == 1


def test_no_label_grows_without_end():
    metrics = Metrics()
    for i in range(300):
        metrics.decided("mini", Target.PROMPT, SAFE, decision(policy=f"p{i}"))
    series = [value for (name, *_), value in samples(metrics).items() if name == "libra_decisions_total"]
    assert len(series) == 101
    assert sum(series) == 300


def test_a_decision_counts_its_scenarios_and_what_could_not_be_read():
    metrics = Metrics()
    metrics.decided("mini", Target.RESPONSE, SAFE, decision("pass", "block", scenarios=("Hate Speech", "Fraud")))
    metrics.decided("mini", Target.RESPONSE, SAFE, decision())
    metrics.decided("mini", Target.PROMPT, BROKEN, decision("block", "block"))
    found = samples(metrics)
    assert found["libra_decisions_total", "block", "default", "mini", "pass", "response"] == 1
    assert found["libra_decisions_total", "block", "block", "default", "mini", "prompt"] == 1
    assert found["libra_scenarios_total", "Hate Speech", "mini"] == found["libra_scenarios_total", "Fraud", "mini"] == 1
    assert found["libra_unreadable_total", "mini"] == 1


def test_each_helper_reaches_its_series():
    metrics = Metrics()
    metrics.rejected("queue_full")
    metrics.queued("mini", 7)
    metrics.judged("mini", 5, 0.2)
    metrics.first_text(0.3)
    metrics.window(0.04)
    metrics.first_hit(0.6)
    metrics.upstream(0.7)
    metrics.upstream_failed("timeout")
    metrics.policy_problems({"a": "broken", "b": "gone"})
    metrics.audit_failed()
    metrics.audit_lost(3)
    found = samples(metrics)
    wanted = {
        ("libra_rejected_total", "queue_full"): 1,
        ("libra_queue_depth", "mini"): 7,
        ("libra_batch_size_bucket", "4.0", "mini"): 0,
        ("libra_batch_size_bucket", "8.0", "mini"): 1,
        ("libra_guard_seconds_sum", "mini"): 0.2,
        ("libra_stream_first_text_seconds_sum",): 0.3,
        ("libra_stream_window_seconds_sum",): 0.04,
        ("libra_stream_first_hit_seconds_sum",): 0.6,
        ("libra_upstream_seconds_sum",): 0.7,
        ("libra_upstream_errors_total", "timeout"): 1,
        ("libra_policy_problems",): 2,
        ("libra_audit_errors_total",): 1,
        ("libra_audit_lost_total",): 3,
        ("libra_build_info", __version__): 1,
    }
    assert {key: found[key] for key in wanted} == wanted
    assert found["process_resident_memory_bytes",] > 1e6


def test_problems_that_are_mended_are_no_longer_shown():
    metrics = Metrics()
    metrics.policy_problems(["a"])
    metrics.policy_problems([])
    assert samples(metrics)["libra_policy_problems",] == 0


def test_two_applications_count_apart():
    one, other = Metrics(), Metrics()
    one.rejected("key")
    assert ("libra_rejected_total", "key") in samples(one)
    assert ("libra_rejected_total", "key") not in samples(other)


def test_every_name_keeps_to_the_conventions():
    body, kind = Metrics().render()
    assert kind.startswith("text/plain")
    families = list(text_string_to_metric_families(body.decode()))
    assert all(family.documentation.endswith(".") or family.name.startswith("process_") for family in families)
    for family in families:
        if family.type == "histogram" and family.name != "libra_batch_size":
            assert family.name.endswith("_seconds")


WORKER = """
import sys
from libra_guard.serve.metrics import Metrics
metrics = Metrics()
metrics.rejected("key")
metrics.queued("mini", 5)
metrics.policy_problems(["a"])
if sys.argv[1] == "hold":
    print("ready", flush=True)
    sys.stdin.read()
else:
    sys.stdout.write(metrics.render()[0].decode())
"""


def worker(what):
    return subprocess.Popen([sys.executable, "-c", WORKER, what], stdin=-1, stdout=-1, text=True)


def test_any_worker_answers_for_all_and_the_dead_wait_for_nothing():
    with several_workers():
        folder = os.environ["PROMETHEUS_MULTIPROC_DIR"]
        worker("end").communicate()
        with worker("hold") as alive:
            assert alive.stdout.readline() == "ready\n"
            rendered, _ = worker("end").communicate()
            alive.stdin.close()
    assert 'libra_rejected_total{reason="key"} 3.0' in rendered
    assert 'libra_queue_depth{guard="mini"} 10.0' in rendered
    assert "libra_policy_problems 1.0" in rendered
    assert f'libra_build_info{{version="{__version__}"}} 1.0' in rendered
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ
    assert not os.path.exists(folder)


def test_the_folder_goes_even_when_the_server_fails():
    with pytest.raises(RuntimeError), several_workers():
        raise RuntimeError
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ
