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
# # Choosing a backbone
#
# `tl_jax.rank` orders pretrained networks for a data set by their frozen features. Nothing is
# fine-tuned: each network reads the images once.

# %%
from pathlib import Path

from IPython.display import Image

import tl_jax

# %% [markdown]
# The candidates: two sizes of image, a deeper network, and earlier stages of the first one, which cost
# less. A stage is named `NAME:stageK`, the side of the images `NAME@SIZE`.

# %%
data = tl_jax.Config(data=tl_jax.DataConfig("elpv", image_size=96, shots=100))
lite0 = "tf_efficientnet_lite0"
candidates = [lite0, f"{lite0}@64", f"{lite0}:stage3", f"{lite0}:stage2", "tf_efficientnet_lite1"]
scores = ["linear_probe", "knn", "logme", "h_score"]

# %%
found = tl_jax.rank(
    data, candidates, scores=scores, to="runs/ranking", cache_dir="runs/features", timing=False
)

# %%
print(Path("runs/ranking/ranking.txt").read_text())

# %%
Image("runs/ranking/ranking.png", width=800)

# %% [markdown]
# The first two by each score. The probe and k-NN, which are accuracies on held-out images, take Lite0 at 96
# pixels; LogME prefers an early stage and H-score smaller images. Where scores disagree, fine-tune the first of each.

# %%
{score: order[:2] for score, order in found["order"].items()}
