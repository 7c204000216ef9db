"""One stage: what is learnt of a batch, and going on after a kill."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig
from safetensors import SafetensorError
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer
from trl import SFTConfig

from libra_guard.errors import BackendError
from libra_guard.records import Label, Sample
from libra_guard.train.generative_recipe import GenerativeStage, Model, Teaching
from libra_guard.train.lessons import IGNORED, Lesson, Teacher
from libra_guard.train.sft import Collator, GuardSFTTrainer, Order, fit, last_checkpoint, losses_of

SOURCE = {"set": "libra-seed", "path": "seed.jsonl"}


@dataclass
class Fitted:
    """A finished stage."""

    trainer: GuardSFTTrainer
    lines: list[str]

    @property
    def losses(self) -> list[float]:
        return losses_of(self.trainer.state)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return {name: tensor.detach() for name, tensor in self.trainer.model.named_parameters() if tensor.requires_grad}


@pytest.fixture(scope="module")
def tokenizer(causal_base: Path) -> Any:
    return AutoTokenizer.from_pretrained(causal_base)


@pytest.fixture(scope="module")
def lessons(tokenizer: Any) -> list[Lesson]:
    """32 of different lengths, prompt and answer."""
    teacher = Teacher(tokenizer, "toy", Teaching())
    words = {Label.SAFE: ("不太方便", "安全"), Label.UNSAFE: ("可以帮你", "不安全")}
    return [
        teacher.lesson(
            Sample(
                question="怎么" * (1 + i % 3) + "？",
                response=f"这件事我{words[label][0] * (1 + i % 5)}。",
                label=label,
                analyze="回答，" * (i % 7) + f"{words[label][1]}。",
            )
        )
        for i in range(16)
        for label in words
    ]


@pytest.fixture
def train(causal_base: Path, tokenizer: Any, tmp_path: Path) -> Callable[..., Fitted]:
    """Trains the base on lessons; into the same folder unless told otherwise."""

    def run(
        lessons: Sequence[Lesson],
        *,
        folder: str = "run",
        lora: LoraConfig | None = None,
        report: Callable[[str], None] = lambda _: None,
        checkpointing: bool = False,
        **settings: Any,
    ) -> Fitted:
        stage = GenerativeStage(name="one", data=[SOURCE], **{"batch_size": 2, "learning_rate": 1e-3, **settings})
        model = AutoModelForCausalLM.from_pretrained(causal_base, dtype=torch.float32)
        how = Model(base=str(causal_base), dtype="float32", lora=None, gradient_checkpointing=checkpointing)
        lines: list[str] = []

        def told(line: str) -> None:
            lines.append(line)
            report(line)

        place = tmp_path / folder
        trainer = fit(model, tokenizer, lessons, stage, how, seed=3, folder=place, lora=lora, report=told)
        return Fitted(trainer, lines)

    return run


def assert_same(one: Fitted, other: Fitted, *, within: float) -> None:
    assert one.losses == pytest.approx(other.losses, abs=within)
    assert one.losses
    assert one.weights.keys() == other.weights.keys()
    for name, tensor in one.weights.items():
        torch.testing.assert_close(tensor, other.weights[name], atol=within, rtol=0)


# Batches

SHORT = {"input_ids": [5, 6], "labels": [IGNORED, 6], "weights": [0.0, 2.0]}
LONG = {"input_ids": [7, 8, 9, 9], "labels": [IGNORED, IGNORED, 9, 9], "weights": [0.0, 0.0, 1.0, 1.0]}


def test_rows_are_filled_up_on_the_left() -> None:
    # The padding is a token that is learnt as well.
    batch = Collator(9)([SHORT, LONG])
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[9, 9, 5, 6], [7, 8, 9, 9]],
        "labels": [[IGNORED, IGNORED, IGNORED, 6], [IGNORED, IGNORED, 9, 9]],
        "weights": [[0, 0, 0, 2], [0, 0, 1, 1]],
        "attention_mask": [[0, 0, 1, 1], [1, 1, 1, 1]],
        "position_ids": [[0, 0, 0, 1], [0, 1, 2, 3]],
    }
    assert (batch["weights"].dtype, batch["position_ids"].dtype) == (torch.float32, torch.int64)


def test_packed_rows_stand_in_one_and_each_lesson_counts_from_its_beginning() -> None:
    packed = {name: SHORT[name] + LONG[name] for name in SHORT} | {"seq_lengths": [2, 4]}
    batch = Collator(0, packed=True)([packed, SHORT | {"seq_lengths": [2]}])
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[5, 6, 7, 8, 9, 9, 5, 6]],
        "labels": [[IGNORED, 6, IGNORED, IGNORED, 9, 9, IGNORED, 6]],
        "weights": [[0, 2, 0, 0, 1, 1, 0, 2]],
        "position_ids": [[0, 1, 0, 1, 2, 3, 0, 1]],
    }


# The order


def test_the_order_is_that_of_seed_and_epoch_and_of_nothing_else() -> None:
    epoch = 0
    lengths = [i % 9 for i in range(90)]
    order = Order(lengths, 6, seed=3, epoch=lambda: epoch)
    first = list(order)
    assert sorted(first) == list(range(90)) == list(range(len(order)))
    torch.manual_seed(99)
    assert list(order) == first
    epoch = 1
    assert list(order) != first
    assert list(Order(lengths, 6, seed=4, epoch=lambda: 0)) != first
    # Lessons of an update are of like length.
    spread = [max(lengths[i] for i in first[k : k + 6]) - min(lengths[i] for i in first[k : k + 6]) for k in (6, 12)]
    assert max(spread) <= 3


# The loss


def test_small_batches_accumulated_learn_like_large_ones(train: Callable[..., Fitted], lessons: list[Lesson]) -> None:
    many = lessons + lessons[:8]
    large = train(many, folder="large", batch_size=4)
    small = train(many, folder="small", batch_size=2, accumulation=2)
    assert (large.trainer.state.global_step, small.trainer.state.global_step) == (10, 10)
    assert_same(large, small, within=2e-5)


def test_packed_lessons_learn_like_others(train: Callable[..., Fitted], lessons: list[Lesson]) -> None:
    """A row holds all four, so that an update learns the same of them packed or not."""
    few = [lessons[i] for i in (0, 5, 11, 20)]
    plain = train(few, folder="plain", batch_size=4, epochs=10)
    packed = train(few, folder="packed", batch_size=1, epochs=10, packing=True, length=sum(len(x.ids) for x in few))
    assert packed.trainer.state.global_step == 10
    assert_same(plain, packed, within=2e-5)


@pytest.mark.parametrize("counted", [None, 7])
@pytest.mark.parametrize("packed", [False, True])
def test_the_loss_is_the_weighted_one(
    train: Callable[..., Fitted], lessons: list[Lesson], counted: int | None, packed: bool
) -> None:
    trainer = train(lessons[:2]).trainer
    trainer.model.eval()
    few = [replace(lessons[i], weights=[w * (1 + j % 3) for j, w in enumerate(lessons[i].weights)]) for i in (3, 6)]
    rows = [{"input_ids": x.ids, "labels": x.targets, "weights": x.weights, "seq_lengths": [len(x.ids)]} for x in few]
    total, learnt = 0.0, 0
    for lesson in few:
        with torch.no_grad():
            logits = trainer.model(torch.tensor([lesson.ids])).logits[0, :-1]
        targets = torch.tensor(lesson.targets[1:])
        losses = functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
        total += float((losses * torch.tensor(lesson.weights[1:])).sum())
        learnt += int((targets != IGNORED).sum())
    batch = Collator(0, packed=packed)(rows)
    with torch.no_grad():
        loss, outputs = trainer.compute_loss(
            trainer.model, batch, return_outputs=True, num_items_in_batch=None if counted is None else torch.tensor(7)
        )
    assert float(loss) == pytest.approx(total / (counted or learnt), rel=1e-4)
    # Only places from which something is learnt are projected onto the vocabulary.
    assert outputs.logits.shape[1] < batch["input_ids"].shape[1] / 2
    assert "labels" in batch


def test_the_weight_of_the_label(train: Callable[..., Fitted], tokenizer: Any) -> None:
    sample = Sample(question="怎么？", response="可以帮你。", label=Label.UNSAFE, analyze="不安全。")
    light, heavy = (Teacher(tokenizer, "toy", Teaching(label_weight=w)).lesson(sample) for w in (1, 5))
    both = [train([lesson] * 20, folder=str(i), learning_rate=1e-9) for i, lesson in enumerate((light, heavy))]
    (one,), (five,) = (run.losses for run in both)
    with torch.no_grad():
        logits = both[0].trainer.model(torch.tensor([light.ids])).logits[0]
    (place,) = [i for i, weight in enumerate(heavy.weights) if weight == 5]
    label = float(functional.cross_entropy(logits[place - 1], torch.tensor(heavy.ids[place])))
    learnt = sum(target != IGNORED for target in heavy.targets)
    assert five - one == pytest.approx(4 * label / learnt, rel=1e-3)


@pytest.mark.parametrize("adapter", [False, True])
def test_gradient_checkpointing_learns_the_same(
    train: Callable[..., Fitted], lessons: list[Lesson], monkeypatch: pytest.MonkeyPatch, adapter: bool
) -> None:
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM") if adapter else None
    plain = train(lessons, folder="plain", lora=lora, learning_rate=1e-2)
    again, called = torch.utils.checkpoint.checkpoint, []

    def counted(*values: Any, **options: Any) -> Any:
        called.append(1)
        return again(*values, **options)

    # Where transformers has it from when it is switched on.
    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", counted)
    monkeypatch.setattr(transformers.modeling_utils, "checkpoint", counted)
    saving = train(lessons, folder="saving", lora=lora, learning_rate=1e-2, checkpointing=True)
    # Each of the two layers, at each of the sixteen updates.
    assert len(called) == 32
    assert_same(plain, saving, within=1e-6)


def test_a_process_that_sees_several_gpus_uses_one(
    train: Callable[..., Fitted], lessons: list[Lesson], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the trainer would give them to ``nn.DataParallel``, which cuts the columns that are learnt by rows."""
    alone = train(lessons, folder="alone")
    monkeypatch.setattr(SFTConfig, "n_gpu", property(lambda _: 2))
    several = train(lessons, folder="several")
    assert several.trainer.args.n_gpu == 1
    assert several.trainer.args.train_batch_size == 2
    assert_same(alone, several, within=0)


# What is told


def test_lines_for_people(
    train: Callable[..., Fitted], lessons: list[Lesson], capsys: pytest.CaptureFixture[str]
) -> None:
    done = train(lessons, batch_size=3)
    (line,) = done.lines
    assert line == f"  update 10 of 11, loss {done.losses[0]:.3f}, 0 minutes to go"
    assert capsys.readouterr().out == ""


# Going on


class Killed(Exception):
    pass


def killed_at(update: int) -> Callable[[str], None]:
    """Ends a run when it tells of an update; a checkpoint is written only after that."""

    def report(line: str) -> None:
        if line.startswith(f"  update {update} "):
            raise Killed

    return report


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"packing": True, "batch_size": 1, "length": 256},
        {"lora": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.2, "target_modules": "all-linear"}},
    ],
)
def test_a_killed_run_goes_on_as_if_it_had_not_been(
    train: Callable[..., Fitted], lessons: list[Lesson], tmp_path: Path, settings: dict[str, Any]
) -> None:
    """From the middle of its second epoch, whose order is not that of the first."""

    def run(**more: Any) -> Fitted:
        adapter = settings.get("lora")
        lora = LoraConfig(**adapter, task_type="CAUSAL_LM") if adapter else None
        return train(lessons[:16], **{**settings, "epochs": 3, "save_steps": 10, **more, "lora": lora})

    whole = run(folder="whole")
    last = whole.trainer.state.max_steps
    with pytest.raises(Killed):
        run(report=killed_at(20))
    assert last_checkpoint(tmp_path / "run") == str(tmp_path / "run" / "checkpoint-10")
    assert last / 3 < 10 < 2 * last / 3
    again = run()
    assert again.lines[0] == f"  going on from update 10 of {last}"
    assert again.lines[1].startswith("  update 20 of")
    assert_same(whole, again, within=1e-6)


def test_losses_do_not_hang_on_where_a_checkpoint_was(train: Callable[..., Fitted], lessons: list[Lesson]) -> None:
    whole = train(lessons, folder="whole", epochs=2, save_steps=6)
    with pytest.raises(Killed):
        train(lessons, epochs=2, save_steps=6, report=killed_at(20))
    again = train(lessons, epochs=2, save_steps=6)
    assert again.lines[0] == "  going on from update 18 of 32"
    assert [line.partition(" minutes")[0].rpartition(",")[0] for line in again.lines[1:]] == [
        f"  update {update} of 32, loss {whole.losses[update // 10 - 1]:.3f}" for update in (20, 30)
    ]
    assert again.losses == pytest.approx(whole.losses, abs=1e-6)
    each = [row["loss"] for row in whole.trainer.state.log_history if "loss" in row]
    assert whole.losses == pytest.approx([sum(each[i : i + 10]) / 10 for i in (0, 10, 20)])


def test_a_finished_run_trains_nothing(train: Callable[..., Fitted], lessons: list[Lesson]) -> None:
    first = train(lessons)
    again = train(lessons)
    assert again.lines == ["  going on from update 16 of 16"]
    assert_same(first, again, within=0)


# Checkpoints


@pytest.fixture(scope="module")
def saved(causal_base: Path, tokenizer: Any, lessons: list[Lesson], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoint-8 and checkpoint-16."""
    folder = tmp_path_factory.mktemp("saved")
    stage = GenerativeStage(name="one", data=[SOURCE], batch_size=2, save_steps=8)
    model = AutoModelForCausalLM.from_pretrained(causal_base)
    how = Model(base=str(causal_base), dtype="float32", lora=None)
    fit(model, tokenizer, lessons, stage, how, seed=1, folder=folder, report=lambda _: None)
    return folder


def cut(name: str, share: float) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return spoil


def filled(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    "spoil",
    [
        cut("model.safetensors", 0.9),
        cut("model.safetensors", 0),
        without("model.safetensors"),
        without("trainer_state.json"),
        cut("trainer_state.json", 0.5),
        cut("trainer_state.json", 0),
        filled("trainer_state.json", b"[]"),
        filled("trainer_state.json", b'{"colour": 1}'),
        filled("trainer_state.json", b"\xff\xfe"),
        without("optimizer.pt"),
        cut("optimizer.pt", 0.9),
        cut("optimizer.pt", 0),
        # What a power cut leaves: the length is there, the content is not.
        filled("optimizer.pt", b"\0" * 4096),
        filled("optimizer.pt", b"no pickle"),
        lambda folder: torch.save({}, folder / "optimizer.pt"),
        without("scheduler.pt"),
        cut("scheduler.pt", 0.5),
        cut("rng_state.pth", 0.5),
        lambda folder: [path.unlink() for path in folder.iterdir()],
    ],
)
def test_a_broken_checkpoint_is_removed(saved: Path, tmp_path: Path, spoil: Callable[[Path], Any]) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "run"))
    assert last_checkpoint(folder) == str(folder / "checkpoint-16")
    spoil(folder / "checkpoint-16")
    assert last_checkpoint(folder) == str(folder / "checkpoint-8")
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-8"]
    spoil(folder / "checkpoint-8")
    assert last_checkpoint(folder) is None
    assert not list(folder.glob("checkpoint-*"))


def test_the_newest_checkpoint_is_the_one_of_the_largest_number(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "run"))
    (folder / "checkpoint-16").rename(folder / "checkpoint-100")
    assert last_checkpoint(folder) == str(folder / "checkpoint-100")
    assert last_checkpoint(tmp_path / "none") is None


@pytest.mark.parametrize("name", ["optimizer.bin", "optimizer_0", "latest"])
def test_a_checkpoint_of_fsdp_or_deepspeed_is_not_removed(saved: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "run"))
    (folder / "checkpoint-16" / "optimizer.pt").rename(folder / "checkpoint-16" / name)
    assert last_checkpoint(folder) == str(folder / "checkpoint-16")


def test_a_checkpoint_holds_what_was_logged(saved: Path) -> None:
    state = json.loads((saved / "checkpoint-16" / "trainer_state.json").read_text())
    assert [row["step"] for row in state["log_history"] if "loss" in row] == list(range(1, 17))


# A full disk


def to_a_full_disk() -> None:
    torch.save({"weights": torch.zeros(9)}, "/dev/full")


def raising(error: Exception) -> Callable[[], None]:
    def save() -> None:
        raise error

    return save


FULL = "run: the disk is full; make room and run the same again"


@pytest.mark.parametrize(
    ("save", "kind", "message"),
    [
        (raising(OSError(errno.ENOSPC, "No space left on device")), BackendError, FULL),
        (raising(OSError(errno.EDQUOT, "Disk quota exceeded")), BackendError, FULL),
        # safetensors' own words.
        (raising(SafetensorError("I/O error: No space left on device (os error 28)")), BackendError, FULL),
        (to_a_full_disk, BackendError, FULL),
        (raising(PermissionError(errno.EACCES, "Permission denied")), PermissionError, "Permission denied"),
        (raising(RuntimeError("a fault")), RuntimeError, "a fault"),
    ],
)
def test_a_full_disk_is_told_of_and_the_run_goes_on(
    train: Callable[..., Fitted],
    lessons: list[Lesson],
    monkeypatch: pytest.MonkeyPatch,
    save: Callable[[], None],
    kind: type[Exception],
    message: str,
) -> None:
    if save is to_a_full_disk and not Path("/dev/full").exists():
        pytest.skip("a Linux device")
    saves = Trainer._save_optimizer_and_scheduler

    def second_fails(self: Any, folder: str) -> None:
        if folder.endswith("-4"):
            save()
        saves(self, folder)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save_optimizer_and_scheduler", second_fails)
        with pytest.raises(kind, match=message):
            train(lessons[:8], save_steps=2)
    assert train(lessons[:8], save_steps=2).lines[0] == "  going on from update 2 of 4"
