"""Supervised fine-tuning of one stage: TRL's SFTTrainer, told which tokens count how much.

Only the answers' tokens are projected onto the vocabulary, which of a small model is most of the work.
"""

from __future__ import annotations

import dataclasses
import pickle
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import transformers
from accelerate import PartialState
from datasets import Dataset
from safetensors import SafetensorError, safe_open
from torch.nn import functional
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices
from trl import SFTConfig, SFTTrainer

from libra_guard.train.base_model import quiet_peft
from libra_guard.train.disk import full_disk
from libra_guard.train.generative_recipe import GenerativeStage, Model
from libra_guard.train.lessons import IGNORED, Lesson

Report = Callable[[str], None]
STATE = "trainer_state.json"
"""The file of a checkpoint that is written last."""
TOGETHER = 10
"""Updates whose mean loss is told."""
# What FSDP and DeepSpeed write in place of the optimiser's file, before the trainer's state.
_SHARDED = ("optimizer.bin", "optimizer_0", "latest")


# Newer versions of transformers have given it another name.
_NAMES = [field.name for field in dataclasses.fields(SFTConfig)]
_CHECKPOINTING = next(n for n in ("activation_checkpointing", "gradient_checkpointing") if n in _NAMES)


class Order(Sampler[int]):
    """The order of an epoch: lessons of like length together, drawn from the seed and the epoch alone.

    So a run that was cut off goes on with the lessons that it has not had yet, and any number of processes has the same
    ones in an update. The trainer's own order depends on what was drawn before.

    Args:
        lengths: Of the lessons.
        together: Lessons of an update.
        seed: Of the draw.
        epoch: Tells which epoch it is, from 0.
    """

    def __init__(self, lengths: Sequence[int], together: int, *, seed: int, epoch: Callable[[], int]) -> None:
        self._lengths, self._together, self._seed, self._epoch = list(lengths), together, seed, epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch())
        return iter(get_length_grouped_indices(self._lengths, self._together, generator=generator))


class OneDevice(SFTConfig):  # type: ignore[misc]
    """A process has one device, however many it sees: several are for as many processes (``accelerate launch``).

    The trainer would hand them to ``nn.DataParallel`` otherwise, which cuts tensors by rows, even a list of columns.
    """

    @property
    def n_gpu(self) -> int:
        """How many GPUs this process uses."""
        return min(1, int(super().n_gpu))


class GuardSFTTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer over lessons: weighted cross-entropy of the tokens that are learnt, divided by their number."""

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Order:
        lengths = [len(ids) for ids in (train_dataset or self.train_dataset)["input_ids"]]
        together = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return Order(lengths, together, seed=self.args.data_seed, epoch=lambda: int(self.state.epoch or 0))

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """See ``transformers.Trainer``; ``inputs`` are a ``Collator``'s."""
        inputs = dict(inputs)
        targets, weights = inputs.pop("labels")[:, 1:], inputs.pop("weights")[:, 1:]
        learnt = targets != IGNORED
        # Columns in which any row learns; rows end together, so there are few others.
        columns = learnt.any(0).nonzero().flatten()
        outputs = model(**inputs, use_cache=False, logits_to_keep=columns)
        losses = functional.cross_entropy(
            outputs.logits.float().flatten(0, 1), targets[:, columns].flatten(), ignore_index=IGNORED, reduction="none"
        )
        count = learnt.sum() if num_items_in_batch is None else num_items_in_batch
        loss = (losses * weights[:, columns].flatten()).sum() / torch.as_tensor(count).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            # The count is that of all processes, and gradients are averaged over them.
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss


def losses_of(state: transformers.TrainerState) -> list[float]:
    """The mean losses of ``TOGETHER`` updates each, over the whole stage, whatever checkpoint it went on from."""
    found = [float(row["loss"]) for row in state.log_history if "loss" in row]
    return [mean(found[end - TOGETHER : end]) for end in range(TOGETHER, len(found) + 1, TOGETHER)]


class Reporter(transformers.TrainerCallback):
    """Says how a stage goes on, in the project's own words and place; the trainer itself would print to stdout."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._began = (time.monotonic(), 0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A stage that goes on from a checkpoint says from where."""
        self._began = (time.monotonic(), state.global_step)
        if state.global_step:
            self._report(f"  going on from update {state.global_step} of {state.max_steps}")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """One line for each mean loss."""
        if "loss" in logs and state.global_step % TOGETHER == 0:
            since, step = self._began
            rate = (state.global_step - step) / (time.monotonic() - since)
            self._report(
                f"  update {state.global_step} of {state.max_steps}, loss {losses_of(state)[-1]:.3f}, "
                f"{(state.max_steps - state.global_step) / rate / 60:.0f} minutes to go"
            )


class Collator:
    """Lessons → tensors of shape ``(batch, length)``, filled up on the left so that answers end together.

    Args:
        pad: Token to fill up with. It is never learnt, even where it is the end-of-text token too.
        packed: The lessons of a row stand one after the other, each with positions of its own: shape ``(1, length)``.
    """

    def __init__(self, pad: int, *, packed: bool = False) -> None:
        self.pad = pad
        self.packed = packed

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """One batch."""
        if self.packed:
            joined = {name: [x for row in rows for x in row[name]] for name in ("input_ids", "labels", "weights")}
            positions = [i for row in rows for length in row["seq_lengths"] for i in range(length)]
            # Without an attention mask, the positions tell the model where a lesson begins.
            return {name: torch.tensor([row]) for name, row in {**joined, "position_ids": positions}.items()}
        width = max(len(row["input_ids"]) for row in rows)
        fills = {"input_ids": self.pad, "labels": IGNORED, "weights": 0.0}
        batch = {
            name: torch.tensor([[fill] * (width - len(row[name])) + list(row[name]) for row in rows])
            for name, fill in fills.items()
        }
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        places = torch.arange(width) - (width - lengths)[:, None]
        return {**batch, "attention_mask": (places >= 0).long(), "position_ids": places.clamp(min=0)}


def fit(
    model: Any,
    tokenizer: Any,
    lessons: Sequence[Lesson],
    stage: GenerativeStage,
    how: Model,
    *,
    seed: int,
    folder: Path,
    lora: Any = None,
    report: Report,
) -> GuardSFTTrainer:
    """Trains one stage, from the last good checkpoint in ``folder`` where there is one.

    Args:
        model: Of transformers or PEFT.
        tokenizer: Its own.
        lessons: What is learnt.
        stage: All settings filled in.
        how: Precision and memory.
        seed: Of the order and the dropout.
        folder: For checkpoints; what the trainer logged is in each one's ``trainer_state.json``.
        lora: A configuration of PEFT, where the model has no adapter yet.
        report: Called with lines for people.

    Returns:
        The trainer, its model trained.

    Raises:
        BackendError: The disk is full. The checkpoints that stand are good, so the run can go on from them.
    """
    rows = Dataset.from_list(
        [{"input_ids": lesson.ids, "labels": lesson.targets, "weights": lesson.weights} for lesson in lessons]
    )
    if stage.packing:
        from trl import pack_dataset

        rows = pack_dataset(rows, stage.length, "bfd")
    together = stage.batch_size * stage.accumulation * PartialState().num_processes
    arguments = OneDevice(
        output_dir=str(folder),
        num_train_epochs=stage.epochs,
        per_device_train_batch_size=stage.batch_size,
        gradient_accumulation_steps=stage.accumulation,
        learning_rate=stage.learning_rate,
        warmup_steps=int(stage.warmup * stage.epochs * -(-len(rows) // together)),
        weight_decay=stage.weight_decay,
        lr_scheduler_type="cosine",
        max_grad_norm=1.0,
        bf16=how.dtype == "bfloat16",
        seed=seed,
        data_seed=seed,
        save_steps=stage.save_steps,
        save_total_limit=2,
        # Each one's, so that what is told of ten does not hang on where a checkpoint was.
        logging_steps=1,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        use_cpu=not torch.cuda.is_available(),
        **{_CHECKPOINTING: how.gradient_checkpointing},
    )
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    with quiet_peft():
        trainer = GuardSFTTrainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            processing_class=tokenizer,
            data_collator=Collator(pad, packed=stage.packing),
            peft_config=lora,
            callbacks=[Reporter(report)],
        )
    trainer.remove_callback(transformers.PrinterCallback)
    with full_disk(folder):
        trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    return trainer


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that can be read whole; broken ones, of which a kill leaves one, are removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]), reverse=True)
    for path in found:
        if _whole(path):
            return str(path)
        shutil.rmtree(path, ignore_errors=True)
    return None


def check_weights(file: Path) -> None:
    """Opens a file of weights, which is refused where it is not as long as its head says.

    Raises:
        SafetensorError: It is not.
        OSError: It cannot be opened.
    """
    with safe_open(file, "pt") as tensors:
        tensors.keys()


def _whole(checkpoint: Path) -> bool:
    try:
        transformers.TrainerState.load_from_json(str(checkpoint / STATE))
        weights = list(checkpoint.glob("*.safetensors"))
        for file in weights:
            check_weights(file)
        torch.load(checkpoint / "scheduler.pt", weights_only=True)
        if any((checkpoint / name).exists() for name in _SHARDED):
            return True
        # Mapped, not read: of a large model it is larger than the memory.
        optimizer = torch.load(checkpoint / "optimizer.pt", weights_only=True, map_location="cpu", mmap=True)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError):
        return False
    chance = checkpoint.glob("rng_state*.pth")
    return bool(weights) and bool(optimizer) and all(map(zipfile.is_zipfile, chance))
