"""What a configuration says, trained by timm and torch: the opponent of the study of defaults.

    python -m experiments.defaults_torch CONFIG.json --row ROW.json [--core N] [--zero-head]

It is the loop of a usual fine-tuning script. `timm.create_model`, the same file of weights,
`reset_classifier`; timm's own transforms for training (random crop, flip, colour jitter) and for
evaluation; channels_last; AdamW or SGD with momentum over timm's parameter groups (no decay of
biases and norms), a linear warm-up and a cosine schedule, label smoothing. The pictures, their
order, the number of steps, the image size and the choice of the epoch by validation are those of
tl_jax. It also knows phases, a rate of the head and the policies of BatchNorm, so that the search
for defaults can be made here too: torch compiles nothing and takes half of JAX's time on a CPU.
"""

import argparse
import copy
import functools
import json
import math
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from experiments.torch_peer import import_timm
from tl_jax import config as configuration
from tl_jax.config import Config, PhaseConfig
from tl_jax.data.loading.order import Stream, Uniform
from tl_jax.data.sources.open import open_source
from tl_jax.models.pretrained import load_pretrained
from tl_jax.objectives import metrics
from tl_jax.run.phases import phase_configs
from tl_jax.weights.index import pretrained_config
from tl_jax.weights.state_dict import to_state_dict

timm = import_timm()
from timm.data import create_transform  # noqa: E402  (after the schemas that it needs)
from timm.optim import param_groups_weight_decay  # noqa: E402

_EVAL_BATCH = 128


class Data:
    """The pictures of a configuration, as batches for torch."""

    def __init__(self, config: Config) -> None:
        """Reads the splits and makes the transforms."""
        data, augment = config.data, config.augment
        names = {"train": data.train_split, "eval": data.eval_split, "test": data.test_split}
        sources = {name: open_source(data.source, split) for name, split in names.items() if split}
        self.class_names = sources["train"].class_names
        self.labels = {name: source.labels() for name, source in sources.items()}
        self._images = {
            name: [Image.fromarray(example["image"]) for example in source]
            for name, source in sources.items()
        }
        weights = pretrained_config(config.model.name)
        shared = {"input_size": data.image_size, "mean": weights.mean, "std": weights.std}
        self._evaluate = create_transform(
            **shared, interpolation="bicubic", crop_pct=weights.crop_pct
        )
        self._augment = create_transform(
            **shared,
            is_training=True,
            scale=augment.scale,
            ratio=augment.ratio,
            hflip=0.5 * augment.horizontal_flip,
            vflip=0.5 * augment.vertical_flip,
            color_jitter=augment.brightness or None,
            interpolation="bicubic",
        )
        self.batch_size = data.batch_size
        self.steps_per_epoch = max(1, round(len(self.labels["train"]) / data.batch_size))
        self._stream = Stream(Uniform(len(self.labels["train"]), config.train.seed))

    def epoch(self, number: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yields the augmented batches of an epoch, from 0."""
        size = self.batch_size
        for step in range(number * self.steps_per_epoch, (number + 1) * self.steps_per_epoch):
            indices = self._stream[range(step * size, (step + 1) * size)]
            images = [self._augment(self._images["train"][i]) for i in indices]
            yield _stack(images), torch.as_tensor(self.labels["train"][indices]).long()

    def evaluation(self, split: str) -> Iterator[torch.Tensor]:
        """Yields all pictures of a split, prepared for evaluation."""
        images = self._images[split]
        for start in range(0, len(images), _EVAL_BATCH):
            yield _stack([self._evaluate(each) for each in images[start : start + _EVAL_BATCH]])


def _stack(images: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(images).to(memory_format=torch.channels_last)


def measured_run(config: Config, *, zero_head: bool) -> dict[str, Any]:
    """Trains as configured; returns the metrics of the best epoch by validation.

    Args:
      config: the experiment. Its network, data, crop, flips, brightness (timm's colour jitter),
        optimizer, cosine schedule, epochs or phases, BatchNorm policy, smoothing and seed are used.
      zero_head: whether the new classifier starts at zero, as in tl_jax, or as timm draws it.
    """
    start = time.monotonic()
    torch.manual_seed(config.train.seed)
    random.seed(config.train.seed)  # Of timm's transforms.
    data = Data(config)
    network = _network(config, len(data.class_names), zero_head=zero_head)
    if config.transfer.recalibrate == "before":
        _recalibrate(network, data)
    optimizer = _optimizer(config, network)
    history: list[dict[str, Any]] = []
    losses: list[float] = []
    best: dict[str, Any] = {}
    for phase in phase_configs(config):
        _select(network, config, phase)
        steps = phase.epochs * data.steps_per_epoch
        for epoch in range(phase.epochs):
            for step, (images, labels) in enumerate(data.epoch(len(history))):
                done = epoch * data.steps_per_epoch + step
                _set_rates(optimizer, config, phase, done, steps, data.steps_per_epoch)
                losses.append(_train_step(network, optimizer, images, labels, config))
            judged = _judged(network, config, data)
            found = _evaluate(judged, data, "eval")
            history.append(found | {"train_loss": float(np.mean(losses[-data.steps_per_epoch :]))})
            # The first of equal epochs, as in tl_jax.
            if not best or found["accuracy"] > best["validation"]["accuracy"]:
                test = _evaluate(judged, data, "test")
                best = {"epoch": len(history), "validation": found, "test": test}
            _select(network, config, phase)
    return {
        "validation": best["validation"],
        "test": best["test"],
        "best_epoch": best["epoch"],
        "history": history,
        "seconds_in_all": time.monotonic() - start,
        "platform": "torch",
    }


def _network(config: Config, num_classes: int, *, zero_head: bool) -> torch.nn.Module:
    network = timm.create_model(config.model.name, drop_rate=config.model.head_dropout)
    network.load_state_dict(_pretrained(config.model.name), strict=True)
    network.reset_classifier(num_classes)
    if zero_head:
        for parameter in network.get_classifier().parameters():
            torch.nn.init.zeros_(parameter)
    return network.to(memory_format=torch.channels_last)


@functools.cache
def _pretrained(name: str) -> dict[str, torch.Tensor]:
    """Returns the weights that tl_jax starts from, by timm's names."""
    _, variables = load_pretrained(name, weights="package", verbose=False)
    return {
        key: torch.as_tensor(np.array(value)) for key, value in to_state_dict(variables).items()
    }


def _optimizer(config: Config, network: torch.nn.Module) -> torch.optim.Optimizer:
    """Returns the optimizer; each of its groups has its "peak", and is the head's or not."""
    options = config.optim
    head = {id(parameter) for parameter in network.get_classifier().parameters()}
    groups = []
    for group in param_groups_weight_decay(network, options.weight_decay):
        for is_head in (False, True):
            chosen = [p for p in group["params"] if (id(p) in head) == is_head]
            groups.append(
                {"params": chosen, "weight_decay": group["weight_decay"], "is_head": is_head}
            )
    if options.name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=options.momentum, nesterov=True)
    return torch.optim.AdamW(groups, lr=0.0)


def _set_rates(
    optimizer: torch.optim.Optimizer,
    config: Config,
    phase: PhaseConfig,
    step: int,
    steps: int,
    steps_per_epoch: int,
) -> None:
    """Sets the rates of a step of a phase: a linear warm-up, then cosine to zero."""
    options = config.optim
    warmup = options.warmup_epochs if phase.warmup_epochs is None else phase.warmup_epochs
    warmup_steps = min(round(warmup * steps_per_epoch), steps - 1)
    if step < warmup_steps:
        factor = (step + 1) / warmup_steps
    else:
        factor = 0.5 + 0.5 * math.cos(math.pi * (step - warmup_steps) / (steps - warmup_steps))
    base = phase.learning_rate or options.learning_rate
    head = phase.head_learning_rate or phase.learning_rate or options.head_learning_rate or base
    for group in optimizer.param_groups:
        group["lr"] = factor * (head if group["is_head"] else base)


def _select(network: torch.nn.Module, config: Config, phase: PhaseConfig) -> None:
    """Prepares the network for a phase: what is trained, and which mode BatchNorm is in."""
    policy = config.transfer.batch_norm
    only_head = phase.trained == "head"
    head = {id(parameter) for parameter in network.get_classifier().parameters()}
    for parameter in network.parameters():
        parameter.requires_grad_(not only_head or id(parameter) in head)
        if not parameter.requires_grad:
            parameter.grad = None
    network.train()
    for module in _batch_norms(network):
        module.train(not only_head and policy == "update")
        if policy == "frozen":
            module.requires_grad_(requires_grad=False)


def _batch_norms(network: torch.nn.Module) -> list[torch.nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]


def _train_step(
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    labels: torch.Tensor,
    config: Config,
) -> float:
    logits = network(images)
    smoothing = config.train.label_smoothing
    loss = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    optimizer.zero_grad()
    loss.backward()
    if config.optim.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.optim.clip_norm)
    optimizer.step()
    return loss.item()


def _judged(network: torch.nn.Module, config: Config, data: Data) -> torch.nn.Module:
    """Returns the network to evaluate: with statistics estimated anew where that is configured."""
    if config.transfer.batch_norm != "recalibrate" or config.transfer.recalibrate != "after":
        return network
    network = copy.deepcopy(network)
    _recalibrate(network, data)
    return network


def _recalibrate(network: torch.nn.Module, data: Data) -> None:
    """Replaces the running statistics by those of one pass of the training pictures."""
    network.eval()
    momenta = [module.momentum for module in _batch_norms(network)]
    for module in _batch_norms(network):
        module.reset_running_stats()
        module.momentum = None  # A cumulative average.
        module.train()
    with torch.no_grad():
        for images in data.evaluation("train"):
            network(images)
    for module, momentum in zip(_batch_norms(network), momenta, strict=True):
        module.momentum = momentum


def _evaluate(network: torch.nn.Module, data: Data, split: str) -> dict[str, Any]:
    network.eval()
    with torch.inference_mode():
        logits = torch.cat([network(images) for images in data.evaluation(split)])
        labels = torch.as_tensor(data.labels[split]).long()
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
    confusion = np.zeros((len(data.class_names),) * 2, np.int64)
    np.add.at(confusion, (labels.numpy(), logits.argmax(1).numpy()), 1)
    found = metrics.summarize(confusion, loss)
    return {name: found[name] for name in ("accuracy", "balanced_accuracy", "loss", "count")}


def main() -> None:
    """Trains once and writes the row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--row", type=Path, required=True)
    parser.add_argument("--core", type=int)
    parser.add_argument("--zero-head", action="store_true")
    arguments = parser.parse_args()
    if arguments.core is not None:
        os.sched_setaffinity(0, {arguments.core})
    torch.set_num_threads(1)
    config = configuration.from_json(arguments.config.read_text())
    row = measured_run(config, zero_head=arguments.zero_head)
    arguments.row.write_text(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
