"""A short trainer: AdamW, linear warm-up and cosine, mixup, label smoothing, drop path; resumes where it was stopped.

A run lives in a folder:

- ``last.safetensors``: everything needed to go on, replaced after every epoch;
- ``warmup.safetensors``, ``model.safetensors``: the weights after the warm-up and at the end, for anyone to load;
- ``epoch-E.safetensors``: those after every epoch E that is to be kept, 0 for those at the start;
- ``history.json``, ``history.csv``: a row per epoch.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn
from tqdm import tqdm

from alternet.analysis.files import save_csv, save_json
from alternet.analysis.progress import progress_bar
from alternet.analysis.studies.settings import differences, plain
from alternet.analysis.training.batches import Batches, eval_batches, train_batches
from alternet.analysis.training.checkpoints import (
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from alternet.analysis.training.data import ImageData
from alternet.analysis.training.networks import Network, check_fit
from alternet.analysis.training.recipe import Recipe
from alternet.analysis.training.seeding import seeded

HISTORY_KIND = "alternet training history"
COLUMNS = "epoch learning_rate train_loss test_loss test_accuracy seconds"
LAST, WARM, FINAL = "last.safetensors", "warmup.safetensors", "model.safetensors"


def train(
    network: Network,
    data: ImageData,
    recipe: Recipe,
    folder: str | os.PathLike[str],
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    keep_epochs: Collection[int] = (),
) -> nn.Module:
    """Train ``network`` on ``data``, or take its training up again; the trained model, in eval mode.

    An interrupted run loses the epoch it was in at most, and ends with the weights of one that was never stopped
    (all randomness derives from ``seed`` and the epoch). A finished run is only loaded. Weight decay spares what is
    one-dimensional, and what the model names in ``no_weight_decay``. The weights after each of ``keep_epochs`` (0 to
    the recipe's) stay in a file of their own, ``kept_file(epoch)``.

    Raises:
        ValueError: ``folder`` holds a run with other settings, files that cannot be read, or a run that is past one of
            ``keep_epochs`` and did not keep it; an epoch out of range; see also ``train_batches``, ``Network.build``
            and ``check_fit``.
        FloatingPointError: the loss became NaN or infinite.
    """
    outside = [epoch for epoch in keep_epochs if not 0 <= epoch <= recipe.epochs]
    if outside:
        raise ValueError(f"keep_epochs: got {outside[0]}, expected 0 to {recipe.epochs}")
    run = _Run(network, data, recipe, Path(folder), seed, torch.device(device), frozenset(keep_epochs))
    run.restore()
    if run.epoch < recipe.epochs:
        with progress_bar(f"train {network.name}", recipe.epochs * run.updates, done=run.epoch * run.updates) as bar:
            while run.epoch < recipe.epochs:
                run.train_epoch(bar)
                run.save()
    return run.model.eval()


def kept_file(epoch: int) -> str:
    """The name of the file with the weights after ``epoch``."""
    return f"epoch-{epoch}.safetensors"


def evaluate(model: nn.Module, batches: Batches) -> tuple[float, float]:
    """Mean negative log-likelihood (natural logarithm) and accuracy over ``batches`` with targets int64 [B]."""
    model.eval()
    nll, correct, count = 0.0, 0, 0
    with torch.inference_mode():
        for images, targets in batches:
            logits = model(images)
            nll += nn.functional.cross_entropy(logits, targets, reduction="sum").item()
            correct += int((logits.argmax(1) == targets).sum())
            count += len(targets)
    return nll / count, correct / count


class _Run:
    """The state of a training run: model, optimizer, learning rate, history."""

    def __init__(
        self,
        network: Network,
        data: ImageData,
        recipe: Recipe,
        folder: Path,
        seed: int,
        device: torch.device,
        keep_epochs: frozenset[int],
    ) -> None:
        self.data, self.recipe, self.folder, self.seed, self.device = data, recipe, folder, seed, device
        self.keep_epochs = keep_epochs
        self.settings = plain(
            {
                "network": network.summary(),
                "recipe": dataclasses.asdict(recipe),
                "data": data.summary(),
                "seed": seed,
            }
        )
        self.model = network.build(seed=seed, drop_path_rate=recipe.drop_path).to(device)
        check_fit(self.model, data)
        self.updates = len(train_batches(data, recipe, seed=seed, epoch=0))  # per epoch
        self.optimizer = create_optimizer_v2(
            self.model, opt="adamw", lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        warmup = recipe.warmup_epochs * self.updates
        self.schedule = CosineLRScheduler(
            self.optimizer,
            t_initial=(recipe.epochs - recipe.warmup_epochs) * self.updates,
            warmup_t=warmup,
            warmup_lr_init=recipe.learning_rate / max(warmup, 1),
            warmup_prefix=True,
            t_in_epochs=False,
        )
        self.loss = SoftTargetCrossEntropy()
        self.history: list[dict[str, Any]] = []

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    def train_epoch(self, bar: tqdm) -> None:
        start, total = time.perf_counter(), 0.0
        batches = train_batches(self.data, self.recipe, seed=self.seed, epoch=self.epoch, device=self.device)
        self.model.train()
        with seeded(self.seed, "drop path", self.epoch, device=self.device):
            for number, (images, targets) in enumerate(batches):
                self.schedule.step_update(self.epoch * self.updates + number)
                value = self.loss(self.model(images), targets)
                self.optimizer.zero_grad()
                value.backward()
                nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
                self.optimizer.step()
                total += self._finite(value.item())
                bar.set_postfix(epoch=self.epoch + 1, loss=f"{total / (number + 1):.3f}", refresh=False)
                bar.update()
        test_loss, accuracy = evaluate(self.model, eval_batches(self.data, device=self.device))
        row = (
            self.epoch + 1,
            self.optimizer.param_groups[0]["lr"],
            total / self.updates,
            self._finite(test_loss),
            accuracy,
            time.perf_counter() - start,
        )
        self.history.append(dict(zip(COLUMNS.split(), row, strict=True)))
        bar.set_postfix(epoch=self.epoch, loss=f"{row[2]:.3f}", test_accuracy=f"{accuracy:.1%}")

    def save(self) -> None:
        """Write the files; ``last.safetensors`` at the end, which is what ``restore`` goes by."""
        self.keep()
        weights = self.model.state_dict()
        state = {**self.settings, "epoch": self.epoch}
        save_json(self.folder / "history.json", HISTORY_KIND, {**state, "rows": self.history})
        save_csv(self.folder / "history.csv", COLUMNS, ([*row.values()] for row in self.history))
        tensors, rest = optimizer_tensors(self.optimizer)
        named = {f"model.{name}": tensor for name, tensor in weights.items()}
        named |= {f"optimizer.{name}": tensor for name, tensor in tensors.items()}
        save_checkpoint(self.folder / LAST, named, {**state, "optimizer": rest, "history": self.history})

    def keep(self) -> None:
        """Write the files of weights alone that are due after this epoch."""
        due = {FINAL: self.recipe.epochs, **{kept_file(epoch): epoch for epoch in self.keep_epochs}}
        if self.recipe.warmup_epochs:
            due[WARM] = self.recipe.warmup_epochs
        for name, epoch in due.items():
            if epoch == self.epoch:
                save_checkpoint(self.folder / name, self.model.state_dict(), {**self.settings, "epoch": epoch})

    def restore(self) -> None:
        """Go back to the last epoch's end, or start where there is none."""
        path = self.folder / LAST
        if not path.exists():
            self.keep()
            return
        tensors, state = load_checkpoint(path)
        changes = differences({what: state.get(what) for what in self.settings}, self.settings)
        if changes:
            raise ValueError(f"{path} belongs to a training with other settings: {'; '.join(changes)}")
        parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, rest = name.split(".", 1)
            parts[part][rest] = tensor
        self.model.load_state_dict(parts["model"])
        restore_optimizer(self.optimizer, parts["optimizer"], state["optimizer"])
        self.history = state["history"]
        lost = sorted(
            epoch for epoch in self.keep_epochs if epoch <= self.epoch and not (self.folder / kept_file(epoch)).exists()
        )
        if lost:
            raise ValueError(
                f"keep_epochs: {self.folder} is past epoch {lost[0]} and did not keep it; train in a new folder"
            )

    def _finite(self, loss: float) -> float:
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss became {loss} in epoch {self.epoch + 1}; a learning rate below "
                f"{self.recipe.learning_rate} may help"
            )
        return loss
