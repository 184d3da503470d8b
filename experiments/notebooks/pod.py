# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A pod on one machine
#
# Eight virtual devices of a CPU stand for the eight chips of a pod slice: the same program, the same
# shardings, the same collectives. They share two cores, so this shows what is computed, not how fast.

# %%
import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"  # Before JAX is imported.

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import matplotlib.pyplot as plt

import tl_jax
from tl_jax.run import journal

jax.devices()

# %% [markdown]
# Three ways to divide a step: over all devices; with parameters and optimizer state divided over four
# of them too (FSDP); and with each batch in two slices.

# %%
start = tl_jax.Config(
    model=tl_jax.ModelConfig("simple_cnn", weights="random"),
    data=tl_jax.DataConfig("digits", image_size=32, batch_size=64, shots=100),
    augment=tl_jax.AugmentConfig(scale=(0.8, 1.0), horizontal_flip=False),
    optim=tl_jax.OptimConfig(name="sgd", learning_rate=5e-3, head_learning_rate=None),
    train=tl_jax.TrainConfig(epochs=2, log_every=1),
)
ways = {
    "8 devices": tl_jax.ParallelConfig(),
    "fsdp": tl_jax.ParallelConfig(fsdp=4),
    "slices": tl_jax.ParallelConfig(accumulate=2),
}

# %%
# %%capture
for way, parallel in ways.items():
    tl_jax.fit(dataclasses.replace(start, parallel=parallel), f"runs/pod/{way}")

# %% [markdown]
# The same on one device, which needs a process of its own: the number of devices is fixed when JAX
# starts. The configuration comes from the first run's folder. A program for eight devices uses XLA's convolutions,
# so oneDNN's are switched off here.

# %%
program = "import tl_jax; run = tl_jax.load_run('runs/pod/8 devices'); "
program += "tl_jax.fit(run.config, 'runs/pod/1 device')"
environment = {**os.environ, "XLA_FLAGS": "", "TL_JAX_ONEDNN": "off"}
done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
done.check_returncode()

# %% [markdown]
# The loss of every step. Sums are added up in other orders, so the last digits may differ.

# %%
losses = {
    way: [record["loss"] for record in journal.read(Path("runs/pod") / way)
          if record["split"] == "train"]
    for way in ("1 device", *ways)
}  # fmt: skip
for way, found in losses.items():
    difference = max(abs(a - b) for a, b in zip(found, losses["1 device"], strict=True))
    print(f"{way:10} last loss {found[-1]:.6f}, largest difference {difference:.1e}")

# %%
plt.figure(figsize=(6, 3))
for width, (way, found) in zip((8, 5, 3, 1), losses.items(), strict=True):
    plt.plot(range(1, len(found) + 1), found, label=way, linewidth=width)
plt.xlabel("step")
plt.ylabel("training loss")
plt.legend()
plt.grid(alpha=0.3)

# %% [markdown]
# The four curves lie on one another. On a pod each host runs the same program with `--distributed`: `docs/scaling.md` has the commands.
